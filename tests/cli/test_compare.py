import json
import subprocess
import sys

import pytest
from event_files import ramp, write_events
from study_folders import emc, write_study

from lightning_effcx import __version__
from lightning_effcx.cli import main

PROBE = """
import sys
{act}
heavy = {{"torch", "lightning", "pytorch_lightning", "tensorboard", "matplotlib"}}
print(",".join(sorted(heavy & set(sys.modules))))
"""

COLUMNS = "fisher_rao_norm, jacobian_norm, val_loss"


def imported_by(act):
    result = subprocess.run(
        [sys.executable, "-c", PROBE.format(act=act)], capture_output=True, text=True, check=True
    )
    return result.stdout.splitlines()[-1]


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs"
    for seed in range(2):
        for regularizer, value in (("l2", 1.0), ("none", 5.0)):
            curves = {
                "effcx/jacobian_norm": ramp([0.0, value + seed]),
                "effcx/fisher_rao_norm": ramp([0.0, -value]),
                "val_loss": ramp([1.0, 0.5]),
            }
            write_events(
                folder / regularizer / f"version_{seed}", curves, regularizer=regularizer, seed=seed
            )
    return folder


def groups_in(text):
    return [word for word in text.split() if word.startswith("regularizer=")]


def test_help_imports_nothing_heavy():
    act = "from lightning_effcx.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert imported_by(act) == ""


def test_reading_runs_imports_neither_torch_nor_lightning_nor_matplotlib():
    assert imported_by("import lightning_effcx.compare, lightning_effcx.cli") == "tensorboard"


def test_version_is_the_package_s(capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--version"])
    assert capsys.readouterr().out == f"effcx {__version__}\n"


def test_no_command_is_a_usage_error(capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        main([])
    assert "usage: effcx" in capsys.readouterr().err


def test_compare_prints_a_row_for_every_group(runs, capsys):
    assert main(["compare", str(runs)]) == 0
    out, err = capsys.readouterr()
    assert groups_in(out) == ["regularizer=l2", "regularizer=none"]
    assert "1.50 ± 0.71" in out
    assert "5.50 ± 0.71" in out
    assert err == ""


def test_a_narrow_terminal_cuts_nothing(runs, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    main(["compare", str(runs)])
    out = capsys.readouterr().out
    for whole in ("jacobian_norm", "fisher_rao_norm", "1.50 ± 0.71", "regularizer=none"):
        assert whole in out
    assert "…" not in out


def test_a_terminal_too_narrow_for_a_row_per_group_gets_a_column_per_group(
    runs, capsys, monkeypatch
):
    for columns, first in ((80, "┃ group "), (60, "┃ regularizer= ")):
        monkeypatch.setenv("COLUMNS", str(columns))
        main(["compare", str(runs)])
        lines = capsys.readouterr().out.splitlines()
        assert lines[1].startswith(first)
        assert max(map(len, lines)) <= columns


def test_sort_descends_with_a_minus(runs, capsys):
    assert main(["compare", str(runs), "--sort=-jacobian_norm"]) == 0
    assert groups_in(capsys.readouterr().out) == ["regularizer=none", "regularizer=l2"]
    assert main(["compare", str(runs), "--sort", "fisher_rao_norm"]) == 0
    assert groups_in(capsys.readouterr().out) == ["regularizer=none", "regularizer=l2"]


def test_metric_can_be_given_several_times(runs, capsys):
    assert main(["compare", str(runs), "--metric", "val_*", "--metric", "*rao*"]) == 0
    out = capsys.readouterr().out
    assert out.index("val_loss") < out.index("fisher_rao_norm")
    assert "jacobian_norm" not in out


def test_every_file_written_gets_a_line(runs, tmp_path, capsys):
    files = [tmp_path / f"out.{form}" for form in ("csv", "json", "png")]
    options = [f"--{key}={file}" for key, file in zip(("csv", "json", "plot"), files, strict=True)]
    assert main(["compare", str(runs), *options]) == 0
    assert capsys.readouterr().out.splitlines()[-3:] == [f"wrote {file}" for file in files]
    assert files[0].read_text(encoding="utf-8").startswith("group,runs,fisher_rao_norm,")
    assert len(json.loads(files[1].read_text(encoding="utf-8"))) == 2
    assert files[2].read_bytes().startswith(b"\x89PNG")


def test_compare_reads_studies_beside_runs(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    errors = {8: (0.0, 0.5), 16: (0.0, 0.75), 32: (0.05, 0.5)}
    for width in (8, 16):
        folder = runs / "emc" / f"width_{width}"
        write_study(folder, "emc", emc(32, errors), make_module=f"nets:Net({width})")
    stopped = write_study(runs / "stopped", "mimic", None)
    plot = tmp_path / "plot.png"
    options = ["--metric=emc*", "--metric=jacobian_norm", "--sort=emc", f"--plot={plot}"]
    assert main(["compare", str(runs), *options]) == 1  # for what is left out
    out, err = capsys.readouterr()
    assert "make_module=nets:Net(8)" in out
    assert "≥ 32.00" in out
    assert groups_in(out) == ["regularizer=l2", "regularizer=none"]
    assert err == f"warning: {stopped}: the study has not ended; run it again to go on.\n"
    assert plot.stat().st_size > 0


def test_a_plot_without_a_suffix_is_written_where_it_says(runs, tmp_path):
    main(["compare", str(runs), f"--plot={tmp_path / 'picture'}"])
    assert (tmp_path / "picture").read_bytes().startswith(b"\x89PNG")


def test_a_damaged_file_is_one_plain_line_on_stderr(runs, capsys):
    noise = runs / "events.out.tfevents.noise"
    noise.write_bytes(b"noise" * 9)
    assert main(["compare", str(runs)]) == 1
    assert capsys.readouterr().err == (
        f"warning: {noise}: no record starts where one should; nothing was read.\n"
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["empty"], "There is no run and no finished study below 'empty'."),
        (["nowhere"], "There is no folder 'nowhere'."),
        (["runs", "--csv=no/a.csv"], "There is no folder 'no' to write a.csv to."),
        (["runs", "--json=no/a.json"], "There is no folder 'no' to write a.json to."),
        (["runs", "--plot=no/a.png"], "There is no folder 'no' to write a.png to."),
        (["runs", "--sort=x"], f"No column is named 'x': expected one of {COLUMNS}."),
        (["runs", "--metric=x"], f"No metric matches 'x': expected one of {COLUMNS}."),
    ],
)
def test_what_is_wrong_is_one_sentence_on_stderr(runs, capsys, monkeypatch, options, sentence):
    (runs.parent / "empty").mkdir()
    monkeypatch.chdir(runs.parent)
    assert main(["compare", *options]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"effcx: {sentence}\n")


def test_a_file_that_cannot_be_written_is_said_on_stderr(runs, tmp_path, capsys):
    assert main(["compare", str(runs), f"--csv={tmp_path}"]) == 2
    assert str(tmp_path) in capsys.readouterr().err
