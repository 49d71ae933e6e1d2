import json
import re

import pytest
from event_files import write_finals
from study_folders import emc, mimic, student, write_study

from lightning_effcx.compare import (
    Curve,
    Run,
    compare_runs,
    formats,
    group_runs,
    load_runs,
    load_studies,
)

ERRORS = {8: (0.0, 0.5), 16: (0.0, 0.75), 32: (0.25, 0.5)}


@pytest.fixture
def sweep(tmp_path):
    """Two widths with and without noise, of two seeds each; one width is censored."""
    for width in (8, 128):
        for noise in (0.0, 0.2):
            for seed in (0, 1):
                found = emc(16 * (1 + seed), ERRORS, upper=32 if width == 8 else None)
                arguments = {"make_module": f"nets:Net({width})", "label_noise": noise}
                folder = tmp_path / f"width_{width}_noise_{noise}" / f"seed_{seed}"
                write_study(folder, "emc", found, **arguments, seed=seed, data=f"{seed}")
    return tmp_path


def test_a_study_of_emc_is_a_run_along_the_samples(tmp_path):
    write_study(
        tmp_path / "studies" / "emc",
        "emc",
        emc(16, ERRORS, upper=32, epsilon=0.2),
        make_module="nets:Net(12)",
        network=None,
        batch_size=64,
        shuffled=True,
        sizes=[8, 16],
        data="0123456789abcdef",
        seed=3,
    )
    hparams = {
        "study": "emc",
        "make_module": "nets:Net(12)",
        "batch_size": 64.0,
        "shuffled": True,
        "sizes": "[8, 16]",
        "seed": 3.0,
        "epsilon": 0.2,
    }
    curves = {
        "effcx/emc": Curve((0,), (16.0,), along=""),
        "effcx/emc.train_error": Curve((8, 16, 32), (0.0, 0.0, 0.25), "samples"),
        "effcx/emc.test_error": Curve((8, 16, 32), (0.5, 0.75, 0.5), "samples"),
    }
    assert load_studies(tmp_path) == [Run("studies/emc", hparams, curves, study="emc")]


def test_a_mimic_is_a_run_along_the_hidden_units_of_its_students(tmp_path):
    found = mimic(
        student(8, r2=0.5, agreement=0.75, accuracy=0.75, accuracy_on_labels=0.5),
        student(16, accuracy_on_labels=0.25, error="ValueError: of logits"),
        student(32, r2=1.0, agreement=1.0, accuracy=0.5),
        size=32,
    )
    write_study(tmp_path, "mimic", found, steps=500, bottleneck=None, data="0123456789abcdef")
    curves = {
        "effcx/mimic.size": Curve((0,), (32.0,), along=""),
        "effcx/mimic.r2": Curve((8, 32), (0.5, 1.0), "hidden units"),
        "effcx/mimic.agreement": Curve((8, 32), (0.75, 1.0), "hidden units"),
        "effcx/mimic.accuracy": Curve((8, 32), (0.75, 0.5), "hidden units"),
        "effcx/mimic.accuracy_on_labels": Curve((8, 16), (0.5, 0.25), "hidden units"),
    }
    hparams = {"study": "mimic", "steps": 500.0, "tolerance": 0.05}
    assert load_studies(tmp_path) == [Run(".", hparams, curves, study="mimic")]


def test_what_is_unknown_of_a_study_is_left_out(tmp_path):
    write_study(tmp_path / "emc", "emc", emc(8, {8: (0.0, None), 16: (0.5, None)}, upper=16))
    write_study(tmp_path / "mimic", "mimic", mimic(student(8, r2=0.5, agreement=0.5)))
    complexity, size = load_studies(tmp_path)
    assert set(complexity.curves) == {"effcx/emc", "effcx/emc.train_error"}
    assert set(size.curves) == {"effcx/mimic.r2", "effcx/mimic.agreement"}


# --- in one table


def test_studies_that_differ_in_their_seed_form_one_group_named_by_what_differs(sweep):
    groups = group_runs(load_studies(sweep))
    assert [group.label for group in groups] == [
        "make_module=nets:Net(8), label_noise=0",
        "make_module=nets:Net(8), label_noise=0.2",
        "make_module=nets:Net(128), label_noise=0",
        "make_module=nets:Net(128), label_noise=0.2",
    ]
    assert all(len(group.runs) == 2 for group in groups)


def test_a_table_shows_what_was_found_and_the_errors_at_the_largest_size(sweep):
    comparison = compare_runs(load_studies(sweep))
    assert [column.name for column in comparison.columns] == [
        "emc",
        "emc.test_error",
        "emc.train_error",
    ]
    finals = [[cell.mean for cell in row.cells.values()] for row in comparison.rows]
    assert finals == [[24.0, 0.5, 0.25]] * 4
    assert formats.as_table(comparison, 200).caption == (
        "mean ± standard deviation over runs, of last values, of studies at the largest size"
    )


def test_what_is_censored_is_a_lower_bound_also_of_the_mean_over_seeds(tmp_path):
    write_study(tmp_path / "seed_0", "emc", emc(32, ERRORS, upper=None), seed=0)
    write_study(tmp_path / "seed_1", "emc", emc(16, ERRORS, upper=32), seed=1)
    (row,) = compare_runs(load_studies(tmp_path)).rows
    assert (row.cells["emc"].mean, row.cells["emc"].at_least) == (24.0, True)
    assert not row.cells["emc.train_error"].at_least


def test_trainings_and_studies_stand_in_one_table_each_named_by_what_tells_its_kind_apart(sweep):
    for regularizer in ("l1", "l2"):
        finals = {"effcx/mimic_gap": 0.5, "effcx/training_error": 0.25}
        write_finals(sweep / "runs" / regularizer, finals, regularizer=regularizer)
    write_study(
        sweep / "mimic", "mimic", mimic(student(8, r2=1.0, agreement=1.0), size=8), steps=500
    )
    comparison = compare_runs([*load_studies(sweep), *load_runs(sweep)])
    assert [row.group.label for row in comparison.rows] == [
        "regularizer=l1",
        "regularizer=l2",
        "make_module=nets:Net(8), label_noise=0",
        "make_module=nets:Net(8), label_noise=0.2",
        "make_module=nets:Net(128), label_noise=0",
        "make_module=nets:Net(128), label_noise=0.2",
        "mimic",
    ]
    known = [[name for name, cell in row.cells.items() if cell.n] for row in comparison.rows]
    assert known[0] == ["mimic_gap", "training_error"]
    assert known[2] == ["emc", "emc.test_error", "emc.train_error"]
    assert known[6] == ["mimic.agreement", "mimic.r2", "mimic.size"]


def test_a_training_and_a_study_in_one_folder_are_told_apart(tmp_path):
    write_study(tmp_path / "a", "emc", emc(8, ERRORS))
    write_finals(tmp_path / "a", {"loss": 1.0})
    groups = group_runs([*load_runs(tmp_path), *load_studies(tmp_path)])
    assert [group.label for group in groups] == ["a", "a #2"]
    assert [group.runs[0].study for group in groups] == ["", "emc"]


# --- what is not whole


def warned(folder, sentence):
    return pytest.warns(UserWarning, match=f"^{re.escape(f'{folder}: {sentence}')}$")


def test_a_study_that_was_stopped_is_named_and_the_rest_is_read(tmp_path):
    stopped = write_study(tmp_path / "a", "emc", None)
    write_study(tmp_path / "b", "emc", emc(8, ERRORS))
    with warned(stopped, "the study has not ended; run it again to go on."):
        assert [run.path for run in load_studies(tmp_path)] == ["b"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", '{"kind": "emc"}', "\udcff"])
def test_a_folder_that_does_not_say_what_the_study_is_is_named_and_left_out(tmp_path, text):
    folder = write_study(tmp_path / "a", "emc", emc(8, ERRORS))
    (folder / "study.json").write_bytes(text.encode(errors="surrogateescape"))
    with warned(folder, "study.json does not say what the study is, so it was left out."):
        assert load_studies(tmp_path) == []


@pytest.mark.parametrize("kind", ["emc", "mimic"])
@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"emc": 8, "size": 8, "table": [8]}'])
def test_a_folder_that_does_not_say_what_the_study_found_is_named_and_left_out(
    tmp_path, kind, text
):
    folder = write_study(tmp_path / "a", kind, {})
    (folder / "found.json").write_text(text)
    sentence = "found.json does not say what the study found; run it again to repair it."
    with warned(folder, sentence):
        assert load_studies(tmp_path) == []


def test_a_study_without_its_results_is_read_and_jobs_of_another_kind_are_passed_over(tmp_path):
    folder = write_study(tmp_path / "a", "emc", emc(8, ERRORS))
    (folder / "results.jsonl").unlink()
    write_study(tmp_path / "b", "jobs", None)
    assert [run.path for run in load_studies(tmp_path)] == ["a"]


def test_a_missing_folder_of_studies_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^There is no folder '.*nowhere'\.$"):
        load_studies(tmp_path / "nowhere")


# --- formats


def test_csv_and_json_stay_numbers_and_say_which_are_lower_bounds(sweep):
    comparison = compare_runs(load_studies(sweep), metrics=["emc"], sort="-emc")
    header, *rows = formats.as_csv(comparison).splitlines()
    assert header == "group,runs,emc,emc_std,emc_at_least"
    assert rows[0].endswith(f",2,24.0,{128**0.5},0")
    assert rows[3].endswith(",2,24.0,,1")
    cells = [group["columns"]["emc"] for group in json.loads(formats.as_json(comparison))]
    assert cells[0] == {"mean": 24.0, "std": 128**0.5, "n": 2}
    assert cells[3] == {"mean": 24.0, "std": None, "n": 2, "at_least": True}
