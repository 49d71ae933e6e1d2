"""Reporting: how values reach Lightning's callbacks, and the loggers."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lightning_effcx.callbacks.guard import Guard
from lightning_effcx.callbacks.lightning_compat import Trainer


class Reporter:
    """Hands values to Lightning at once, and to the loggers when their step is known.

    Lightning itself hands what a module logs to one logger after the other, and an error in one of
    them ends the training. So during a training the values go to each logger from here.

    Args:
        guard: Leaves out a logger that raises.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._pending: tuple[dict[str, float], int] | None = None

    def report(
        self,
        trainer: Trainer,
        values: Mapping[str, float],
        step: int,
        log: Callable[..., None] | None = None,
    ) -> None:
        """Hand values to callbacks that watch them, and keep them for `write`.

        Args:
            trainer: Whose callbacks watch.
            values: By tag.
            step: Where on the step axis.
            log: The module's `log`, inside hooks in which Lightning allows it.
        """
        is_training = trainer.state.fn == "fit"
        if log is None:
            trainer.callback_metrics.update(as_tensors(values))
        else:
            for tag, value in values.items():
                # All ranks have the same value. Outside of a training, Lightning writes to loggers
                # what it returns from `validate`.
                log(tag, value, sync_dist=True, logger=False if is_training else None)
        if is_training:
            trainer.logged_metrics.update(as_tensors(values))
            epoch = {} if log is None else {"epoch": trainer.current_epoch}
            self._pending = {**values, **epoch}, step

    def write(self, trainer: Trainer) -> None:
        """Write the values that are kept to every logger, on the first rank.

        Call it when it is known whether the module logs a `step` of its own: Lightning takes that
        for the step axis, and so do we.
        """
        pending, self._pending = self._pending, None
        if pending is None or not trainer.is_global_zero:
            return
        values, step = pending
        step = int(trainer.logged_metrics.get("step", step))
        for logger in trainer.loggers:
            with self._guard(f"its curves in {type(logger).__name__}"):
                logger.log_metrics(values, step=step)
                logger.save()


def as_tensors(values: Mapping[str, float]) -> dict[str, Tensor]:
    """Return values as Lightning keeps them."""
    return {tag: torch.tensor(value) for tag, value in values.items()}
