import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from torchmetrics import Metric

import lightning_effcx
from lightning_effcx import metrics

ROOT = Path(lightning_effcx.__file__).parent
# Lowest first; imports point down. What stands in one line is one floor.
FLOORS = [
    {"tags", "figures", "reading", "options"},
    {
        "shards",
        "states",
        "contents",
        "codes",
        "ownership",
        "standins",
        "reach",
        "lending",
        "keeping",
        "observe",
        "structures",
        "samples",
        "arguments",
        "inseparable",
        "targets",
        "calls",
        "recorder",
        "inputs",
        "views",
        "embeddings",
        "outputs",
        "announcement",
        "capture",
        "operations",
        "refusals",
        "beside",
        "followed",
        "lineage",
        "batches",
        "sites",
        "follow",
        "units",
        "curves",
        "tangents",
        "greedy",
        "broken_lines",
        "layers",
        "substitution",
        "amplification",
        "own",
        "decisions",
        "draws",
        "paths",
        "rows",
        "envelope",
        "rewrites",
        "passes",
        "affine",
        "engine",
        "cutting",
        "pieces",
    },
    {"metrics.base"},
    {"metrics.*"},
    {"metrics", "functional"},
    {"regularizers"},
    {"callbacks", "callbacks.*"},
    {"studies", "studies.*"},
]
ANNEX = {"tags", "figures", "reading", "compare", "compare.*"}
ROOF = {"cli", "cli.*"}  # above all, which it imports when it is asked to; nothing imports it
HEAVY = {"torch", "torchmetrics", "pytorch_lightning", "lightning", "numpy"}
FILES = sorted(ROOT.rglob("*.py"))


def name_of(file: Path) -> str:
    """A file's dotted name within the package; empty for the package itself."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file): file for file in FILES}


def imports(file: Path) -> set[str]:
    """Everything that a file imports, also inside of functions: modules by their whole names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports by position, not by name"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                is_ours = whole.removeprefix("lightning_effcx.") in MODULES
                found.add(whole if is_ours else str(node.module))
    return found


def ours(file: Path) -> set[str]:
    """The names within the package of what a file imports from it."""
    return {
        name.removeprefix("lightning_effcx").removeprefix(".")
        for name in imports(file)
        if name.split(".")[0] == "lightning_effcx"
    } - {""}  # the package itself has nothing but its version


def others(file: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(file)} - {"lightning_effcx"}


def matches(name: str, room: set[str]) -> bool:
    return name in room or f"{name.rpartition('.')[0]}.*" in room


def floor(name: str) -> int:
    return next(level for level, room in enumerate(FLOORS) if matches(name, room))


def test_every_file_is_in_a_room():
    for name in set(MODULES) - {""}:
        assert matches(name, ANNEX | ROOF) or any(matches(name, room) for room in FLOORS), name


@pytest.mark.parametrize("name", sorted(set(MODULES) - {""}))
def test_imports_point_down(name):
    if matches(name, ROOF):
        return
    assert not any(matches(imported, ROOF) for imported in ours(MODULES[name]))
    if matches(name, ANNEX):
        assert all(matches(imported, ANNEX) for imported in ours(MODULES[name]))
        return
    for imported in ours(MODULES[name]):
        within_a_room = floor(imported) == floor(name)
        assert within_a_room or floor(imported) < floor(name), f"{name} imports {imported}"


def test_no_import_goes_round():
    graph = {name: ours(file) - {name} for name, file in MODULES.items()}
    assert set(TopologicalSorter(graph).static_order()) >= set(graph)


@pytest.mark.parametrize("name", sorted(name for name in MODULES if matches(name, ANNEX | ROOF)))
def test_the_annex_reads_the_disk_and_imports_nothing_heavy(name):
    heavy = others(MODULES[name]) & (HEAVY | {"matplotlib"})
    assert heavy <= ({"matplotlib"} if name == "figures" else set())


@pytest.mark.parametrize(
    "name", sorted(n for n in MODULES if n and not matches(n, ANNEX | ROOF) and floor(n) <= 1)
)
def test_the_ground_floor_imports_torch_only(name):
    assert not others(MODULES[name]) & (HEAVY - {"torch", "numpy"})


@pytest.mark.parametrize(
    "name",
    sorted(
        n for n in MODULES if n and not matches(n, ANNEX | ROOF) and floor(n) < floor("callbacks")
    ),
)
def test_measures_do_not_know_lightning(name):
    assert not others(MODULES[name]) & {"pytorch_lightning", "lightning", "tensorboard"}


@pytest.mark.parametrize("name", ["lightning_effcx", "lightning_effcx.tags"])
def test_the_package_imports_nothing_heavy(name):
    code = f"import sys, {name}; print(*{{n.split('.')[0] for n in sys.modules}})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(found.stdout.split())
    assert "lightning_effcx" in loaded
    assert not loaded & (HEAVY | {"matplotlib", "tensorboard"})


def test_functional_is_imports_and_their_names():
    statements = ast.parse(MODULES["functional"].read_text()).body
    docstring, *imported, names = statements
    assert isinstance(docstring, ast.Expr)
    assert all(isinstance(node, ast.ImportFrom) for node in imported)
    assert isinstance(names, ast.Assign)
    assert [target.id for target in names.targets] == ["__all__"]


def loaded(name: str):
    return importlib.import_module(f"lightning_effcx.{name}".rstrip("."))


def declares_all(file: Path) -> bool:
    return any(
        isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
        for node in ast.parse(file.read_text()).body
    )


@pytest.mark.parametrize("name", sorted(n for n, file in MODULES.items() if declares_all(file)))
def test_all_names_what_is_there(name):
    module = loaded(name)
    defined = {
        alias.asname or alias.name
        for node in ast.parse(MODULES[name].read_text()).body
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("lightning_effcx")
        for alias in node.names
    } | {
        key
        for key, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__
    }
    public = {key for key in defined if not key.startswith("_")}
    if name in {"metrics", "functional"}:
        assert set(module.__all__) == public
    assert set(module.__all__) <= public | set(vars(module))
    assert list(module.__all__) == sorted(set(module.__all__))


def test_metrics_exports_exactly_the_metrics():
    found = set()
    for info in pkgutil.iter_modules(metrics.__path__):
        module = loaded(f"metrics.{info.name}")
        found |= {
            key
            for key, value in vars(module).items()
            if inspect.isclass(value)
            and issubclass(value, Metric)
            and value.__module__ == module.__name__
            and not key.startswith("_")
        }
    assert set(metrics.__all__) == found


def test_what_functional_gathers_lives_with_the_metrics():
    from lightning_effcx import functional  # noqa: PLC0415 the subject

    for name in functional.__all__:
        home = getattr(functional, name).__module__
        assert home.startswith("lightning_effcx.metrics."), name


def test_no_file_is_named_for_what_does_not_belong_elsewhere():
    assert not {file.stem for file in FILES} & {"utils", "misc", "helpers", "common", "util"}
    assert not {part for file in FILES for part in file.relative_to(ROOT).parts} & {
        "utils",
        "common",
    }
