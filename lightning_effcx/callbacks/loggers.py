"""Loggers: each is handed the values by itself, so that none that raises ends a training."""

from lightning_effcx.callbacks.guard import Guard
from lightning_effcx.callbacks.lightning_compat import Trainer


def hand_out(trainer: Trainer, values: dict[str, float], step: int, guard: Guard) -> None:
    """Log values with every logger, as Lightning does at the end of an epoch.

    Lightning itself hands what a module logs to one logger after the other, and an error in one of
    them ends the training.

    Args:
        trainer: Whose loggers are called, on the first rank.
        values: By tag.
        step: Where on the step axis, unless the module logs a `step` of its own, as Lightning has
            it.
        guard: What a logger that raises becomes.
    """
    if not trainer.is_global_zero:
        return
    step = int(trainer.logged_metrics.get("step", step))
    for logger in trainer.loggers:
        with guard(f"its curves in {type(logger).__name__}"):
            logger.log_metrics(values, step=step)
            logger.save()
