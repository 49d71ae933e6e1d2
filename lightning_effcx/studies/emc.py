r"""Effective model complexity of a training procedure: how many samples the user's code can fit.

`lightning_effcx.metrics.emc` defines it, and this study measures it. The user's Lightning code
trains on random subsamples of many sizes, several times at each size. After a training, its error
on its own samples is measured in eval mode, against the labels that it was trained on (wrong ones
included). The complexity is the largest size whose mean error is at most epsilon. It belongs to the
whole procedure: a Trainer with more epochs has another one.

The test error is measured, too. Along the number of samples it peaks where that number is about the
complexity: double descent.

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

_APART = sqrt(2)  # the least factor between two default sizes
_FINE = 1.1  # the largest factor between the complexity and the next larger size, after bisection


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

    The result does not depend on the executor. A training that fails does not end the study; means
    are over the trainings that succeeded.

    Args:
        make_module: Makes the `LightningModule` of each training. For other processes it must be
            picklable, as must `make_trainer` and `network`: a function of a module, or a
            `functools.partial`.
        dataset: The samples: tensors `(x, y)`, or a dataset with a length and items `(x, y)`. It is
            read into memory once, so put random augmentation into the module.
        epsilon: The mean error up to which samples count as fitted.
        sizes: The numbers of samples to train on. By default powers of two, up to the whole
            dataset. The study then bisects between the complexity and the next larger size, until
            they differ by a tenth. It does not bisect if the training error falls with the size by
            more than its error bars, because then larger sizes may be fitted, too.
        including: Sizes to train on as well, such as the number of samples that you have.
        repeats: How many trainings of each size; each has its own random samples.
        label_noise: The probability that a label is replaced by another class. It is drawn once for
            each sample and repeat.
        make_trainer: Makes the Trainer of each training. By default a Trainer of 100 epochs that
            writes no files. Its progress bar and model summary are not shown.
        executor: Where the trainings run, as in `run_jobs`; by default in this process. All samples
            are sent along with each training: in shared memory to processes of this machine, over
            the network to others.
        seed: The seed of the study, from which the seeds of all trainings derive.
        folder: Where results are kept. What is there is not trained again, also with another
            epsilon, other sizes or more repeats.
        test: The samples for the test error, in the form of `dataset`. They get no label noise.
        batch_size: The batch size of the training. If a single sample is left over in an epoch, it
            is left out, because BatchNorm refuses a batch of one.
        network: What to evaluate, such as `lambda module, x: module(x)[0]`; by default the module.
        threshold: The value above which a single output decides for class 1.
        threads: How many threads torch uses in each training.
        progress: Whether to show a bar, if this is a terminal.

    Raises:
        RuntimeError: All trainings failed, or the executor broke.
    """
    check_epsilon(epsilon)
    check_count("repeats", repeats)
    check_seed(seed)
    samples = Samples.read(dataset)
    grid = _grid(sizes, including, len(samples))
    work = SubsampleTraining(
        make_module=make_module,
        make_trainer=make_trainer,
        samples=samples,
        test=None if test is None else Samples.read(test),
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
            study=_identify(work),
            threads=threads,
            progress=progress,
        )

    rows = train(grid)
    found = EMCStudy.of(rows, epsilon)
    while sizes is None and (n := _next_size(found)):
        rows += train([n])
        found, before = EMCStudy.of(rows, epsilon), found
        if len(found.table) == len(before.table):  # all trainings of that size failed
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
    """Return the sizes to train on before any bisection, ascending."""
    options = {"sizes": _default_sizes(total) if sizes is None else sizes, "including": including}
    grid: set[int] = set()
    for name, given in options.items():
        check_kind(name, given, Iterable, "numbers of samples, such as [8, 16, 32]")
        for n in given:
            check_size(name, n, total)
            grid.add(int(n))
    if not grid:
        raise refusal(ValueError, "sizes", sizes, "at least one number of samples")
    return sorted(grid)


def _jobs(sizes: Iterable[int], repeats: int, seed: int) -> list[Job]:
    return [
        Job.of(f"n={n}/repeat={repeat}", {"n": n, "repeat": repeat}, seed=seed)
        for n in sizes
        for repeat in range(repeats)
    ]


def _next_size(found: EMCStudy) -> int | None:
    """Return the size at which to bisect next; `None` if bisection has ended or would mislead."""
    lower, upper = found.emc, found.interval[1]
    if upper is None or not lower or not found.monotone or upper <= lower * _FINE:
        return None
    return round(sqrt(lower * upper)) if upper > lower + 1 else None


def _identify(work: SubsampleTraining) -> Study:
    """Return what all trainings of a folder share; epsilon, sizes and repeats may change."""
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


def _name(function: Any) -> str:
    """Return the name of a callable in the code; of a partial with its plain arguments."""
    if isinstance(function, partial):
        given = [("", value) for value in function.args]
        given += [(f"{name}=", value) for name, value in function.keywords.items()]
        arguments = ", ".join(f"{name}{_argument(value)}" for name, value in given)
        return f"{_name(function.func)}({arguments})"
    if function is None:
        return "default"
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"


def _argument(value: Any) -> str:
    """Return an argument as text. What is not plain is named by its type: its repr may change."""
    plain = value is None or isinstance(value, (str, int, float, Path))
    return repr(value) if plain else type(value).__qualname__
