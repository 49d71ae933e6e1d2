r"""Double descent: where the test error of ever wider, or ever longer, trainings peaks.

With a fixed number of samples at hand, the test error falls, rises and falls again as a training
procedure grows. The rise is where its effective model complexity is about the number of samples:
procedures far below or far above it gain from growing, those about there may lose.

The same user's code is studied at several values of one thing, such as the width of its network or
the number of its epochs: at each, its complexity, and its test error with the samples at hand.

Nakkiran, Kaplun, Bansal, Yang, Barak, Sutskever, "Deep Double Descent: Where Bigger Models and More
Data Hurt", ICLR 2020.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from lightning_effcx.studies.descent_result import DescentStudy
from lightning_effcx.studies.emc import check_size, effective_model_complexity
from lightning_effcx.studies.training import Data, MakeModule, MakeTrainer, Samples

_Made = TypeVar("_Made")


def double_descent(  # noqa: PLR0913 all by name
    make_module: MakeModule | Mapping[float, MakeModule],
    dataset: Data,
    *,
    test: Data,
    samples: int,
    along: str = "width",
    epsilon: float = 0.1,
    repeats: int = 3,
    label_noise: float = 0.0,
    make_trainer: MakeTrainer | Mapping[float, MakeTrainer] | None = None,
    executor: Executor | None = None,
    seed: int = 0,
    folder: Path | str | None = None,
    batch_size: int = 64,
    network: Callable[[Any, Tensor], Tensor] | None = None,
    threshold: float = 0.0,
    threads: int = 1,
    progress: bool = True,
) -> DescentStudy:
    """Find where the test error peaks as a training procedure grows, and its complexities there.

    Args:
        make_module: Makes the module; or the same by value, such as `{8: partial(Net, 8), 64:
            partial(Net, 64)}`, for an error along its width.
        dataset: Samples as in `effective_model_complexity`. The complexity of the largest procedure
            is only known if they are some times as many as those at hand.
        test: For the test error, in the same form.
        samples: How many samples are at hand: the number at which errors are compared.
        along: What the values are.
        epsilon: Up to which mean error samples count as fitted. Where the loss is minimized beyond
            the error, as by least squares, the peak is where that ends: at small epsilon.
        repeats: How many trainings of each size and value, each on samples of its own.
        label_noise: Makes the peak visible, where there is little in the data.
        make_trainer: Makes the Trainer; or the same by value, such as `{10: partial(Trainer,
            max_epochs=10), ...}`, for an error along the epochs. Every training starts afresh, for
            one that ends sooner may have another schedule.
        executor: As in `run_jobs`; the values come one after the other.
        seed: Of the study; the values share samples and wrong labels.
        folder: Where results are kept, of each value in a folder of its own, such as `width=8`,
            which is that of a study of its complexity.
        batch_size: As in `effective_model_complexity`, like the others.
        network: What to evaluate.
        threshold: Above which a single output decides for class 1.
        threads: Of torch, in each training.
        progress: Show a bar for each value, if this is a terminal.

    Raises:
        RuntimeError: All trainings of a value failed, or the executor did.
    """
    values = _values(make_module, make_trainer)
    known, others = Samples.of(dataset), Samples.of(test)
    check_size("samples", samples, len(known))
    studies = {
        value: effective_model_complexity(
            _of(make_module, value),
            known,
            epsilon=epsilon,
            including=[samples],
            repeats=repeats,
            label_noise=label_noise,
            make_trainer=_of(make_trainer, value),
            executor=executor,
            seed=seed,
            folder=None if folder is None else Path(folder) / f"{along}={value:g}",
            test=others,
            batch_size=batch_size,
            network=network,
            threshold=threshold,
            threads=threads,
            progress=progress,
        )
        for value in values
    }
    return DescentStudy(along, samples, studies)


def _values(*made: Any) -> list[float]:
    """Return the values at which procedures are studied, ascending."""
    by_value = [each for each in made if isinstance(each, Mapping)]
    if not by_value or not by_value[0]:
        raise ValueError(
            "neither make_module nor make_trainer is made by value: expected a dictionary such as "
            "{8: make_narrow, 64: make_wide} for one of them."
        )
    if any(each.keys() != by_value[0].keys() for each in by_value):
        raise ValueError(
            f"make_module is made for {[*by_value[0]]}, but make_trainer for {[*by_value[1]]}: "
            "expected the same values."
        )
    return sorted(by_value[0])


def _of(made: _Made | Mapping[float, _Made], value: float) -> _Made:
    return made[value] if isinstance(made, Mapping) else made
