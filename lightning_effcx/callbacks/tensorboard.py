"""TensorBoard: the page of all measures, and the table of hyperparameters with them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams as hparams_summaries

from lightning_effcx.callbacks.lightning_compat import LightningModule, Trainer, find_by_class_name
from lightning_effcx.tags import Grain, Tag


def find_writers(loggers: Iterable[Any]) -> list[SummaryWriter]:
    """Return the writers of all TensorBoard loggers, whichever Lightning package they are from.

    There are none on ranks other than 0 and in a `fast_dev_run`, where loggers do not write.
    """
    # Other loggers are not asked for their experiment, since opening it may take long.
    experiments = [board.experiment for board in find_by_class_name(loggers, "TensorBoardLogger")]
    return [e for e in experiments if isinstance(e, SummaryWriter)]


def declare_measures(
    trainer: Trainer, pl_module: LightningModule, names: Sequence[str], hparams: Mapping[str, Any]
) -> None:
    """Declare to TensorBoard which measures and hyperparameters the run has.

    Call it before Lightning declares its own hyperparameters, in the Trainer's `setup`.

    Args:
        trainer: The Trainer. The table also has the metrics that its callbacks monitor.
        pl_module: The user's module. The table has the hyperparameters that the module and the
            datamodule saved.
        names: The names of the measures.
        hparams: More hyperparameters for the table.
    """
    saved: dict[str, Any] = {}
    for owner in (getattr(trainer, "datamodule", None), pl_module):
        if getattr(owner, "_log_hyperparams", False):
            saved |= dict(owner.hparams)  # type: ignore[union-attr]
    saved |= hparams
    monitored = (getattr(callback, "monitor", None) for callback in trainer.callbacks)  # type: ignore[union-attr]
    measured = [str(Tag(name)) for name in names]
    measured += sorted({"val_loss", *(key for key in monitored if key)} - {*measured})
    for writer in find_writers(trainer.loggers):
        _declare_hparams(writer, saved, measured)
        _declare_layout(writer, names)


def _declare_hparams(
    writer: SummaryWriter, hparams: Mapping[str, Any], measured: Iterable[str]
) -> None:
    """Write the run's hyperparameters, and which tags the table shows next to them.

    The table shows the last value of each tag. TensorBoard reads only the first such summary of a
    run, so it must be written before Lightning's, which has no tag but `hp_metric`.
    """
    placeholders = dict.fromkeys(measured, 0.0)
    file = writer._get_file_writer()  # noqa: SLF001 add_hparams would open another run
    for summary in hparams_summaries(flatten(hparams), placeholders):
        file.add_summary(summary)


def _declare_layout(writer: SummaryWriter, names: Iterable[str]) -> None:
    """Write the layout of the page Custom Scalars: one chart for a measure and all its variants."""
    measures = [*dict.fromkeys(Tag(name).measure for name in names)]

    def charts(grain: Grain) -> dict[str, Any]:
        return {m: ["Multiline", [Tag(m, grain).with_variants]] for m in measures}

    costs = [Tag(measure, "seconds").with_variants for measure in measures]
    writer.add_custom_scalars(
        {
            "Effective complexity": charts("value"),
            "Effective complexity: standard errors": charts("stderr"),
            "Effective complexity: cost": {"seconds": ["Multiline", costs]},
        }
    )


def flatten(hparams: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Name nested hyperparameters by their path; write as text what the table does not take.

    Example:
        >>> flatten({"lr": 0.1, "optimizer": {"name": "sgd", "betas": (0.9, 0.99)}})
        {'lr': 0.1, 'optimizer/name': 'sgd', 'optimizer/betas': '(0.9, 0.99)'}
    """
    flat: dict[str, Any] = {}
    for key, value in hparams.items():
        match value:
            case Mapping():
                flat |= flatten(value, f"{prefix}{key}/")
            case bool() | int() | float() | str():
                flat[f"{prefix}{key}"] = value
            case Tensor() if value.numel() == 1:
                flat[f"{prefix}{key}"] = value.item()
            case _:
                flat[f"{prefix}{key}"] = str(value)
    return flat
