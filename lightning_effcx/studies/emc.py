r"""Effective model complexity of a training procedure: how many samples the user's code can fit.

`lightning_effcx.metrics.emc` defines it. Here is how it is found: the user's Lightning code trains
on fresh subsamples of many sizes, several of each, and every training ends with the error on its
own samples, in eval mode, and against the labels that it was given, wrong ones included. The
complexity is the largest of these sizes whose mean error is at most epsilon. It is a property of
the whole procedure: of a Trainer with more epochs, it is another.

The test error along the number of samples, beside it, peaks where the two numbers are alike: double
descent.

Nakkiran, Kaplun, Bansal, Yang, Barak, Sutskever, "Deep Double Descent: Where Bigger Models and More
Data Hurt", ICLR 2020.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import isfinite, sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from torch import Tensor

from lightning_effcx.metrics.emc import EMC, check_epsilon, observed_emc
from lightning_effcx.studies.executor import run_jobs
from lightning_effcx.studies.jobs import Job, Row
from lightning_effcx.studies.records import Study
from lightning_effcx.studies.training import (
    Data,
    MakeModule,
    MakeTrainer,
    Samples,
    SubsampleTraining,
)

_APART = sqrt(2)  # sizes of the grid are at least that factor apart,
_FINE = 1.1  # and neighbours of the complexity at most that one, after refinement
_BARS = 3  # standard errors: many neighbours are compared


@dataclass(frozen=True)
class EMCRow:
    """What came of the trainings on `n` samples.

    Attributes:
        n: The number of samples.
        train_error: The mean error on the samples of the training itself.
        train_stderr: Its standard error over repeats; `None` without a repeat.
        test_error: The mean error on the test samples; `None` without such.
        test_stderr: Its standard error over repeats; `None` without a repeat.
        repeats: How many trainings there were; those that failed do not count.
    """

    n: int
    train_error: float
    train_stderr: float | None
    test_error: float | None
    test_stderr: float | None
    repeats: int

    @property
    def bar(self) -> float:
        """How far `train_error` may be off: few repeats may agree by chance, samples less so."""
        share = sqrt(self.train_error * (1 - self.train_error) / (self.n * self.repeats))
        return _BARS * max(share, self.train_stderr or 0)


@dataclass(frozen=True)
class EMCStudy:
    """The effective model complexity of a training procedure, and the trainings that show it.

    Attributes:
        emc: The largest size whose mean training error is at most epsilon; 0 where there is none.
        interval: The next smaller size that was observed, or 0, and the next larger, or `None`.
        epsilon: Up to which error samples count as fitted.
        table: What came of each size, ascending.
        monotone: Whether the training errors rise with the size, within their error bars. Where
            they do not, sizes beyond the complexity may be fitted again.
        failures: The trainings that failed. Sizes of which all did are not in the table.
    """

    emc: int
    interval: tuple[int, int | None]
    epsilon: float
    table: tuple[EMCRow, ...]
    monotone: bool
    failures: tuple[Row, ...]

    @property
    def censored(self) -> bool:
        """Whether the largest size is still fitted, so that the true value may be any larger."""
        return self.interval[1] is None


def effective_model_complexity(  # noqa: PLR0913 all by name
    make_module: MakeModule,
    dataset: Data,
    *,
    epsilon: float = 0.1,
    sizes: Sequence[int] | None = None,
    repeats: int = 3,
    label_noise: float = 0.0,
    make_trainer: MakeTrainer | None = None,
    executor: Executor | None = None,
    seed: int = 0,
    folder: Path | str | None = None,
    test: Data | None = None,
    batch_size: int = 64,
    network: Callable[[Any, Tensor], Tensor] | None = None,
    threshold: float = 0.0,
    threads: int = 1,
    progress: bool = True,
) -> EMCStudy:
    """Find the effective model complexity of a training procedure by training it many times.

    Results are the same whatever the executor. A training that fails does not end the study, and
    the mean is over the others.

    Args:
        make_module: Makes the `LightningModule` to train. For processes it must be picklable, as
            must `make_trainer` and `network`: a function of a module, or a `functools.partial`.
        dataset: The samples: tensors `(x, y)`, or a dataset with a length and items `(x, y)`,
            without augmentation, which belongs into the module. They are read into memory once.
        epsilon: Up to which mean error samples count as fitted.
        sizes: Numbers of samples to train on. By default powers of two up to the whole dataset,
            refined between the complexity and the next larger one until they are a tenth apart,
            unless the training errors fall with the size by more than their error bars: bisection
            would be no search then.
        repeats: How many trainings of each size, each on samples of its own.
        label_noise: The probability of a label to be replaced by another class, drawn once for
            each sample and repeat.
        make_trainer: Makes a new Trainer for each training. By default a quiet one, which trains
            for 100 epochs and leaves no files.
        executor: Where trainings run, as in `run_jobs`; by default here.
        seed: Of the study, from which those of the trainings derive.
        folder: Where results are kept: what is there is not trained again, also at another epsilon
            or with more sizes or repeats.
        test: Samples for the test error, in the form of `dataset`; they get no label noise.
        batch_size: Of the training. A single sample that is left over waits for another epoch.
        network: What to evaluate, such as `lambda module, x: module(x)[0]`; by default the module.
        threshold: Above which a single output decides for class 1.
        threads: Of torch, in each training.
        progress: Show a bar, if this is a terminal.

    Raises:
        RuntimeError: All trainings failed, or the executor did.
    """
    check_epsilon(epsilon)
    samples = Samples.of(dataset)
    grid = _default_sizes(len(samples)) if sizes is None else _checked(sizes, len(samples))
    if repeats < 1:
        raise ValueError(f"repeats={repeats}: expected at least 1.")
    if not 0 <= label_noise <= 1:
        raise ValueError(f"label_noise={label_noise}: expected a probability, between 0 and 1.")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: expected at least 1.")
    work = SubsampleTraining(
        make_module=make_module,
        make_trainer=make_trainer,
        samples=samples,
        test=None if test is None else Samples.of(test),
        label_noise=label_noise,
        batch_size=batch_size,
        seed=seed,
        network=network,
        threshold=threshold,
    )

    def train(sizes: Iterable[int]) -> list[Row]:
        return run_jobs(
            work,
            _jobs(sizes, repeats, seed),
            executor=executor,
            folder=folder,
            study=_identity(work),
            threads=threads,
            progress=progress,
        )

    rows = train(grid)
    found = _study(rows, epsilon)
    while sizes is None and (between := _between(found)):
        rows += train([between])
        found, before = _study(rows, epsilon), found
        if len(found.table) == len(before.table):  # all trainings failed
            break
    return found


def _default_sizes(total: int) -> list[int]:
    powers = (2**i for i in range(total.bit_length()))
    return [*(power for power in powers if power * _APART <= total), total]


def _checked(sizes: Iterable[int], total: int) -> list[int]:
    sizes = sorted({*sizes})
    if not sizes:
        raise ValueError("sizes is empty: expected at least one number of samples.")
    for n in sizes:
        if not 1 <= n <= total or n != int(n):
            raise ValueError(f"n={n} in sizes: expected whole numbers of 1 to {total} samples.")
    return [int(n) for n in sizes]


def _jobs(sizes: Iterable[int], repeats: int, seed: int) -> list[Job]:
    return [
        Job.of(f"n={n}/repeat={repeat}", {"n": n, "repeat": repeat}, seed=seed)
        for n in sizes
        for repeat in range(repeats)
    ]


def _between(found: EMCStudy) -> int | None:
    """Return the size at which to bisect next; `None` if there is none, or no reason to."""
    lower, upper = found.emc, found.interval[1]
    if upper is None or not lower or not found.monotone or upper <= lower * _FINE:
        return None
    return round(sqrt(lower * upper)) if upper > lower + 1 else None


def _study(rows: Sequence[Row], epsilon: float) -> EMCStudy:
    """Gather the rows of all trainings."""
    failures = tuple(row for row in rows if row.error)
    fine = [row for row in rows if not row.error]
    if not fine:
        raise RuntimeError(f"all {len(rows)} trainings failed, the first with: {rows[0].error}")
    found = observed_emc(
        [row.job.arguments["n"] for row in fine],
        [row.values["train_error"] for row in fine],
        epsilon=epsilon,
    )
    table = _table(found, fine)
    return EMCStudy(
        emc=found.emc,
        interval=(found.lower, found.upper),
        epsilon=epsilon,
        table=table,
        monotone=_rises(table),
        failures=failures,
    )


def _table(found: EMC, rows: Sequence[Row]) -> tuple[EMCRow, ...]:
    columns = (found.sizes, found.errors, found.stderrs, found.repeats)
    table = []
    for n, error, stderr, repeats in zip(*(column.tolist() for column in columns), strict=True):
        here = [row.values for row in rows if row.job.arguments["n"] == n]
        tests = [values["test_error"] for values in here if "test_error" in values]
        table.append(
            EMCRow(
                n=n,
                train_error=error,
                train_stderr=stderr if isfinite(stderr) else None,
                test_error=fmean(tests) if tests else None,
                test_stderr=stdev(tests) / sqrt(len(tests)) if len(tests) > 1 else None,
                repeats=repeats,
            )
        )
    return tuple(table)


def _rises(table: Sequence[EMCRow]) -> bool:
    """Tell whether no error is clearly below that of the next smaller size."""
    return all(
        right.train_error >= left.train_error - sqrt(left.bar**2 + right.bar**2)
        for left, right in pairwise(table)
    )


def _identity(work: SubsampleTraining) -> Study:
    """Say what the trainings of a folder share; epsilon, sizes and repeats may change."""
    return Study(
        "emc",
        {
            "make_module": _name(work.make_module),
            "make_trainer": _name(work.make_trainer),
            "network": _name(work.network),
            "threshold": work.threshold,
            "samples": len(work.samples),
            "test_samples": len(work.test) if work.test else 0,
            "label_noise": work.label_noise,
            "batch_size": work.batch_size,
            "seed": work.seed,
        },
    )


def _name(made_by: Any) -> str:
    """Name a callable as in the code; of a partial with the plain values it is given."""
    if isinstance(made_by, partial):
        given = [("", value) for value in made_by.args]
        given += [(f"{name}=", value) for name, value in made_by.keywords.items()]
        return f"{_name(made_by.func)}({', '.join(f'{name}{_told(v)}' for name, v in given)})"
    if made_by is None:
        return "default"
    named = made_by if hasattr(made_by, "__qualname__") else type(made_by)
    return f"{named.__module__}:{named.__qualname__}"


def _told(value: Any) -> str:
    plain = value is None or isinstance(value, (str, int, float, Path))
    return repr(value) if plain else type(value).__qualname__
