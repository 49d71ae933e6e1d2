import json
import logging
import re
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(autouse=True)
def _logging_as_before():
    """Undo what examples and the notebook, which run in this process, tell the logger."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture
def run(monkeypatch):
    def run(script: str, *arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        return end.value.code

    return run


def test_compare_regularizers_ends_with_the_table_and_the_command(run, tmp_path, capsys):
    folder = tmp_path / "runs"
    assert run("compare_regularizers.py", "--epochs=1", "--seeds=1", f"--folder={folder}") == 0
    printed = capsys.readouterr().out
    for regularizer in ("none", "l1", "l2", "dropout", "jacobian"):
        assert regularizer in printed
    assert "jacobian_norm" in printed
    assert f"tensorboard --logdir {folder}" in printed
    assert (folder / "curves.png").stat().st_size < 200_000


def test_compare_regularizers_does_not_mix_with_earlier_runs(run, tmp_path, capsys):
    (tmp_path / "events.out.tfevents.1").touch()
    assert run("compare_regularizers.py", f"--folder={tmp_path}") == 2
    assert "has runs already: remove it, or name another --folder" in capsys.readouterr().err


def test_regions_while_training_ends_with_the_table_and_the_figure(run, tmp_path, capsys):
    figure = tmp_path / "regions.png"
    arguments = ("--epochs=3", "--seeds=1", f"--figure={figure}")
    assert run("regions_while_training.py", *arguments) == 0
    printed = capsys.readouterr().out
    for network in ("20 x 3", "32 x 3", "64 x 4"):
        row = next(line for line in printed.splitlines() if f"│ {network}" in line)
        start, lowest, end, *distances = map(float, row.strip("│ ").split("│")[1:])
        assert lowest <= min(start, end)
        assert 0.8 < start < 1.2  # one region per unit, as Hanin and Rolnick found
        assert all(0.4 < distance < 1.5 for distance in distances)
    assert 10_000 < figure.stat().st_size < 200_000


def double_descent(*arguments: str) -> dict[int, list[str]]:
    """Run the example, which starts processes, in one of its own; return the rows it prints."""
    command = [sys.executable, str(EXAMPLES / "double_descent.py"), *arguments]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "with 512 samples the test error" in printed
    rows = [line.strip("│").split("│") for line in printed.splitlines() if line.startswith("│")]
    return {int(row[0]): [cell.strip() for cell in row] for row in rows}


def test_double_descent_ends_with_the_table_and_the_figure(tmp_path):
    figure = tmp_path / "descent.png"
    few = ("--epochs=1", "--repeats=1", "--widths", "4", "160")
    assert [*double_descent(*few, f"--figure={figure}")] == [4, 160]
    assert 5_000 < figure.stat().st_size < 200_000


@pytest.mark.slow
def test_double_descent_peaks_where_the_samples_are_about_the_complexity(tmp_path):
    cells = double_descent("--widths", "7", "20", "160", f"--figure={tmp_path / 'descent.png'}")
    error = {width: float(row[4].split()[0]) for width, row in cells.items()}
    assert error[20] > max(error[7], error[160])
    assert 0.5 < float(cells[20][2]) < 2
    assert float(cells[7][2]) < 1
    assert cells[160][2] == "≥ 2.00"


def test_overfitting_moons_ends_with_the_table_and_the_figure(run, tmp_path, capsys):
    figure = tmp_path / "moons.png"
    few = ("--steps=9", "--seeds=1", "--measurements=1")
    assert run("overfitting_moons.py", *few, f"--figure={figure}") == 0
    printed = capsys.readouterr().out
    for row in ("at the best step", "at the end", "measured, at the end", "validation accuracy"):
        assert row in printed
    assert str(figure) in printed.replace("\n", "")
    assert 5_000 < figure.stat().st_size < 200_000


def test_shallow_mimic_ends_with_the_table_and_the_figure(run, tmp_path, capsys):
    figure = tmp_path / "mimic.png"
    assert run("shallow_mimic.py", "--epochs=1", "--steps=2", f"--figure={figure}") == 0
    printed = capsys.readouterr().out
    for word in ("on labels", "256", "teacher", "of the teacher"):
        assert word in printed
    assert str(figure) in printed.replace("\n", "")
    assert 5_000 < figure.stat().st_size < 200_000


def test_the_notebook_runs_and_shows_its_outputs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    file = EXAMPLES / "first_look.ipynb"
    assert file.stat().st_size < 150_000
    cells = [cell for cell in json.loads(file.read_text())["cells"] if cell["cell_type"] == "code"]
    names: dict[str, Any] = {}
    for cell in cells:
        source = "".join(cell["source"]).replace("max_epochs=40", "max_epochs=2")
        exec(source, names)  # noqa: S102 the subject
    assert "effcx/jacobian_norm" in names["trainer"].callback_metrics
    shown = [output for cell in cells for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in shown)
    printed = "".join(line for output in shown for line in output.get("text", ()))
    assert words(printed) == words(capsys.readouterr().out)


def words(printed: str) -> list[str]:
    """Leave out numbers, which differ from machine to machine."""
    return re.findall(r"[a-z_./]+", printed)
