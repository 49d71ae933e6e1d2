import json
import tracemalloc

import pytest
from study_jobs import Counted, jobs
from unreadable_files import DEEP, endless, folder_there, noise_there, pipe

from lightning_effcx import __version__
from lightning_effcx.studies import Job, Study, run_jobs
from lightning_effcx.studies.runner.results import open_results


@pytest.fixture
def work(tmp_path):
    return Counted(tmp_path / "log")


@pytest.fixture
def folder(tmp_path, work):
    """A study of three jobs that are done."""
    run_jobs(work, jobs(3), folder=tmp_path / "study", study=Study("widths", {"depth": 2}))
    work.log.unlink()
    return tmp_path / "study"


def again(work, folder, jobs=tuple(jobs(3)), study=Study("widths", {"depth": 2})):  # noqa: B008
    return run_jobs(work, jobs, folder=folder, study=study)


def lines(folder):
    return (folder / "results.jsonl").read_text().splitlines()


def test_the_folder_says_what_the_study_is(folder):
    assert json.loads((folder / "study.json").read_text()) == {
        "kind": "widths",
        "arguments": {"depth": 2},
        "version": __version__,
    }


def test_each_line_says_what_came_of_a_job(folder, work):
    rows = again(work, folder)
    for row, line in zip(rows, map(json.loads, lines(folder)), strict=True):
        assert set(line) == {"key", "arguments", "seed", "values", "error", "seconds"}
        assert Job(line["key"], line["arguments"], line["seed"]) == row.job
        assert (line["values"], line["error"]) == (row.values, "")
        assert line["seconds"] == row.seconds > 0


def test_a_line_is_there_before_the_next_job_starts(tmp_path):
    counts = run_jobs(lambda _: {"lines": len(lines(tmp_path))}, jobs(3), folder=tmp_path)
    assert [row.values["lines"] for row in counts] == [0, 1, 2]


def test_what_is_known_is_not_run_again(folder, work):
    assert again(work, folder) == run_jobs(work, jobs(3))
    assert work.started() == ["width=1", "width=2", "width=3"]  # without the folder


def test_more_jobs_may_follow_from_results(folder, work):
    rows = again(work, folder, jobs(5)[:1:-1])
    assert work.started() == ["width=5", "width=4"]
    assert [row.job for row in rows] == jobs(5)[:1:-1]
    assert len(lines(folder)) == 5


def test_what_was_found_is_gone_as_soon_as_the_study_goes_on(folder, work):
    (folder / "found.json").write_text("{}")
    again(work, folder)
    assert not (folder / "found.json").exists()


@pytest.mark.parametrize("cut", [1, 2, 20, 80])
def test_a_line_that_was_cut_off_is_written_again(folder, work, cut):
    results = folder / "results.jsonl"
    whole = results.read_bytes()
    results.write_bytes(whole[:-cut])
    rows = again(work, folder)
    assert work.started() == ([] if cut == 1 else ["width=3"])  # 1: only the line break is missing
    assert len(lines(folder)) == 3
    assert rows == run_jobs(work, jobs(3))
    assert results.read_bytes().endswith(b"\n")


def test_a_damaged_line_is_named(folder, work):
    results = folder / "results.jsonl"
    results.write_text(
        results.read_text().replace('"seed"', '"sEed"', 2).replace('"sEed"', '"seed"', 1)
    )
    with pytest.raises(ValueError, match=r"results.jsonl, line 2, is no result of a training: del"):
        again(work, folder)


def test_numbers_that_are_not_finite_are_kept(tmp_path):
    values = {"loss": float("inf"), "least": float("-inf"), "small": 5e-324, "third": 1 / 3}
    run_jobs(lambda _: values | {"gap": float("nan")}, jobs(1), folder=tmp_path)
    (row,) = run_jobs(lambda _: {}, jobs(1), folder=tmp_path)
    assert row.values.pop("gap") != 0
    assert row.values == values


def test_the_folder_of_another_kind_of_study_is_refused(folder, work):
    expected = r"holds another study, with kind='widths' \(expected 'emc'\)\. Choose another folde"
    with pytest.raises(ValueError, match=expected):
        again(work, folder, study=Study("emc", {"depth": 2}))


def test_the_folder_of_a_study_of_something_else_is_refused(folder, work):
    expected = (
        r"another study, with depth=2 \(expected nothing\), noise=nothing \(expected 0\.2\)\."
    )
    with pytest.raises(ValueError, match=expected):
        again(work, folder, study=Study("widths", {"noise": 0.2}))


def test_other_arguments_under_the_same_key_are_refused(folder, work):
    other = Job("width=2", {"width": 3}, jobs(2)[1].seed)
    expected = r"its job 'width=2' has arguments={'width': 2} \(expected {'width': 3}\)\. Choose an"
    with pytest.raises(ValueError, match=expected):
        again(work, folder, [*jobs(1), other])
    assert not work.started()


def test_another_seed_is_refused(folder, work):
    with pytest.raises(
        ValueError, match=r"its job 'width=1' has seed=\d+ \(expected \d+\)\. Choose"
    ):
        again(work, folder, jobs(3, seed=1))


def test_a_folder_that_does_not_say_what_it_is_is_refused(folder, work):
    (folder / "study.json").write_text("{}")
    with pytest.raises(ValueError, match=r"study.json does not say what the study is: choose anot"):
        again(work, folder)


def test_arguments_of_a_study_are_plain_values():
    with pytest.raises(
        ValueError, match=r"the arguments of the study 'emc' are .*, expected plain"
    ):
        Study("emc", {"sizes": (1, 2)})


def test_one_process_at_a_time_runs_a_study(folder, work):
    def meanwhile(job):
        with pytest.raises(
            OSError, match=r"another process is running the study in .*study: wait "
        ):
            again(work, folder)
        return {}

    (row,) = again(meanwhile, folder, jobs(4)[3:])
    assert not row.error
    assert len(again(work, folder)) == 3  # what is over blocks nothing


# --- folders that somebody else wrote, damaged or meant to harm


def resume(folder):
    with open_results(folder, Study("emc", {})) as results:
        return results.rows


GOOD = {"key": "a", "arguments": {}, "seed": 1, "values": {"v": 1.0}, "error": "", "seconds": 1.0}


@pytest.mark.parametrize("field", GOOD)
@pytest.mark.parametrize("value", [None, [], "absent"])
def test_rows_without_a_field_or_with_another_are_named(tmp_path, field, value):
    resume(tmp_path)
    row = {**GOOD, field: value}
    if value == "absent":
        del row[field]
    lines = [GOOD | {"key": "before"}, row, GOOD | {"key": "after"}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "results.jsonl").write_text(text)
    with pytest.raises(ValueError, match=r"results.jsonl, line 2, is no result of a training: "):
        resume(tmp_path)


@pytest.mark.parametrize("line", [DEEP, "9" * 400, "Infinity", "\xff"])
def test_lines_that_are_no_json_are_named(tmp_path, line):
    resume(tmp_path)
    (tmp_path / "results.jsonl").write_text(f"{line}\n", encoding="latin-1")
    with pytest.raises(ValueError, match=r"results.jsonl, line 1, is no result of a training: "):
        resume(tmp_path)


def test_a_line_that_is_too_long_is_named_before_memory_is_taken(tmp_path):
    resume(tmp_path)
    with (tmp_path / "results.jsonl").open("wb") as sparse:
        sparse.truncate(2**33)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"results.jsonl, line 1, is no result of a training: "):
        resume(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**27


@pytest.mark.parametrize("make", [folder_there, pipe, endless, noise_there])
def test_a_lock_that_is_none_is_named(tmp_path, make):
    make(tmp_path / "lock")
    with pytest.raises(OSError, match=r"lock is no lock of a study \(.+\): delete it, unless"):
        resume(tmp_path)


@pytest.mark.parametrize("make", [folder_there, pipe, endless])
def test_results_that_are_no_file_are_named(tmp_path, make):
    make(tmp_path / "results.jsonl")
    with pytest.raises(OSError, match=r"results.jsonl cannot be opened \(it is no regular file\)"):
        resume(tmp_path)


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "study").touch()
    with pytest.raises(ValueError, match=r"study is no folder: choose another one for the st"):
        resume(tmp_path / "study")


@pytest.mark.parametrize("make", [pipe, endless, folder_there, noise_there])
def test_a_study_json_that_is_none_is_refused(tmp_path, make):
    make(tmp_path / "study.json")
    with pytest.raises(ValueError, match=r"study.json does not say what the study is: choose"):
        resume(tmp_path)


def test_a_job_is_read_back(tmp_path):
    resume(tmp_path)
    (tmp_path / "results.jsonl").write_text(json.dumps(GOOD))  # without its line break
    assert resume(tmp_path)["a"].job == Job("a", {}, 1)
