"""The documents that users read: code, tables, pictures and links in them."""

import ast
import doctest
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
from concrete_metrics import CONCRETE
from rooms import arrows, floors
from user_training import Classifier, loaders, task

from lightning_effcx.callbacks import ComplexityMonitor
from lightning_effcx.metrics import EffectiveModelComplexity
from lightning_effcx.metrics.error_bars import widening

ROOT = Path(__file__).parents[1]
DOCUMENTS = ["README.md", "examples/README.md", ".github/CONTRIBUTING.md", ".github/CHANGELOG.md"]
MEASURES = sorted(metric.__name__ for metric in [*CONCRETE, EffectiveModelComplexity])


def text(document: str) -> str:
    return (ROOT / document).read_text()


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text(document), re.DOTALL | re.MULTILINE)


def table(document: str, head: str) -> list[list[str]]:
    """Return the cells of a table, row by row, without its first two rows."""
    pattern = rf"^{re.escape(head)}\n\|[-|]+\|\n((?:\|.*\n)+)"
    (found,) = re.findall(pattern, text(document), re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in found.splitlines()]


def test_the_readme_is_short():
    assert len(text("README.md").splitlines()) <= 150


def test_the_gallery_has_a_row_for_every_measure():
    rows = table(
        "examples/README.md", "| measure | what it is | does not work for | cost | source |"
    )
    assert sorted(row[0].strip("`") for row in rows) == MEASURES
    assert all(len(row) == 5 and all(row) for row in rows)


def test_the_readme_has_a_question_for_every_measure_of_the_monitor():
    rows = table("README.md", "| question | measure | a rising curve means |")
    shown = {row[1].strip("`") for row in rows}
    assert {type(metric).__name__ for metric in ComplexityMonitor().metrics.values()} <= shown
    assert shown <= {*MEASURES}
    assert all(len(row) == 3 and all(row) for row in rows)


def test_the_map_for_contributors_shows_every_room_on_its_floor():
    rows = table(".github/CONTRIBUTING.md", "| floor | room | what it knows |")
    shown = {(int(floor), room.strip("`")) for floor, room, _ in rows}
    found = {(level, room) for level, rooms in enumerate(floors(arrows())) for room in rooms}
    assert shown == found


def test_ci_runs_the_command_that_runs_the_tests():
    _, command = blocks("README.md", "bash")
    assert command.strip().endswith("pytest")
    assert command in text(".ci/run")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_pictures_and_links_lead_to_files_and_headings(document):
    for target in re.findall(r"\]\((?!https://)(.*?)\)", text(document)):
        name, _, heading = target.partition("#")
        file = (ROOT / document).parent / name if name else ROOT / document
        assert file.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert heading in [
                re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings
            ]
        if file.suffix == ".png":
            assert 10_000 < file.stat().st_size < 200_000


def test_the_gallery_shows_the_command_and_a_picture_of_every_example():
    gallery = text("examples/README.md")
    for script in (ROOT / "examples").glob("*.py"):
        question = str(ast.get_docstring(ast.parse(script.read_text()))).partition("?")[0]
        (section,) = re.findall(rf"^## {question}\?\n(.*?)^## ", gallery, re.DOTALL | re.MULTILINE)
        assert f"\n.venv/bin/python examples/{script.name}\n" in section
        assert re.search(r"^!\[.+\]\(.+\.png\)$", section, re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_code_is_python(document):
    for block in blocks(document, "python"):
        ast.parse(block)


@pytest.mark.filterwarnings("ignore:The number of training batches")
@pytest.mark.filterwarnings("ignore:GPU available")
def test_the_code_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_loader, val_loader = loaders()
    x, y = task().tensors
    names = {"model": Classifier(), "train_loader": train_loader, "val_loader": val_loader}
    names |= {"network": Classifier(), "x": x, "y": y}
    for block in blocks("README.md", "python"):
        exec(block, names)  # noqa: S102 the subject
    assert "effcx/jacobian_norm" in names["trainer"].callback_metrics
    assert "linear_regions.segment_same" in names["metric"].compute()


def test_the_measure_of_the_guide_works():
    (block,) = blocks(".github/CONTRIBUTING.md", "python")
    module = ModuleType("mean_output")
    exec(block, vars(module))  # noqa: S102 the subject
    metric = module.MeanOutput()
    metric.update(lambda x: x.flip(1) - 2, torch.tensor([[1.0, 3.0], [2.0, 6.0]]))
    expected = {"mean_output": 1.5, "mean_output_stderr": 0.5 * widening(2)}
    assert metric.compute() == pytest.approx(expected)
    assert doctest.testmod(module) == (0, 1)  # no failure of one example
