"""Trainings over two processes, against the same in one: strategy_trainings.py does them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import strategy_trainings

# Which strategy does which trainings. To spawn takes longest: the package is imported every time.
RUNS = {
    "auto": ("curves", "validate", "few", "broken"),
    # Each in a process of its own that sees the error; forks are ended once one of them failed.
    "ddp": ("curves", "validate", "watched", "alone", "strict"),
    "ddp_fork": ("curves", "validate", "few", "broken"),
    "ddp_spawn": ("curves",),
    "fsdp2": ("curves", "validate", "few", "watched", "alone"),
}
PAIRS = [
    (strategy, training)
    for strategy, trainings in RUNS.items()
    for training in trainings
    if strategy != "auto" and training in RUNS["auto"]
]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What each rank told of the trainings under a strategy, which are done when first asked for.

    `told(strategy, training)` is a list, by rank.
    """
    folders: dict[str, Path] = {}

    def outcomes(strategy, training):
        if strategy not in folders:
            folders[strategy] = tmp_path_factory.mktemp(strategy)
            if strategy == "auto":
                strategy_trainings.run(strategy, 1, folders[strategy], RUNS[strategy])
            else:
                launch(strategy, folders[strategy])
        files = sorted(folders[strategy].glob(f"{training}-?.json"))
        assert len(files) == (1 if strategy == "auto" else 2), f"{training} did not end"
        return [json.loads(file.read_text()) for file in files]

    return outcomes


def launch(strategy, folder, seconds=240):
    """Do the trainings of a strategy; processes that hang are ended, with all their children."""
    command = [
        sys.executable,
        strategy_trainings.__file__,
        "--strategy",
        strategy,
        "--devices",
        "2",
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--out", folder, *RUNS[strategy]],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the ranks wait for each other: {(folder / 'log').read_text()[-2000:]}")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    assert process.returncode == 0, (folder / "log").read_text()[-2000:]


def values(entry):
    """What was measured, without what it cost."""
    measured = {tag: value for tag, value in entry.items() if tag.startswith("effcx")}
    return {tag: value for tag, value in measured.items() if "seconds/" not in tag}


def curves(told_by_one):
    return [values(entry["values"]) for entry in told_by_one["history"]]


@pytest.mark.parametrize(("strategy", "training"), PAIRS)
def test_all_ranks_log_the_same_metrics(told, strategy, training):
    first, second = told(strategy, training)
    assert [first["rank"], second["rank"]] == [0, 1]
    assert first["world"] == second["world"] == 2
    assert first["error"] == second["error"] == ""
    assert values(first["metrics"])
    assert values(first["metrics"]) == values(second["metrics"])


@pytest.mark.parametrize(("strategy", "training"), PAIRS)
def test_all_ranks_keep_the_same_history(told, strategy, training):
    first, second = told(strategy, training)
    assert first["history"]
    assert first["history"] == second["history"]


@pytest.mark.parametrize(("strategy", "training"), PAIRS)
def test_two_processes_measure_what_one_does(told, strategy, training):
    (expected,) = told("auto", training)
    near = [pytest.approx(entry, rel=1e-6, abs=1e-12) for entry in curves(expected)]
    for rank in told(strategy, training):
        if training == "broken":
            one = {tag: x for tag, x in values(rank["metrics"]).items() if "fails" not in tag}
            assert one == pytest.approx({tag: values(expected["metrics"])[tag] for tag in one})
            continue
        assert curves(rank) == near
        assert values(rank["metrics"]) == near[-1]


@pytest.mark.parametrize("strategy", ["ddp", "ddp_fork", "ddp_spawn", "fsdp2"])
def test_callbacks_that_watch_a_measure_decide_alike_on_all_ranks(told, strategy):
    (expected,) = told("auto", "curves")
    first, second = told(strategy, "curves")
    assert expected["stopped"] == first["stopped"] == second["stopped"] == 1
    assert expected["epoch"] == first["epoch"] == second["epoch"]
    assert first["best"] == second["best"]
    assert Path(first["best"][0]).name.startswith("epoch=0-")
    assert first["best"][1] == first["metrics"]["effcx/jacobian_norm"]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_weights_are_those_of_a_training_without_the_monitor(told, strategy):
    watched, alone = told(strategy, "watched"), told(strategy, "alone")
    assert watched[0]["history"]
    weights = [rank["weights"] for rank in (*watched, *alone)]
    assert all(other == weights[0] for other in weights)
    assert weights[0] != told(strategy, "validate")[0]["weights"]  # as they are at first


def test_a_metric_that_fails_on_one_rank_is_left_out_on_all(told):
    ranks = told("ddp_fork", "broken")
    warned = [text for rank in ranks for text in rank["warnings"] if text.startswith("effcx")]
    assert len(warned) == 1
    assert "leaves out the measure 'fails': on rank 1: this rank is tired" in warned[0]
    for rank in ranks:
        assert rank["error"] == ""
        assert [set(entry) for entry in curves(rank)] == [
            {"effcx/jacobian_norm", "effcx_stderr/jacobian_norm"}
        ] * 2


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_nobody_is_warned_where_all_is_well(told, strategy):
    # Lightning advises sync_dist=True for every value that a rank logs by itself.
    assert [rank["warnings"] for rank in told(strategy, "curves")] == [[], []]


def test_strictly_it_fails_on_all(told):
    errors = [rank["error"] for rank in told("ddp", "strict")]
    assert errors == ["ValueError: on rank 1: this rank is tired"] * 2
