import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from rooms import ROOT, arrows, floors, imports, imports_within, modules, room_of
from torchmetrics import Metric

import lightning_effcx
from lightning_effcx import metrics
from lightning_effcx.callbacks import ComplexityMonitor
from lightning_effcx.callbacks.lightning_compat import Callback

# Lowest first, one floor a line; a room imports rooms below it only.
FLOORS = [
    {"options", "plotting", "reading", "tags", "targets"},
    {"network", "paths"},
    {"tracing"},
    {"piecewise", "tangents"},
    {"metrics"},
    {"callbacks", "functional"},
    {"studies"},
    {"cli"},
]
BESIDE = {"compare"}  # reads the disk; knows nothing of networks
# What the others import from the package of these rooms, never from the files inside.
CLOSED = {"network", "piecewise", "tangents", "tracing"}
TORCH_FREE = {"cli", "compare", "options", "plotting", "reading", "tags"}
KNOW_LIGHTNING = {"callbacks", "studies"}
HEAVY = {"torch", "torchmetrics", "pytorch_lightning", "lightning", "numpy"}
MODULES = modules()
TESTS = Path(__file__).parent
NAMES = sorted(set(MODULES) - {""})


def loaded(name: str):
    return importlib.import_module(f"lightning_effcx.{name}".rstrip("."))


def floor(room: str) -> int:
    return next(level for level, rooms in enumerate(FLOORS) if room in rooms)


def distributions(file: Path) -> set[str]:
    """Whose modules a file imports."""
    return {name.partition(".")[0] for name in imports(file)} - {"lightning_effcx"}


def canonical(requirement: str) -> str:
    """Return the name in a requirement, as package indexes compare names."""
    name = re.match(r"[\w.-]+", requirement)
    assert name
    return re.sub(r"[-_.]+", "-", name.group()).lower()


def versions(sign: str, requirements: list[str]) -> dict[str, str]:
    """Return the version after a sign for each package that has one; 2.6.0 counts as 2.6."""
    found = (re.match(rf"([^#>=!]+?){sign}([\d.]+)", each) for each in requirements)
    return {canonical(each[1]): re.sub(r"(\.0)+$", "", each[2]) for each in found if each}


def test_every_imported_distribution_is_declared_and_every_declared_one_imported():
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    declared = {canonical(each) for each in project["dependencies"]}
    optional = {canonical(each) for each in project["optional-dependencies"]["plot"]}
    # The second package of Lightning: it is imported where it is installed.
    optional.add("lightning")
    names = set().union(*(distributions(file) for file in MODULES.values()))
    homes = packages_distributions()
    found = set()
    for name in names - set(sys.stdlib_module_names):
        home = {canonical(each) for each in homes[name]} & (declared | optional)
        assert home, f"{name} is imported, but pyproject.toml does not declare its distribution"
        found |= home
    assert declared - found == set()


def names_of_types(file: Path) -> set[str]:
    """The public classes and type aliases that a file defines."""
    nodes = ast.walk(ast.parse(file.read_text()))
    classes = {node.name for node in nodes if isinstance(node, ast.ClassDef)}
    aliases = {
        node.target.id
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and getattr(node.annotation, "id", "") == "TypeAlias"
    }
    return {name for name in classes | aliases if not name.startswith("_")}


def test_no_two_files_have_a_type_of_the_same_public_name():
    homes: dict[str, set[str]] = {}
    for name, file in MODULES.items():
        for type_name in names_of_types(file):
            homes.setdefault(type_name, set()).add(name)
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}


def defined_classes() -> dict[type, str]:
    """The classes of the package, each with the file that defines it."""
    return {
        value: name
        for name in NAMES
        for value in vars(loaded(name)).values()
        if inspect.isclass(value) and value.__module__ == f"lightning_effcx.{name}"
    }


def test_a_class_is_abstract_or_final():
    classes = defined_classes()
    parents = {base for each in classes for base in each.__bases__ if base in classes}
    made = {each for each in parents if not inspect.isabstract(each)}
    # Errors form a tree, and the callbacks of both Lightning packages are joined in one class.
    assert made == {each for each in made if issubclass(each, Exception)} | {Callback}


def test_the_oldest_versions_that_are_tested_are_the_lower_bounds():
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    allowed = {name: bound for group in groups for name, bound in versions(">=", group).items()}
    pinned = versions("==", (TESTS / "constraints-oldest.txt").read_text().splitlines())
    assert {name: pinned.get(name) for name in allowed} == allowed


def test_the_house_has_at_most_16_rooms_and_40_arrows():
    graph = arrows()
    assert set(graph) == set.union(*FLOORS) | BESIDE
    assert len(graph) <= 16
    assert sum(map(len, graph.values())) <= 40


def test_rooms_import_lower_rooms_only():
    for room, below in arrows().items():
        if room in BESIDE:
            assert all(floor(each) == 0 for each in below), room
        else:
            assert all(each in BESIDE or floor(each) < floor(room) for each in below), room
            assert not below & BESIDE or room == "cli"


def test_no_import_goes_round():
    graph = {name: imports_within(MODULES[name], MODULES) - {name} for name in NAMES}
    assert {*TopologicalSorter(graph).static_order()} >= set(graph)


def test_the_map_puts_each_room_above_those_that_it_imports():
    assert floors({"a": set(), "b": {"a"}, "c": {"a", "b"}, "d": {"a"}}) == [
        ["a"],
        ["b", "d"],
        ["c"],
    ]


@pytest.mark.parametrize("name", NAMES)
def test_closed_rooms_are_entered_through_their_door(name):
    for imported in imports_within(MODULES[name], MODULES):
        room = room_of(imported)
        assert room == room_of(name) or room not in CLOSED or imported == room, imported


@pytest.mark.parametrize("name", [n for n in NAMES if room_of(n) in TORCH_FREE])
def test_what_reads_the_disk_imports_nothing_heavy(name):
    heavy = distributions(MODULES[name]) & (HEAVY | {"matplotlib"})
    assert heavy <= ({"matplotlib"} if name == "plotting" else set())


def test_the_tests_of_what_reads_the_disk_start_without_torch():
    tests = ["compare", "cli/test_compare.py", "test_hostile_files.py"]
    tests += [f"test_{room}.py" for room in ("options", "plotting", "tags")]
    options = ["--collect-only", "-qq", "-n0", *(f"tests/{each}" for each in tests)]
    code = f"import pytest, sys; pytest.main({options}); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT.parent)
    *counts, is_imported = found.stdout.split()
    assert len(counts) > len(tests), found.stdout
    assert is_imported == "False"


@pytest.mark.parametrize("name", [n for n in NAMES if room_of(n) not in KNOW_LIGHTNING])
def test_measures_do_not_know_lightning(name):
    assert not distributions(MODULES[name]) & {"pytorch_lightning", "lightning"}


@pytest.mark.parametrize("name", [n for n in NAMES if room_of(n) in {*CLOSED, "paths", "targets"}])
def test_the_rooms_below_the_metrics_import_torch_only(name):
    assert not distributions(MODULES[name]) & (HEAVY - {"torch", "numpy"})


@pytest.mark.parametrize("name", ["lightning_effcx", "lightning_effcx.tags"])
def test_the_package_imports_nothing_heavy(name):
    code = f"import sys, {name}; print(*{{n.split('.')[0] for n in sys.modules}})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules_of_it = set(found.stdout.split())
    assert "lightning_effcx" in modules_of_it
    assert not modules_of_it & (HEAVY | {"matplotlib", "tensorboard"})


def test_the_package_offers_the_monitor_when_it_is_asked_for():
    assert lightning_effcx.ComplexityMonitor is ComplexityMonitor
    assert set(lightning_effcx.__all__) == {"ComplexityMonitor", "__version__"}
    with pytest.raises(
        AttributeError, match=r"^module 'lightning_effcx' has no attribute 'monitor'$"
    ):
        lightning_effcx.monitor  # noqa: B018 the subject


def test_functional_is_imports_and_their_names():
    statements = ast.parse(MODULES["functional"].read_text()).body
    docstring, *imported, names = statements
    assert isinstance(docstring, ast.Expr)
    assert all(isinstance(node, ast.ImportFrom) for node in imported)
    assert isinstance(names, ast.Assign)
    assert [target.id for target in names.targets] == ["__all__"]


def declares_all(file: Path) -> bool:
    return any(
        isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
        for node in ast.parse(file.read_text()).body
    )


DECLARING = [name for name in NAMES if declares_all(MODULES[name])]


def imported_names(file: Path) -> set[str]:
    """What a file imports by name from the package, at its top."""
    return {
        alias.asname or alias.name
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("lightning_effcx")
        for alias in node.names
    }


@pytest.mark.parametrize("name", DECLARING)
def test_all_names_what_is_there(name):
    module = loaded(name)
    defined = imported_names(MODULES[name]) | {
        key
        for key, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__
    }
    public = {key for key in defined if not key.startswith("_")}
    if MODULES[name].name == "__init__.py" or name == "functional":
        assert set(module.__all__) == public
    assert set(module.__all__) <= public | set(vars(module))


@pytest.mark.parametrize(
    "room", sorted({*CLOSED, "callbacks", "cli", "compare", "metrics", "studies", "studies.runner"})
)
def test_every_room_says_what_it_exports(room):
    assert room in DECLARING


@pytest.mark.parametrize("name", DECLARING)
def test_nothing_is_exported_under_the_name_of_a_file(name):
    files = {each.rpartition(".")[2] for each in NAMES if each.rpartition(".")[0] == name}
    assert not files & set(loaded(name).__all__)


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
    parts = {
        part for file in MODULES.values() for part in file.relative_to(ROOT).with_suffix("").parts
    }
    assert not parts & {"utils", "misc", "helpers", "common", "util"}


# Tests of rooms that are one file, and tests across rooms, which stand at the top of `tests`.
TESTS_OF_FILES = {"options", "paths", "plotting", "tags", "targets"}
TESTS_ACROSS_ROOMS = {
    "architecture",
    "arguments",
    "certificate",
    "contract",
    "event_files_of_torch",
    "examples",
    "foreign",
    "hostile_files",
    "memory",
    "named_cases",
    "no_trace",
    "older_formats",
    "operator_database",
    "oracles",
    "random_architectures",
    "reading_guide",
    "readme",
    "shapes",
    "study_files",
}
TESTED = [file for file in TESTS.rglob("test_*.py") if file.parent.name != "benchmarks"]


@pytest.mark.parametrize("file", TESTED, ids=lambda file: str(file.relative_to(TESTS)))
def test_tests_stand_where_the_file_that_they_test_stands(file):
    subject, room = file.stem.removeprefix("test_"), file.parent.relative_to(TESTS)
    if file.parent == TESTS:
        known = TESTS_OF_FILES | TESTS_ACROSS_ROOMS
        assert subject in known, f"move {file.name} into a room, or list it as across rooms"
        return
    files = {each.stem for each in (ROOT / room).glob("*.py")}
    # `test_monitor_settings.py` holds a part of the tests of `monitor.py`.
    assert any(f"{subject}_".startswith(f"{each}_") for each in files), (
        f"rename tests/{room}/{file.name} after a file of lightning_effcx/{room}"
    )


def test_the_lists_of_tests_at_the_top_name_files_that_are_there():
    assert {f"test_{name}.py" for name in TESTS_OF_FILES | TESTS_ACROSS_ROOMS} == {
        file.name for file in TESTS.glob("test_*.py")
    }
    assert all((ROOT / f"{name}.py").exists() for name in TESTS_OF_FILES)


def test_every_support_module_says_in_one_line_what_it_holds():
    for file in (TESTS / "support").glob("*.py"):
        docstring = ast.get_docstring(ast.parse(file.read_text()))
        assert docstring, f"{file.name} needs a docstring"
        assert docstring.splitlines()[0].endswith("."), file.name
