import json
import os
import random
import re
import signal
import subprocess
import sys
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from time import sleep

import numpy as np
import psutil
import pytest
import torch
from dask_clusters import dask_executor
from study_jobs import Counted, abort, jobs, process, trained

from lightning_effcx.studies import Job, Row, run_jobs

SUPPORT = Path(__file__).parents[2] / "support"


def values(rows):
    return [row.values for row in rows]


def keys(count):
    return [job.key for job in jobs(count)]


@pytest.fixture(scope="module")
def here():
    return run_jobs(trained, jobs())


@pytest.fixture(scope="module")
def pool():
    with ProcessPoolExecutor(2, get_context("spawn")) as executor:
        yield executor


class Backwards(Executor):
    """Starts when so many jobs are there, in this process, with the last."""

    def __init__(self, count):
        self.count = count
        self.calls = []

    def submit(self, function, *arguments):
        self.calls.append((Future(), partial(function, *arguments)))
        if len(self.calls) == self.count:
            for future, call in reversed(self.calls):
                self.work(future, call)
        return self.calls[-1][0]

    def work(self, future, call):
        future.set_running_or_notify_cancel()
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 as pools do
            future.set_exception(error)


class Lossy(Backwards):
    """Loses the worker of its first job."""

    def work(self, future, call):
        if future is self.calls[0][0]:
            future.set_running_or_notify_cancel()
            future.set_exception(OSError("the worker is gone"))
        else:
            super().work(future, call)


def test_in_another_order_the_rows_are_the_same(here):
    assert run_jobs(trained, jobs(), executor=Backwards(6)) == here
    assert run_jobs(trained, jobs()[::-1]) == here[::-1]
    assert len({row.values["loss"] for row in here}) == 6


def test_other_seeds_give_other_rows(here):
    others = values(run_jobs(trained, jobs(seed=1)))
    assert not {row["loss"] for row in others} & {row.values["loss"] for row in here}


def test_a_pool_of_processes_gives_the_same_rows(here, pool):
    assert run_jobs(trained, jobs(), executor=pool) == here
    assert str(os.getpid()) not in str(values(run_jobs(process, jobs(), executor=pool)))


def test_threads_give_the_same_rows(here):
    with ThreadPoolExecutor(3) as threads:
        assert run_jobs(trained, jobs(), executor=threads) == here


def test_a_dask_cluster_gives_the_same_rows():
    # Threads of a dask worker draw from Python's `random`, so the training does without it.
    work = partial(trained, generators=("torch", "numpy"))
    with dask_executor() as executor:
        assert run_jobs(work, jobs(), executor=executor) == run_jobs(work, jobs())
        used = {row["process"] for row in values(run_jobs(process, jobs(8), executor=executor))}
        assert len(used) == 2
        assert os.getpid() not in used
        failed = run_jobs(Counted(Path("/nowhere/log")), jobs(1), executor=executor)
        assert failed[0].error.startswith("FileNotFoundError: ")


def test_the_switches_of_torch_go_along(pool):
    torch.set_default_dtype(torch.float64)
    try:
        rows = run_jobs(trained, jobs(2), executor=pool, threads=2)
        assert rows == run_jobs(trained, jobs(2), threads=2)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(row["threads"] == 2 and row["precise"] for row in values(rows))


def test_the_process_is_as_before():
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
        with torch.inference_mode():
            run_jobs(trained, jobs(2), threads=2)
            assert torch.is_inference_mode_enabled()
        assert random.getstate() == states[0]
        assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), states[2])
        assert torch.get_num_threads() == 1
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_job_finds_nothing_of_what_others_did_to_the_work():
    seen = [0]

    def adding(job, seen):
        seen[0] += job.arguments.pop("width")
        return {"seen": seen[0]}

    rows = run_jobs(partial(adding, seen=seen), jobs(3))
    assert values(rows) == [{"seen": 1.0}, {"seen": 2.0}, {"seen": 3.0}]
    assert [row.job for row in rows] == jobs(3)


def test_seeds_depend_on_the_key_and_on_that_of_the_study_only():
    seeds = [job.seed for seed in range(10) for job in jobs(100, seed=seed)]
    assert len(set(seeds)) == 1000
    assert Job.of("a", {}, seed=3).seed == Job.of("a", {"n": 1}, seed=3).seed == 2356162490


def test_an_error_is_a_row_and_the_others_go_on(tmp_path):
    work = Counted(tmp_path / "log", fails=("width=2",))
    rows = run_jobs(work, jobs(3), folder=tmp_path / "study")
    assert [bool(row.error) for row in rows] == [False, True, False]
    assert rows[1].values == {}
    first, *rest = rows[1].error.splitlines()
    assert first == "KeyError: 'width=2'"
    assert "study_jobs.py" in rest[-2]
    assert "raise KeyError(job.key)" in rest[-1]
    assert work.started() == keys(3)

    work.fails = ()  # next time what failed is tried again, and nothing else
    again = run_jobs(work, jobs(3), folder=tmp_path / "study")
    assert not any(row.error for row in again)
    assert again == run_jobs(work, jobs(3))
    assert work.started() == [*keys(3), "width=2", *keys(3)]


@pytest.mark.parametrize("returned", [None, [1.0], {"loss": "low"}, {1: 1.0}])
def test_work_that_returns_no_numbers_fails(returned):
    (row,) = run_jobs(lambda _: returned, jobs(1))
    expected = f"TypeError: the work returned {returned!r}, expected a dictionary of numbers by"
    assert row.error.startswith(expected)


def test_a_lost_worker_is_an_error_of_its_job_only(tmp_path):
    rows = run_jobs(trained, jobs(3), executor=Lossy(3), folder=tmp_path)
    assert rows[0].error.startswith("OSError: the worker is gone\n")
    assert not any(row.error for row in rows[1:])
    assert np.isnan(rows[0].seconds)
    assert not any(row.error for row in run_jobs(trained, jobs(3), folder=tmp_path))


def test_a_broken_executor_says_how_to_go_on(tmp_path):
    with (
        ProcessPoolExecutor(1, get_context("fork")) as pool,
        pytest.raises(RuntimeError, match=r"ended with 2 of 2 jobs undone .* a new executor and t"),
    ):
        run_jobs(abort, jobs(2), executor=pool, folder=tmp_path)


def test_an_executor_that_was_shut_down_says_so():
    threads = ThreadPoolExecutor(1)
    threads.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        run_jobs(trained, jobs(2), executor=threads)


def test_work_that_other_processes_cannot_have_is_refused(pool):
    with pytest.raises(
        ValueError, match=r"lambda.* cannot be sent to other processes \(.*: use a "
    ):
        run_jobs(lambda _: {}, jobs(1), executor=pool)


@pytest.mark.parametrize("executor", [None, Backwards(6)], ids=["here", "executor"])
def test_interrupted_it_keeps_what_is_done(tmp_path, executor):
    work = Counted(tmp_path / "log", interrupts=("width=3",))
    with pytest.raises(KeyboardInterrupt):
        run_jobs(work, jobs(), executor=executor, folder=tmp_path / "study")
    before = work.started()
    work.interrupts = ()
    rows = run_jobs(work, jobs(), folder=tmp_path / "study")
    lacking = ["width=3"] if executor else keys(6)[2:]
    assert work.started() == [*before, *lacking]
    assert rows == run_jobs(work, jobs())


@contextmanager
def study_in_a_process(tmp_path, where, waits):
    """A study that has come to the jobs at which it waits, with the others before them done."""
    process = subprocess.Popen(
        [sys.executable, SUPPORT / "study_jobs.py", tmp_path / "study", where, ",".join(waits)],
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while len(done(tmp_path)) + 1 < int(waits[0][-1]) or not set(waits) <= set(
            started(tmp_path)
        ):
            assert process.poll() is None, process.stderr.read()
            sleep(0.02)
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def started(tmp_path):
    return Counted(tmp_path / "log").started()


def done(tmp_path):
    results = tmp_path / "study/results.jsonl"
    lines = results.read_text().splitlines(keepends=True) if results.exists() else []
    return [json.loads(line)["key"] for line in lines if line.endswith("\n")]


def goes_on(tmp_path):
    """Start the study again: what is done does not run again, and all else does."""
    (tmp_path / "log").unlink()
    rest = [key for key in keys(6) if key not in done(tmp_path)]
    work = Counted(tmp_path / "log")
    rows = run_jobs(work, jobs(), folder=tmp_path / "study")
    assert work.started() == rest
    assert rows == run_jobs(work, jobs())
    return rest


def test_killed_it_goes_on_and_repeats_nothing(tmp_path):
    with study_in_a_process(tmp_path, "here", ["width=4"]) as process:
        process.kill()
        process.wait()
    assert started(tmp_path) == keys(4)
    assert goes_on(tmp_path) == keys(6)[3:]  # the fourth had not ended


def test_killed_with_a_pool_its_workers_end_too(tmp_path):
    with study_in_a_process(tmp_path, "pool", ["width=3", "width=4"]) as process:
        workers = psutil.Process(process.pid).children(recursive=True)
        assert len(workers) >= 2
        process.kill()
        process.wait()
        assert not psutil.wait_procs(workers, timeout=10)[1]
    assert goes_on(tmp_path) == keys(6)[2:]


def test_interrupted_at_the_terminal_a_pool_stops_at_once(tmp_path):
    with study_in_a_process(tmp_path, "pool", ["width=2", "width=3"]) as process:
        os.killpg(process.pid, signal.SIGINT)
        assert "KeyboardInterrupt" in process.communicate(timeout=20)[1]
        assert process.returncode
    assert {"width=2", "width=3"} <= set(goes_on(tmp_path))


def test_two_jobs_of_one_key_are_refused():
    with pytest.raises(ValueError, match="two jobs have the key 'width=1': give each job its own"):
        run_jobs(trained, [*jobs(1), *jobs(1)])


def test_arguments_that_are_no_plain_values_are_refused():
    for value in ((1, 2), torch.ones(1), float("nan"), np.int64(1), {1: 2}):
        expected = re.escape(
            f"the arguments of the job 'a' are {{'value': {value!r}}}, expected pl"
        )
        with pytest.raises(ValueError, match=expected):
            Job.of("a", {"value": value})


def test_a_seed_that_numpy_does_not_take_is_refused():
    with pytest.raises(ValueError, match="the job 'a' has the seed -1, but numpy takes only seeds"):
        Job("a", {}, -1)


def test_rows_that_took_another_time_are_equal():
    assert Row(jobs(1)[0], {}, seconds=1.0) == Row(jobs(1)[0], {}, seconds=2.0)
