"""Training: run the user's Lightning code on a random subsample, and measure its errors."""

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

# `Any` is a LightningModule and a Trainer of either of Lightning's two packages. This file imports
# neither at its top, because both take seconds, and not every study and process needs them.
MakeModule: TypeAlias = Callable[[], Any]
MakeTrainer: TypeAlias = Callable[[], Any]

_UNWANTED_ADVICE = (  # of Lightning, about what is on purpose here
    "The '.*' does not have many workers",
    "You defined a `validation_step` but have no `val_dataloader`",
)


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs with their classes, in memory.

    Attributes:
        x: The inputs `(n, ...)`.
        classes: The classes `(n,)`, whole numbers.
        form: An empty tensor `(0, ...)` with the shape and precision of the user's labels.
    """

    x: Tensor
    classes: Tensor
    form: Tensor

    @classmethod
    def read(cls, data: "Data") -> "Samples":
        """Read data in any form that `TrainingError` takes; return `Samples` unchanged."""
        if isinstance(data, Samples):
            return data
        checked = TrainingError(data)
        y = data[1] if isinstance(data, tuple) else default_collate([data[0][1]])
        return cls(checked.x.cpu(), checked.y.cpu(), y[:0].detach().cpu())

    def __len__(self) -> int:
        return len(self.x)

    def labels(self, classes: Tensor) -> Tensor:
        """Return classes `(n,)` in the form of the user's labels, `(n, ...)`."""
        return classes.to(self.form.dtype).reshape(len(classes), *self.form.shape[1:])


Data: TypeAlias = tuple[Tensor, Tensor] | Dataset[Any] | Samples
"""Tensors `(x, y)`, a dataset of such pairs, or either of them after `Samples.read`."""


class _Rows(TensorDataset):
    """A dataset that reads a whole batch at once.

    Reading sample by sample takes longer than training a small network.
    """

    def __getitems__(self, rows: list[int]) -> list[Tensor]:
        return [tensor[rows] for tensor in self.tensors]


@dataclass(frozen=True, eq=False)
class SubsampleTraining:
    """The work of a job: train on `n` random samples, and return the training and test error.

    Args:
        make_module: Makes the module, after the generators are seeded.
        make_trainer: Makes the Trainer; `None` for `default_trainer`.
        samples: The samples from which each job draws its own, without replacement.
        test: The test samples, or `None`.
        label_noise: The probability that a label is wrong.
        batch_size: The batch size of the training.
        seed: The seed of the study. Together with the repeat it decides which labels are wrong, so
            in one repeat a sample has the same label in trainings of all sizes.
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
        """Run a job with the arguments `n` and `repeat`."""
        x, classes = self.draw(job)
        with _quiet_lightning():
            module = self.make_module()
            trainer = self.make_trainer() if self.make_trainer else default_trainer(module)
            _remove_displays(trainer)
            with _interrupts_raised():
                trainer.fit(module, self._batches(x, self.samples.labels(classes)))
                # Some versions of Lightning return early after an interrupt, and raise nothing.
                if getattr(trainer, "interrupted", False):
                    raise KeyboardInterrupt
        errors = {"train_error": self._error(module, x, classes)}
        if self.test:
            errors["test_error"] = self._error(module, self.test.x, self.test.classes)
        return errors

    def draw(self, job: Job) -> tuple[Tensor, Tensor]:
        """Draw the inputs and the classes, wrong ones included, that a job trains on."""
        order = torch.randperm(len(self.samples), generator=Generator().manual_seed(job.seed))
        chosen = order[: job.arguments["n"]]
        noise = Job.of(f"noise/repeat={job.arguments['repeat']}", {}, seed=self.seed).seed
        classes = noisy_labels(
            self.samples.classes, self.label_noise, Generator().manual_seed(noise)
        )
        return self.samples.x[chosen], classes[chosen]

    def _batches(self, x: Tensor, y: Tensor) -> DataLoader[Any]:
        # BatchNorm refuses a batch of one sample. If one is left over, drop it for this epoch.
        one_left = self.batch_size > 1 and len(x) > 1 and len(x) % self.batch_size == 1
        return DataLoader(
            _Rows(x, y), self.batch_size, shuffle=True, drop_last=one_left, collate_fn=list
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
    """Make a Trainer of the module's own package that trains 100 epochs and writes no files."""
    from lightning_effcx.callbacks.lightning_compat import package_of  # noqa: PLC0415 see above

    trainer = package_of(module).Trainer
    return trainer(max_epochs=100, logger=False, enable_checkpointing=False)


def _remove_displays(trainer: Any) -> None:
    """Remove the progress bar and the model summary, because the study has a bar of its own."""
    from lightning_effcx.callbacks.lightning_compat import find_by_class_name  # noqa: PLC0415 see above

    displays = find_by_class_name(trainer.callbacks, "ProgressBar", "ModelSummary")
    trainer.callbacks = [callback for callback in trainer.callbacks if callback not in displays]


@contextmanager
def _interrupts_raised() -> Iterator[None]:
    """Raise `KeyboardInterrupt` after an interrupt, so that it ends the study.

    Lightning would end the process instead, and ignore further interrupts.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except BaseException as error:
        interrupt = error if isinstance(error, KeyboardInterrupt) else error.__context__
        if not isinstance(interrupt, KeyboardInterrupt):
            raise
        # Only the main thread may set a handler, and only there Lightning has replaced it.
        if signal.getsignal(signal.SIGINT) != handler:
            signal.signal(signal.SIGINT, handler)
        raise interrupt from None


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Hide what Lightning prints at the start of each training, but not its other warnings."""
    logs = [logging.getLogger(name) for name in ("lightning.pytorch", "pytorch_lightning")]
    levels = [log.level for log in logs]
    try:
        for log in logs:
            log.setLevel(max(log.level, logging.WARNING))
        with warnings.catch_warnings():
            for message in _UNWANTED_ADVICE:
                warnings.filterwarnings("ignore", message)
            # Deprecation warnings about Lightning's own code would come again at each training.
            warnings.filterwarnings("ignore", ".* is deprecated", module="(pytorch_)?lightning[.]")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
