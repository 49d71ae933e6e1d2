r"""Double descent: where the test error peaks as a network becomes wider, or a training longer.

With a fixed number of samples, the test error of a training procedure falls, rises and falls again
as the procedure grows. It rises where the effective model complexity of the procedure is about the
number of samples. Much smaller and much larger procedures improve by growing; at that size they
may become worse.

The study trains the user's code at several values of one quantity, such as the width of the network
or the number of epochs. At each value it finds the complexity, and the test error with the given
number of samples.

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

_Maker = TypeVar("_Maker")


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
    """Find where the test error peaks as a training procedure grows, and the complexities there.

    The arguments that are not described here are those of `effective_model_complexity`.

    Args:
        make_module: Makes the module; or a dictionary with one such function for each value, such
            as `{8: partial(Net, 8), 64: partial(Net, 64)}` for a study along the width.
        dataset: The samples. The complexity of a procedure is only known up to their number, so
            give several times as many as `samples`.
        test: The samples for the test error, in the same form.
        samples: With how many training samples the errors are compared.
        along: What the values are, such as `width` or `epochs`.
        epsilon: The mean error up to which samples count as fitted. Choose a small one where the
            training lowers its loss further once all samples are right, as least squares does: the
            peak is then where the loss reaches its minimum.
        repeats: How many trainings of each size at each value; each has its own samples.
        label_noise: The probability of a wrong label. Noise makes the peak visible on easy data.
        make_trainer: Makes the Trainer; or a dictionary with one such function for each value, such
            as `{10: partial(Trainer, max_epochs=10), ...}` for a study along the epochs. A shorter
            training is no part of a longer one, because its learning rates may differ.
        executor: Where the trainings run. The values are studied one after the other.
        seed: The seed of the study. All values share their samples and wrong labels.
        folder: Where results are kept. Each value has a folder inside, such as `width=8`, which is
            the folder of a study of its complexity.
        batch_size: As in `effective_model_complexity`.
        network: As in `effective_model_complexity`.
        threshold: As in `effective_model_complexity`.
        threads: As in `effective_model_complexity`.
        progress: Whether to show a bar for each value, if this is a terminal.

    Raises:
        RuntimeError: All trainings of a value failed, or the executor broke.
    """
    values = _values(make_module, make_trainer)
    known, others = Samples.read(dataset), Samples.read(test)
    check_size("samples", samples, len(known))
    studies = {
        value: effective_model_complexity(
            _at(value, make_module),
            known,
            epsilon=epsilon,
            including=[samples],
            repeats=repeats,
            label_noise=label_noise,
            make_trainer=_at(value, make_trainer),
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


def _values(*makers: Any) -> list[float]:
    """Return the values at which procedures are studied, ascending."""
    by_value = [maker for maker in makers if isinstance(maker, Mapping)]
    if not by_value or not by_value[0]:
        raise ValueError(
            "neither make_module nor make_trainer is a dictionary by value: expected one such as "
            "{8: make_narrow, 64: make_wide}."
        )
    if any(maker.keys() != by_value[0].keys() for maker in by_value):
        raise ValueError(
            f"make_module has the values {[*by_value[0]]}, but make_trainer {[*by_value[1]]}: "
            "expected the same values in both."
        )
    return sorted(by_value[0])


def _at(value: float, maker: _Maker | Mapping[float, _Maker]) -> _Maker:
    """Return what makes the module, or the Trainer, of one value."""
    return maker[value] if isinstance(maker, Mapping) else maker
