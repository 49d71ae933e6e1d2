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
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_effcx.metrics.emc import check_epsilon
from lightning_effcx.options import check_count, check_kind, check_number, check_seed, refusal
from lightning_effcx.studies.emc_result import EMCStudy
from lightning_effcx.studies.runner import Job, Row, Study, digest_of, run_jobs, write_found
from lightning_effcx.studies.training import (
    Data,
    MakeModule,
    MakeTrainer,
    Samples,
    SubsampleTraining,
)

_APART = sqrt(2)  # sizes of the grid are at least that factor apart,
_FINE = 1.1  # and neighbours of the complexity at most that one, after refinement


def effective_model_complexity(  # noqa: PLR0913 all by name
    make_module: MakeModule,
    dataset: Data,
    *,
    epsilon: float = 0.1,
    sizes: Sequence[int] | None = None,
    including: Sequence[int] = (),
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
        including: More sizes to train on, such as that of the samples at hand.
        repeats: How many trainings of each size, each on samples of its own.
        label_noise: The probability of a label to be replaced by another class, drawn once for
            each sample and repeat.
        make_trainer: Makes a new Trainer for each training. By default one that trains for 100
            epochs and leaves no files. Its progress bar and model summary are not shown: there are
            many of them, and the study shows its own progress.
        executor: Where trainings run, as in `run_jobs`; by default here. All samples go along with
            each: to processes of this machine in shared memory, to others over the network.
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
    check_count("repeats", repeats)
    check_seed(seed)
    samples = Samples.of(dataset)
    grid = _grid(sizes, including, len(samples))
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
    found = EMCStudy.of(rows, epsilon)
    while sizes is None and (between := _between(found)):
        rows += train([between])
        found, before = EMCStudy.of(rows, epsilon), found
        if len(found.table) == len(before.table):  # all trainings failed
            break
    if folder is not None:
        write_found(folder, found.as_json())
    return found


def check_size(name: str, n: Any, total: int) -> None:
    """Refuse a number of samples that a dataset of `total` samples cannot give."""
    expected = f"a whole number from 1 to {total}, which is how many samples there are"
    check_number(name, n, lambda given: 1 <= given <= total and given == int(given), expected)


def _default_sizes(total: int) -> list[int]:
    powers = (2**i for i in range(total.bit_length()))
    return [*(power for power in powers if power * _APART <= total), total]


def _grid(sizes: Sequence[int] | None, including: Sequence[int], total: int) -> list[int]:
    """Return the sizes to train on before any refinement, ascending."""
    chosen = _default_sizes(total) if sizes is None else sizes
    for name, given in (("sizes", chosen), ("including", including)):
        check_kind(name, given, Iterable, "numbers of samples, such as [8, 16, 32]")
        for n in given:
            check_size(name, n, total)
    grid = sorted({int(n) for n in (*chosen, *including)})
    if not grid:
        raise refusal(ValueError, "sizes", sizes, "at least one number of samples")
    return grid


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


def _identity(work: SubsampleTraining) -> Study:
    """Say what the trainings of a folder share; epsilon, sizes and repeats may change."""
    known = [work.samples, *([work.test] if work.test else [])]
    return Study(
        "emc",
        {
            "make_module": _name(work.make_module),
            "make_trainer": _name(work.make_trainer),
            "network": _name(work.network),
            "threshold": work.threshold,
            "samples": len(work.samples),
            "test_samples": len(work.test) if work.test else 0,
            "data": digest_of(tensor for samples in known for tensor in vars(samples).values()),
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
