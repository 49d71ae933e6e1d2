"""What is said below a comparison whose numbers are not what they seem."""

import csv
import io
import json

import pytest
from event_files import made, ramp, write_events, write_finals
from study_folders import emc, write_study

from lightning_effcx.cli import main
from lightning_effcx.compare import compare_runs, formats, load_runs, load_studies
from lightning_effcx.compare.notes import notes_of

NORM = "effcx/jacobian_norm"


def until(steps, value):
    return dict.fromkeys(range(7, steps + 1, 8), value)


@pytest.fixture
def crashed(tmp_path):
    """Three seeds of l2, one of which crashed; two of none."""
    write_events(tmp_path / "l2" / "seed_0", {NORM: until(159, 11.0)}, reg="l2", seed=0)
    write_events(tmp_path / "l2" / "seed_1", {NORM: until(159, 12.0)}, reg="l2", seed=1)
    write_events(tmp_path / "l2" / "seed_2", {NORM: until(7, 0.5)}, reg="l2", seed=2)
    for seed in (0, 1):
        folder = tmp_path / "none" / f"seed_{seed}"
        write_events(folder, {NORM: until(159, 20.0 + seed)}, reg="none", seed=seed)
    return tmp_path


def notes(folder, **options):
    return notes_of(compare_runs([*load_runs(folder), *load_studies(folder)], **options))


def test_a_run_that_crashed_does_not_count_and_is_named(crashed):
    comparison = compare_runs(load_runs(crashed))
    cell = comparison.rows[0].cells["jacobian_norm"]
    assert (cell.mean, cell.n) == (11.5, 2)
    (note,) = notes_of(comparison)
    assert note == (
        "* In the run l2/seed_2 the last values of all columns are of step 7, in other runs of "
        "reg=l2 of step 159. They are left out of the means."
    )


def test_what_does_not_count_is_marked_in_every_form(crashed, capsys):
    comparison = compare_runs(load_runs(crashed))
    assert main(["compare", str(crashed)]) == 0
    out = capsys.readouterr().out
    assert "11.50 ± 0.71*" in out
    assert "20.50 ± 0.71 " in out
    assert "* In the run l2/seed_2 the last values of all columns are of step 7" in out
    (l2, none) = json.loads(formats.as_json(comparison))
    column = {"steps": [159, 159], "left_out": {"l2/seed_2": 7}}
    assert column.items() <= l2["columns"]["jacobian_norm"].items()
    assert l2["columns"]["jacobian_norm"]["n"] == 2
    assert "left_out" not in none["columns"]["jacobian_norm"]
    first, second = csv.DictReader(io.StringIO(formats.as_csv(comparison)))
    assert (first["jacobian_norm_n"], first["jacobian_norm_step"]) == ("2", "159")
    assert second["jacobian_norm_n"] == "2"


def test_a_measure_that_was_skipped_at_the_end_does_not_count_but_other_values_do(tmp_path):
    curves = {NORM: until(159, 3.0), "val_loss": until(159, 0.5)}
    write_events(tmp_path / "a" / "version_0", curves, reg="l2")
    write_events(tmp_path / "a" / "version_1", curves | {NORM: until(23, 9.0)}, reg="l2")
    comparison = compare_runs(load_runs(tmp_path))
    (row,) = comparison.rows
    assert (row.cells["jacobian_norm"].n, row.cells["val_loss"].n) == (1, 2)
    assert comparison.uneven == {"jacobian_norm"}
    (note,) = notes_of(comparison)
    assert note == (
        "* In the run a/version_1 the last values of jacobian_norm are of step 23, in other runs "
        "of a of step 159. They are left out of the means."
    )


def test_runs_that_ended_a_little_earlier_count_and_are_marked(tmp_path):
    for seed, steps in enumerate([159, 151, 87]):
        folder = tmp_path / "a" / f"version_{seed}"
        write_events(folder, {NORM: until(steps, 1.0 + seed)}, reg="l2")
    comparison = compare_runs(load_runs(tmp_path))
    assert comparison.rows[0].cells["jacobian_norm"].n == 3
    assert notes_of(comparison) == ["* Last values are of different steps: a at steps 87 to 159."]


def test_groups_that_ended_at_different_steps_are_marked(tmp_path):
    write_events(tmp_path / "a", {NORM: until(159, 1.0)}, reg="l2")
    write_events(tmp_path / "b", {NORM: until(79, 1.0)}, reg="none")
    comparison = compare_runs(load_runs(tmp_path))
    assert [
        comparison.is_uneven(n, c) for row in comparison.rows for n, c in row.cells.items()
    ] == [
        False,
        True,
    ]
    assert notes_of(comparison) == [
        "* Last values are of different steps: reg=none at step 79; reg=l2 at step 159."
    ]


def test_measures_that_are_logged_more_rarely_than_others_are_not_marked(tmp_path):
    curves = {"val_loss": ramp([1.0] * 10), NORM: {0: 1.0, 5: 2.0}}
    for seed in (0, 1):
        write_events(tmp_path / f"seed_{seed}", curves, reg="l2", seed=seed)
    assert notes(tmp_path) == []


def test_studies_of_other_sizes_are_not_marked(tmp_path):
    write_study(tmp_path / "a", "emc", emc(8, {8: (0.0, 0.5)}), width=8)
    write_study(tmp_path / "b", "emc", emc(8, {8: (0.0, 0.5), 64: (0.0, 0.5)}), width=9)
    assert notes(tmp_path) == []


def test_runs_without_hyperparameters_that_form_a_group_are_named(tmp_path, capsys):
    for version in range(4):
        write_finals(tmp_path / "lightning_logs" / f"version_{version}", {NORM: 1.0})
    (note,) = notes(tmp_path)
    assert note == (
        "4 runs in lightning_logs have no hyperparameters, so they are averaged as repetitions of "
        "each other. If they were trained differently, call save_hyperparameters() in the module, "
        "or pass ComplexityMonitor(hparams={...})."
    )
    main(["compare", str(tmp_path)])
    assert "4 runs in lightning_logs have no hyperparameters" in capsys.readouterr().out


@pytest.mark.parametrize(
    "runs",
    [
        [made("a/version_0"), made("b/version_0")],
        [made("a/version_0", seed=1), made("a/version_1", seed=2)],
        [made("a/version_0", lr=0.1), made("a/version_1", lr=0.1)],
    ],
)
def test_runs_that_are_told_apart_or_known_to_be_repetitions_are_not_named(runs):
    assert notes_of(compare_runs(runs)) == []


def test_long_lists_of_names_are_cut(tmp_path):
    curves = {f"effcx/measure_{number}": until(159, 1.0) for number in range(6)}
    write_events(tmp_path / "version_0", curves | {"val_loss": until(159, 1.0)}, reg="l2")
    early = dict.fromkeys(curves, until(7, 1.0)) | {"val_loss": until(159, 1.0)}
    write_events(tmp_path / "version_1", early, reg="l2")
    (note,) = notes(tmp_path)
    names = "measure_0, measure_1, measure_2, measure_3 and 2 more"
    assert f"the last values of {names} are of step 7, in" in note


@pytest.mark.parametrize("width", [80, 120, 200])
def test_notes_are_as_wide_as_the_terminal(crashed, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    main(["compare", str(crashed)])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= width
