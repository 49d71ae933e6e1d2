"""Run the jobs of a study: in this process, or wherever a `concurrent.futures.Executor` does."""

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
from lightning_effcx.studies.runner.progress import progressing
from lightning_effcx.studies.runner.results import Study, recorded

Work: TypeAlias = Callable[[Job], Mapping[str, SupportsFloat]]
"""Trains as a job says, and returns numbers by name."""

_FRAMES = 8  # of a traceback, the innermost


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
    """Run every job that is not known yet; return the rows of all, in the order of the jobs.

    The rows are the same wherever and in whichever order the jobs run: before each one everything
    random is seeded with its seed, and torch is set up alike. In this process all that is restored
    afterwards. A job that raises becomes a row with an error, and the others go on. What ends the
    study ends it cleanly: jobs that did not start are cancelled, and what is done is kept.

    Args:
        work: Trains as a job says. Each job has a copy of its own, so that it finds nothing of what
            others did. For other processes it must be picklable: a function of a module, a
            `functools.partial` of one, or an object of a class with `__call__`.
        jobs: The trainings. Studies that choose jobs by the results of others call this several
            times with one folder.
        executor: Where they run, by default here, one after the other. Take processes: of threads
            in one process only one trains at a time, since they share random states. The caller
            closes it. Such as `ProcessPoolExecutor(2, get_context("spawn"))`, or the
            `get_executor()` of a `dask.distributed.Client`, where data loaders must do without
            workers: dask's processes may have no children.
        folder: Where each row is kept as soon as it is there; see `studies.records`. A study that
            stopped, or was killed, goes on from there. What is known is not run again, but what
            failed is, in every call. The folder of another study is refused.
        study: What the folder says the study is.
        threads: How many threads of torch each training has. As many as it has cores, divided by
            the number of workers, is fastest; other numbers may change the last digits of results.
        progress: Show a bar, if this is a terminal.

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
    jobs = _distinct(jobs)
    train = _train
    if isinstance(executor, ProcessPoolExecutor):
        _check_picklable(work)
        train = _train_for_parent
    run = partial(train, work, TorchSettings.current(threads))
    folder = None if folder is None else Path(folder)
    with recorded(folder, study or Study()) as records:
        lacking = records.lacking(jobs)
        with progressing(len(jobs), len(jobs) - len(lacking), shown=progress) as tell:

            def take(row: Row) -> None:
                records.add(row)
                tell(row)

            if executor is None:
                for job in lacking:
                    take(run(job))
            else:
                _spread(run, lacking, executor, take)
        return [records.rows[job.key] for job in jobs]


def _distinct(jobs: Iterable[Job]) -> list[Job]:
    by_key: dict[str, Job] = {}
    for job in jobs:
        if job.key in by_key:
            raise ValueError(f"two jobs have the key {job.key!r}, expected one for each job.")
        by_key[job.key] = job
    return list(by_key.values())


def _check_picklable(work: Work) -> None:
    try:
        pickle.dumps(work)
    except Exception as error:
        raise ValueError(
            f"the work {work!r} cannot be sent to other processes ({error}): take a function of a "
            "module, a functools.partial of one, or an object of a class with __call__."
        ) from error


def _train(work: Work, settings: TorchSettings, job: Job) -> Row:
    """Run one job, in whichever process this is."""
    start = perf_counter()
    values: dict[str, float] = {}
    error = ""
    with settings.seeded(job.seed):
        try:
            values = _numbers(deepcopy(work)(deepcopy(job)))
        except Exception as failure:  # noqa: BLE001 the row tells
            error = _told(failure)
    return Row(job, values, error, perf_counter() - start)


def _train_for_parent(work: Work, settings: TorchSettings, job: Job) -> Row:
    """Run one job in a process of a pool, as long as there is who takes the row."""
    _end_with_parent()
    return _train(work, settings, job)


@cache
def _end_with_parent() -> None:
    """End this process when its parent is killed: a pool's would train on, then wait for ever."""
    if parent := parent_process():

        def end() -> None:
            parent.join()
            os._exit(1)

        Thread(target=end, daemon=True).start()


def _numbers(values: Any) -> dict[str, float]:
    if not isinstance(values, Mapping) or not all(
        isinstance(name, str) and isinstance(value, SupportsFloat) for name, value in values.items()
    ):
        raise TypeError(f"the work returned {values!r}, expected a dictionary of numbers by name.")
    return {name: float(value) for name, value in values.items()}


def _told(error: BaseException) -> str:
    """Tell type and message in one line, then where it was raised."""
    summary = " ".join("".join(traceback.format_exception_only(error)).split())
    where = traceback.format_tb(error.__traceback__, limit=-_FRAMES)
    return "\n".join([summary, *(line.rstrip() for line in where)])


def _spread(
    run: Callable[[Job], Row],
    jobs: Sequence[Job],
    executor: Executor,
    take: Callable[[Row], None],
) -> None:
    """Run jobs on an executor and take each row when it is there, also when something ends us."""
    waiting: dict[Future[Row], Job] = {}
    undone = len(jobs)
    try:
        try:
            for job in jobs:
                waiting[executor.submit(run, job)] = job
            for future in as_completed(list(waiting)):
                take(_outcome(future, waiting[future]))
                del waiting[future]
                undone -= 1
        finally:
            for future in waiting:
                future.cancel()
            for future in waiting:
                if future.done() and not future.cancelled() and not future.exception():
                    take(future.result())
                    undone -= 1
    except (BrokenExecutor, CancelledError) as error:
        raise RuntimeError(
            f"the executor ended with {undone} of {len(jobs)} jobs undone ({error!r}), perhaps "
            "since a worker ran out of memory, or since a script lacks `if __name__ == "
            "'__main__':`. Start again with a new one and the same folder to do only those."
        ) from error


def _outcome(future: "Future[Row]", job: Job) -> Row:
    """Return the row of a job, also where its worker was lost and others were not."""
    try:
        return future.result()
    except (BrokenExecutor, CancelledError):
        raise
    except Exception as error:  # noqa: BLE001 the row tells
        return Row(job, error=_told(error))
