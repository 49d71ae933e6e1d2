"""Run the jobs of a study: in this process, or on any `concurrent.futures.Executor`."""

import os
import pickle
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    as_completed,
)
from copy import deepcopy
from functools import cache, partial
from multiprocessing import parent_process
from pathlib import Path
from threading import Thread
from time import perf_counter
from typing import Any, SupportsFloat, TypeAlias

from lightning_effcx.options import check_count, check_switch
from lightning_effcx.studies.runner.determinism import TorchSettings
from lightning_effcx.studies.runner.jobs import Job, Row
from lightning_effcx.studies.runner.progress import progress_bar
from lightning_effcx.studies.runner.results import Study, open_results

Work: TypeAlias = Callable[[Job], Mapping[str, SupportsFloat]]
"""A function that runs the training of a job and returns numbers by name."""

_FRAMES = 8  # the innermost frames of a traceback, which a row keeps


def run_jobs(  # noqa: PLR0913 all by name
    work: Work,
    jobs: Iterable[Job],
    *,
    executor: Executor | None = None,
    folder: Path | str | None = None,
    study: Study | None = None,
    threads: int = 1,
    progress: bool = True,
) -> list[Row]:
    """Run every job whose result is not known yet; return the rows of all jobs, in their order.

    The rows do not depend on where the jobs run, nor in which order: before each job all global
    generators are seeded with the job's seed, and torch gets the same settings. Both are restored
    afterwards. (One exception: do not draw from Python's `random` in a training on dask. Other
    threads of its workers draw from there, too.)

    A job that raises an error becomes a row with that error, and the other jobs go on. If the study
    is interrupted, jobs that have not started are cancelled, and finished rows are kept.

    Args:
        work: The function that runs the training of a job. Each job gets a copy of it, so no job
            sees what another one changed. For other processes it must be picklable: a function of a
            module, a `functools.partial` of one, or an object of a class with `__call__`.
        jobs: The trainings. A study may call `run_jobs` several times with one folder, and choose
            later jobs by the results of earlier ones.
        executor: Where the jobs run; by default in this process, one after the other. Prefer
            processes to threads, of which only one trains at a time, because they share random
            states. Examples: `ProcessPoolExecutor(2, get_context("spawn"))`, or `get_executor()` of
            a `dask.distributed.Client`. On dask, data loaders must have no workers of their own,
            because its processes may not start others. The caller closes the executor.
        folder: Where each row is written as soon as its job has ended; `studies/runner/results.py`
            says how. A study that was stopped or killed goes on from there. Jobs that succeeded do
            not run again, jobs that failed do. The folder of another study is refused.
        study: What the folder is to say about the study.
        threads: How many threads torch uses in each training. Fastest is the number of cores
            divided by the number of workers. Other numbers may change the last digits of results.
        progress: Whether to show a bar, if this is a terminal.

    Raises:
        RuntimeError: The executor broke or was shut down.

    Example:
        >>> jobs = [Job.of(f"n={n}", {"n": n}, seed=0) for n in (1, 2)]
        >>> rows = run_jobs(lambda job: {"square": job.arguments["n"] ** 2}, jobs)
        >>> [row.values for row in rows]
        [{'square': 1.0}, {'square': 4.0}]
    """
    check_count("threads", threads)
    check_switch("progress", progress)
    jobs = _check_keys(jobs)
    train = _train
    if isinstance(executor, ProcessPoolExecutor):
        _check_picklable(work)
        train = _train_for_parent
    run = partial(train, work, TorchSettings.current(threads))
    folder = None if folder is None else Path(folder)
    with open_results(folder, study or Study()) as results:
        missing = results.missing(jobs)
        with progress_bar(len(jobs), len(jobs) - len(missing), shown=progress) as advance:

            def keep(row: Row) -> None:
                results.add(row)
                advance(row)

            if executor is None:
                for job in missing:
                    keep(run(job))
            else:
                _run_on(executor, run, missing, keep)
        return [results.rows[job.key] for job in jobs]


def _check_keys(jobs: Iterable[Job]) -> list[Job]:
    """Return the jobs as a list; refuse two of the same key."""
    by_key: dict[str, Job] = {}
    for job in jobs:
        if job.key in by_key:
            raise ValueError(f"two jobs have the key {job.key!r}: give each job its own.")
        by_key[job.key] = job
    return list(by_key.values())


def _check_picklable(work: Work) -> None:
    try:
        pickle.dumps(work)
    except Exception as error:
        raise ValueError(
            f"the work {work!r} cannot be sent to other processes ({error}): use a function of a "
            "module, a functools.partial of one, or an object of a class with __call__."
        ) from error


def _train(work: Work, settings: TorchSettings, job: Job) -> Row:
    """Run one job in the present process."""
    start = perf_counter()
    values: dict[str, float] = {}
    error = ""
    with settings.seeded(job.seed):
        try:
            values = _check_numbers(deepcopy(work)(deepcopy(job)))
        except Exception as failure:  # noqa: BLE001 the row tells
            error = _describe(failure)
    return Row(job, values, error, perf_counter() - start)


def _train_for_parent(work: Work, settings: TorchSettings, job: Job) -> Row:
    """Run one job in a process of a pool, which ends when its parent does."""
    _end_with_parent()
    return _train(work, settings, job)


@cache
def _end_with_parent() -> None:
    """End this process when its parent is killed. Otherwise it would train on and wait for ever."""
    if parent := parent_process():

        def end() -> None:
            parent.join()
            os._exit(1)

        Thread(target=end, daemon=True).start()


def _check_numbers(values: Any) -> dict[str, float]:
    """Return what the work returned, as floats; refuse anything but numbers by name."""
    if not isinstance(values, Mapping) or not all(
        isinstance(name, str) and isinstance(value, SupportsFloat) for name, value in values.items()
    ):
        raise TypeError(f"the work returned {values!r}, expected a dictionary of numbers by name.")
    return {name: float(value) for name, value in values.items()}


def _describe(error: BaseException) -> str:
    """Return type and message of an error in one line, and below it the end of the traceback."""
    summary = " ".join("".join(traceback.format_exception_only(error)).split())
    frames = traceback.format_tb(error.__traceback__, limit=-_FRAMES)
    return "\n".join([summary, *(frame.rstrip() for frame in frames)])


def _run_on(
    executor: Executor,
    run: Callable[[Job], Row],
    jobs: Sequence[Job],
    keep: Callable[[Row], None],
) -> None:
    """Run jobs on an executor, and keep each row as soon as it is there."""
    waiting: dict[Future[Row], Job] = {}
    undone = len(jobs)
    try:
        try:
            for job in jobs:
                waiting[executor.submit(run, job)] = job
            for future in as_completed(list(waiting)):
                keep(_row_of(future, waiting[future]))
                del waiting[future]
                undone -= 1
        finally:  # after an interrupt, too
            for future in waiting:
                future.cancel()
            for future in waiting:
                if future.done() and not future.cancelled() and not future.exception():
                    keep(future.result())
                    undone -= 1
    except (BrokenExecutor, CancelledError) as error:
        raise RuntimeError(
            f"the executor ended with {undone} of {len(jobs)} jobs undone ({error!r}). Perhaps a "
            "worker ran out of memory, or a script lacks `if __name__ == '__main__':`. Start "
            "again with a new executor and the same folder, to run only those jobs."
        ) from error


def _row_of(future: "Future[Row]", job: Job) -> Row:
    """Return the row of a job; one with an error if only this job's worker was lost."""
    try:
        return future.result()
    except (BrokenExecutor, CancelledError):
        raise
    except Exception as error:  # noqa: BLE001 the row tells
        return Row(job, error=_describe(error))
