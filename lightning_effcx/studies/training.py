"""Training: the user's Lightning code, run on some of the samples, and the errors it ends with."""

import logging
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any, TypeAlias

import torch
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

from lightning_effcx.metrics.training_error import TrainingError
from lightning_effcx.network import observing
from lightning_effcx.options import check_count, check_number, refusal
from lightning_effcx.studies.label_noise import noisy_labels
from lightning_effcx.studies.runner import Job

# A LightningModule and a Trainer, of either package: both take seconds to import, also for those
# studies and processes that have no use for them.
MakeModule: TypeAlias = Callable[[], Any]
MakeTrainer: TypeAlias = Callable[[], Any]

_OF_NO_ACCOUNT = (  # advice on what is as it is meant to be
    "The '.*' does not have many workers",
    "You defined a `validation_step` but have no `val_dataloader`",
)


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs with their classes, in memory.

    Attributes:
        x: `(n, ...)`.
        classes: `(n,)`, whole numbers.
        form: An empty tensor `(0, ...)` of the form in which trainings get labels.
    """

    x: Tensor
    classes: Tensor
    form: Tensor

    @classmethod
    def of(cls, data: "Data") -> "Samples":
        """Read all of what `TrainingError` takes, once; what is read already is left as it is."""
        if isinstance(data, Samples):
            return data
        read = TrainingError(data)
        y = data[1] if isinstance(data, tuple) else default_collate([data[0][1]])
        return cls(read.x.cpu(), read.y.cpu(), y[:0].detach().cpu())

    def __len__(self) -> int:
        return len(self.x)

    def labels(self, classes: Tensor) -> Tensor:
        """Give classes the form of the labels that were read, `(n, ...)`."""
        return classes.to(self.form.dtype).reshape(len(classes), *self.form.shape[1:])


Data: TypeAlias = tuple[Tensor, Tensor] | Dataset[Any] | Samples
"""Tensors `(x, y)`, a dataset of such pairs, or what was read of either."""


class _Rows(TensorDataset):
    """Tensors whose rows are read a batch at once: one by one takes longer than a small network."""

    def __getitems__(self, rows: list[int]) -> list[Tensor]:
        return [tensor[rows] for tensor in self.tensors]


@dataclass(frozen=True, eq=False)
class SubsampleTraining:
    """The work of a job: train on `n` random samples; return the errors there and on test samples.

    Args:
        make_module: Makes the module; everything random is seeded by then.
        make_trainer: Makes its Trainer; `None` for that of `default_trainer`.
        samples: From which each job draws its own, without replacement.
        test: On which to measure too, or `None`.
        label_noise: The probability of each sample's label to be wrong.
        batch_size: Of the training.
        seed: Of the study. It and the repeat decide which labels are wrong, so that in one repeat
            a sample has the same label in trainings of all sizes.
        network: What to evaluate, `(module, x) -> (n, k)`; `None` for the module itself.
        threshold: As in `TrainingError`.
    """

    make_module: MakeModule
    make_trainer: MakeTrainer | None
    samples: Samples
    test: Samples | None
    label_noise: float
    batch_size: int
    seed: int
    network: Callable[[Any, Tensor], Tensor] | None
    threshold: float

    def __post_init__(self) -> None:
        _check_maker("make_module", self.make_module, "module", "Classifier, width=8")
        if self.make_trainer is not None:
            _check_maker("make_trainer", self.make_trainer, "Trainer", "Trainer, max_epochs=20")
        if self.test and self.test.x.shape[1:] != self.samples.x.shape[1:]:
            raise ValueError(
                f"a test sample has the shape {tuple(self.test.x.shape[1:])}, but one of the "
                f"dataset {tuple(self.samples.x.shape[1:])}: expected the same."
            )
        expected = "a probability, between 0 and 1"
        check_number("label_noise", self.label_noise, lambda given: 0 <= given <= 1, expected)
        check_number("threshold", self.threshold, isfinite, "a number, such as 0.5")
        check_count("batch_size", self.batch_size)

    def __call__(self, job: Job) -> dict[str, float]:
        """Run the job, whose arguments are `n` and `repeat`."""
        x, classes = self.drawn(job)
        with _quiet():
            module = self.make_module()
            trainer = self.make_trainer() if self.make_trainer else default_trainer(module)
            _hide(trainer)
            with _interruptible():
                trainer.fit(module, self._batches(x, self.samples.labels(classes)))
                if getattr(trainer, "interrupted", False):  # some versions return early
                    raise KeyboardInterrupt
        errors = {"train_error": self._error(module, x, classes)}
        if self.test:
            errors["test_error"] = self._error(module, self.test.x, self.test.classes)
        return errors

    def drawn(self, job: Job) -> tuple[Tensor, Tensor]:
        """Return the inputs and the classes, wrong ones included, that a job trains on."""
        order = torch.randperm(len(self.samples), generator=Generator().manual_seed(job.seed))
        chosen = order[: job.arguments["n"]]
        noise = Job.of(f"noise/repeat={job.arguments['repeat']}", {}, seed=self.seed).seed
        classes = noisy_labels(
            self.samples.classes, self.label_noise, Generator().manual_seed(noise)
        )
        return self.samples.x[chosen], classes[chosen]

    def _batches(self, x: Tensor, y: Tensor) -> DataLoader[Any]:
        # BatchNorm refuses a batch of one sample: where one would be left over, it waits for
        # another epoch.
        lonely = self.batch_size > 1 and len(x) > 1 and len(x) % self.batch_size == 1
        return DataLoader(
            _Rows(x, y), self.batch_size, shuffle=True, drop_last=lonely, collate_fn=list
        )

    def _error(self, module: Any, x: Tensor, classes: Tensor) -> float:
        error = TrainingError((x, classes), threshold=self.threshold)
        network = partial(self.network, module) if self.network else module
        with observing(module):
            error.update(network, x[:1].to(module.device))
        return float(error.compute()[error.name])


def _check_maker(name: str, given: Any, what: str, example: str) -> None:
    """Refuse what makes nothing, such as a module itself in the place of its class."""
    if isinstance(given, nn.Module) or not callable(given):
        expected = f"a class or function that makes a new {what} for each training"
        raise refusal(TypeError, name, given, f"{expected}, such as functools.partial({example})")


def default_trainer(module: Any) -> Any:
    """Make a Trainer of the module's own package that writes nothing, for 100 epochs."""
    from lightning_effcx.callbacks.lightning_compat import package_of  # noqa: PLC0415 see above

    trainer = package_of(module).Trainer
    return trainer(max_epochs=100, logger=False, enable_checkpointing=False)


def _hide(trainer: Any) -> None:
    """Leave out what a Trainer shows at each of many trainings, whose progress the study shows."""
    from lightning_effcx.callbacks.lightning_compat import of_kind  # noqa: PLC0415 see above

    shown = of_kind(trainer.callbacks, "ProgressBar", "ModelSummary")
    trainer.callbacks = [callback for callback in trainer.callbacks if callback not in shown]


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let an interrupt be one, that ends the study: Lightning leaves the process, and bars more."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except BaseException as error:
        interrupt = error if isinstance(error, KeyboardInterrupt) else error.__context__
        if not isinstance(interrupt, KeyboardInterrupt):
            raise
        if signal.getsignal(signal.SIGINT) != handler:  # as only the main thread may have it
            signal.signal(signal.SIGINT, handler)
        raise interrupt from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning from greeting at each of many trainings; what goes wrong it still says."""
    logs = [logging.getLogger(name) for name in ("lightning.pytorch", "pytorch_lightning")]
    levels = [log.level for log in logs]
    try:
        for log in logs:
            log.setLevel(max(log.level, logging.WARNING))
        with warnings.catch_warnings():
            for message in _OF_NO_ACCOUNT:
                warnings.filterwarnings("ignore", message)
            # What Lightning is warned of would be said again at each training.
            warnings.filterwarnings("ignore", ".* is deprecated", module="(pytorch_)?lightning[.]")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
