import ast
import re
from pathlib import Path

from torchmetrics import Metric

from lightning_effcx import metrics

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_table_of_measures_is_complete():
    concrete = {
        name
        for name in metrics.__all__
        if issubclass(getattr(metrics, name), Metric)
        and not getattr(metrics, name).__abstractmethods__
    }
    rows = re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)
    assert sorted(rows) == sorted(concrete)


def test_every_row_of_the_table_says_everything():
    rows = [line.split("|")[1:-1] for line in README.splitlines() if line.startswith("| `")]
    for row in rows:
        assert len(row) == 6
        assert all(cell.strip() for cell in row)


def test_ci_runs_the_command_that_runs_the_tests():
    _, command = blocks("bash")
    assert command.strip().endswith("pytest")
    assert command in (ROOT / ".ci" / "run").read_text()


def test_the_pictures_are_there_and_small():
    pictures = re.findall(r"!\[.*\]\((.*\.png)\)", README)
    assert len(pictures) == 5
    for picture in pictures:
        assert 10_000 < (ROOT / picture).stat().st_size < 200_000


def test_the_code_is_python():
    assert len(blocks("python")) == 5
    for block in blocks("python"):
        ast.parse(block)
