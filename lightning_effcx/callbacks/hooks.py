"""The hooks: in which order Lightning calls a callback that measures, in all kinds of trainings.

A training may have a sanity check or none, validations or none, and callbacks that average weights
before or after ours. This file knows that; `monitor.py` knows what is measured.
"""

from abc import ABCMeta, abstractmethod
from collections.abc import Callable
from typing import Any

from typing_extensions import override

from lightning_effcx.callbacks.distributed import gather
from lightning_effcx.callbacks.guard import Guard
from lightning_effcx.callbacks.lightning_compat import (
    Callback,
    LightningModule,
    Trainer,
    averaged_weights,
    callbacks_around,
    validation_step,
)
from lightning_effcx.callbacks.probe import Probe
from lightning_effcx.callbacks.reporting import Reporter, as_tensors
from lightning_effcx.callbacks.schedules import Schedule


class MeasuringHooks(Callback, metaclass=ABCMeta):
    """Collects a probe, measures when the schedule and the budget say so, and reports the values.

    A subclass says what is measured. It makes the objects below for each run of a Trainer.
    """

    history: list[dict[str, Any]]
    """One entry per measurement: `epoch`, `step`, and `values` by tag."""
    _validations: int
    """How many validations this training had, or epochs if it has none."""
    _probe: Probe
    _schedule: Schedule
    _guard: Guard
    _reporter: Reporter

    @abstractmethod
    def _rehearse(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find what will be measured, so that a mistake shows before the training begins."""

    @abstractmethod
    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float] | None:
        """Measure the weights as they are now; return the values by tag, or None after an error."""

    # -- which samples

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.history:
            # A resumed training: until its next measurement, callbacks that watch a measure find
            # the last value, as they do in a training that was not interrupted.
            trainer.callback_metrics.update(as_tensors(self.history[-1]["values"]))
        # Training samples are measured until there are validation samples.
        if not (trainer.enable_validation and self._probe.collected.batch):
            self._probe.start_stage("training")
        if not trainer.enable_validation:
            self._guard.inform(
                "no validation runs in this training, so the first training samples are measured, "
                "at the end of each epoch."
            )

    @override
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._probe.start_stage("sanity" if trainer.sanity_checking else "validation")

    @override
    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._probe.start_batch(trainer, pl_module, dataloader_idx)

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._probe.end_batch(trainer, batch, dataloader_idx)

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._probe.start_batch(trainer, pl_module)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._probe.end_batch(trainer, batch)

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._probe.stop_recording()

    # -- when

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            self._rehearse(trainer, pl_module)
        elif trainer.state.fn != "fit" or self._count_validation():
            before, _ = callbacks_around(trainer, self)
            self._record(trainer, pl_module, before, validation_step(trainer), pl_module.log)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._reporter.write(trainer)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.enable_validation and self._count_validation():
            before, after = callbacks_around(trainer, self)
            step = validation_step(trainer) - 1
            self._record(trainer, pl_module, before + after, step, pl_module.log)
            self._reporter.write(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._schedule.wants_end(self._validations):
            # Callbacks before ours have already left their averaged weights in the module.
            _, after = callbacks_around(trainer, self)
            self._record(trainer, pl_module, after, validation_step(trainer) - 1)
            self._reporter.write(trainer)

    def _record(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        averaging: list[Any],
        step: int,
        log: Callable[..., None] | None = None,
    ) -> None:
        """Measure, report the values, and keep them in the history.

        Args:
            trainer: The Trainer.
            pl_module: The user's module.
            averaging: Callbacks whose averaged weights, if they have some, are to be measured.
            step: Where on the step axis the values stand.
            log: The module's `log`, in hooks in which Lightning allows it.
        """
        with averaged_weights(trainer, pl_module, averaging):
            values = self._measure(trainer, pl_module)
        if values is not None:
            self._reporter.report(trainer, values, step, log)
            self.history.append({"epoch": trainer.current_epoch, "step": step, "values": values})

    def _count_validation(self) -> bool:
        """Count a validation, or an epoch without one; tell whether it is measured."""
        count = self._validations
        self._validations += 1
        is_wanted = False
        with self._guard("a validation"):
            is_wanted = self._schedule.wants(count)
        budget = self._schedule.budget
        affords = gather(budget.affords())[0]  # all ranks follow the clock of the first
        if is_wanted and not affords:
            self._guard.inform(
                f"measuring takes {budget.last:.2g} s, more than budget={budget.share} allows at "
                "every validation, so some are skipped.",
                about="the budget",
            )
        return is_wanted and affords
