"""Trainer settings as data; as a script, a table of what the monitor does with each.

`python tests/support/trainer_settings.py [part of a name]` trains with every setting, with and
without the monitor.
"""

import csv
import math
import random
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning import (
    Callback,
    LightningDataModule,
    LightningModule,
    Trainer,
    seed_everything,
)
from pytorch_lightning.callbacks import (
    BatchSizeFinder,
    EarlyStopping,
    EMAWeightAveraging,
    LearningRateFinder,
    ModelCheckpoint,
    RichProgressBar,
    StochasticWeightAveraging,
    TQDMProgressBar,
    WeightAveraging,
)
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from pytorch_lightning.tuner import Tuner
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import get_ema_avg_fn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from user_training import METRICS, STANDARD, Classifier, loaders, task

from lightning_effcx.callbacks import ComplexityMonitor
from lightning_effcx.compare import load_runs
from lightning_effcx.tags import Tag

TAGS = [
    *(str(Tag(name, grain)) for name in STANDARD for grain in ("value", "stderr")),
    *(str(Tag(name, "seconds")) for name in METRICS),
]


# --- the users' modules and data


class TwoOptimizers(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        body, head = self.network[0], self.network[4]
        return torch.optim.SGD(body.parameters(), 0.1), torch.optim.Adam(head.parameters(), 0.01)


class WithoutValidation(Classifier):
    validation_step = LightningModule.validation_step


class SeveralLoaders(Classifier):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        loss = cross_entropy(self(batch[0]), batch[1])
        self.log(f"val_loss_{dataloader_idx}", loss, add_dataloader_idx=False)
        if not dataloader_idx:
            self.log("val_loss", loss, add_dataloader_idx=False)


class Body(nn.Sequential):
    """A user's own, since of a plain `nn.Sequential` the compiler in place makes nothing."""

    def forward(self, x: Tensor) -> Tensor:
        for part in self:
            x = part(x)
        return x


class Compiled(Classifier):
    """`in_place` compiles with `network.compile()`, which puts no module around the network."""

    def __init__(self, backend: str, *, in_place: bool = False) -> None:
        super().__init__()
        self.network = Body(*self.network)
        if in_place:
            self.network.compile(backend=backend)
        else:
            self.network = torch.compile(self.network, backend=backend)


class Checkpointing(Classifier):
    def forward(self, x: Tensor) -> Tensor:
        return self.network[3:](checkpoint(self.network[:3], x, use_reentrant=False))


class Frozen(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.network[:2].requires_grad_(requires_grad=False)
        self.network[1].eval()


class Decaying(Classifier):
    """With a schedule that validation steers, and an optimizer that has a state of its own."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), 0.01)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"},
        }


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(task())


class Data(LightningDataModule):
    """Makes its loaders anew whenever it is asked; the batch-size finder sets `batch_size`."""

    batch_size = 16

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(task(), self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(task(), 16)


def no_validation() -> tuple[Any, ...]:
    return (loaders()[0],)


def several() -> tuple[Any, ...]:
    """Of the validation loaders, the second has samples that lie elsewhere."""
    train, val = loaders()
    x, y = task().tensors
    return train, [val, DataLoader(TensorDataset(x + 3, y), 16)]


def shuffled() -> tuple[Any, ...]:
    return loaders()[0], DataLoader(task(), 16, shuffle=True)


def streamed() -> tuple[Any, ...]:
    return DataLoader(Stream(), 16), DataLoader(Stream(), 16)


def data() -> tuple[Any, ...]:
    return (Data(),)


# --- the users' loggers and callbacks


class Recording(Logger):
    """A logger of the user's own, which remembers every point."""

    name, version = "recording", 0

    def __init__(self) -> None:
        super().__init__()
        self.points: dict[str, list[tuple[int, float]]] = {}

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        for tag, value in metrics.items():
            self.points.setdefault(tag, []).append((step, float(value)))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


def own(folder: Path) -> list[Logger]:
    return [Recording()]


def none(folder: Path) -> list[Logger]:
    return []


def by_csv(folder: Path) -> list[Logger]:
    return [CSVLogger(folder, name="csv", version="")]


def by_tensorboard(folder: Path) -> list[Logger]:
    return [TensorBoardLogger(folder, name="board", version="")]


def by_all(folder: Path) -> list[Logger]:
    return [*own(folder), *by_csv(folder), *by_tensorboard(folder)]


def points(logger: Logger, tag: str) -> list[tuple[int, float]]:
    """What a logger has of one curve: `(step, value)` in the order of writing."""
    if isinstance(logger, Recording):
        return logger.points.get(tag, [])
    folder = Path(str(logger.log_dir))
    if isinstance(logger, CSVLogger):
        with (folder / "metrics.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row.get(tag)]
        return [(int(row["step"]), float(row[tag])) for row in rows]
    (run,) = load_runs(folder)
    curve = run.curves.get(tag)
    return [] if curve is None else list(zip(curve.steps, curve.values, strict=True))


def exponential() -> Callback:
    return EMAWeightAveraging(decay=0.7)


def plain_averaging() -> Callback:
    return WeightAveraging(avg_fn=get_ema_avg_fn(0.5))


def stochastic() -> Callback:
    return StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)


def sizes() -> Callback:
    return BatchSizeFinder(max_trials=2, init_val=8)


def watch(folder: Path) -> list[Callback]:
    """Callbacks that want our key, of which the first has endless patience."""
    key = "effcx/jacobian_norm"
    return [
        EarlyStopping(key, mode="min", patience=99),
        ModelCheckpoint(folder, monitor=key, filename="best"),
    ]


def find_rate(host: Trainer, module: LightningModule, *given: Any) -> None:
    Tuner(host).lr_find(module, *given, num_training=8)


def find_size(host: Trainer, module: LightningModule, *given: Any) -> None:
    Tuner(host).scale_batch_size(module, *given, max_trials=2, init_val=8)


def validate(host: Trainer, module: LightningModule, *given: Any) -> None:
    host.validate(module, given[1], verbose=False)


def nothing(host: Trainer, module: LightningModule, *given: Any) -> None:
    pass


# --- the settings


When = Literal["validation", "epoch", "end"]


@dataclass(frozen=True)
class Setting:
    """How to fit; everything by default as in Lightning, for two epochs of five batches."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the Trainer."""
    module: Callable[[], LightningModule] = Classifier
    given: Callable[[], Sequence[Any]] = loaders
    """What `fit` is given beside the module."""
    before: Callable[[], Callback] | None = None
    """A callback listed before the monitor."""
    after: Callable[[], Callback] | None = None
    """A callback listed after the monitor."""
    watching: Callable[[Path], list[Callback]] = none  # type: ignore[assignment]
    """Callbacks that make no sense without the monitor."""
    loggers: Callable[[Path], list[Logger]] = own
    first: Callable[..., None] = nothing
    """What happens with the Trainer, the module and the data before `fit`, and what `then`."""
    then: Callable[..., None] = nothing
    monitor: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the monitor."""
    measured: When = "validation"
    """Whether the curves have points where validations are, or epochs end, or the training."""
    slow: bool = False
    """Whether it takes seconds, or differs little from others."""


def told(**options: Any) -> Setting:
    """Set arguments of the Trainer and nothing else."""
    return Setting(options)


SETTINGS: dict[str, Setting] = {
    "the default": Setting(),
    "an adaptive optimizer and a scheduler that watches val_loss": Setting(
        {"max_epochs": 4}, Decaying
    ),
    # validation
    "num_sanity_val_steps=0": told(num_sanity_val_steps=0),
    "num_sanity_val_steps=2": Setting({"num_sanity_val_steps": 2}, slow=True),
    "num_sanity_val_steps=-1": told(num_sanity_val_steps=-1),
    "no validation loader": Setting(given=no_validation, measured="epoch"),
    "no validation_step": Setting(module=WithoutValidation, measured="epoch"),
    "limit_val_batches=0": Setting({"limit_val_batches": 0}, measured="epoch"),
    "limit_val_batches=2": Setting({"limit_val_batches": 2}, slow=True),
    "several validation loaders": Setting(module=SeveralLoaders, given=several),
    "several validation loaders, loader=1": Setting(
        module=SeveralLoaders, given=several, monitor={"loader": 1}
    ),
    "a shuffled validation loader": Setting(given=shuffled),
    "datasets without a length": Setting(given=streamed),
    "val_check_interval=0.5": told(val_check_interval=0.5),
    "val_check_interval=2": told(val_check_interval=2),
    "val_check_interval=7 across epochs": told(
        val_check_interval=7, check_val_every_n_epoch=None, max_epochs=3
    ),
    "check_val_every_n_epoch=2": told(check_val_every_n_epoch=2, max_epochs=4),
    "check_val_every_n_epoch=9": Setting({"check_val_every_n_epoch": 9}, measured="end"),
    "max_steps=3, before any validation": Setting({"max_steps": 3}, measured="end"),
    "max_steps=7, after one": Setting({"max_steps": 7}, slow=True),
    "every='end'": Setting(monitor={"every": "end"}, measured="end"),
    # optimization
    "accumulate_grad_batches=3, val_check_interval=2": told(
        accumulate_grad_batches=3, val_check_interval=2
    ),
    "accumulate_grad_batches=4, val_check_interval=1": Setting(
        {"accumulate_grad_batches": 4, "val_check_interval": 1}, slow=True
    ),
    "manual optimization with two optimizers": Setting(module=TwoOptimizers),
    "gradient clipping by norm": told(gradient_clip_val=0.1),
    "gradient clipping by value": told(gradient_clip_val=0.01, gradient_clip_algorithm="value"),
    "detect_anomaly": told(detect_anomaly=True),
    "deterministic": told(deterministic=True),
    "benchmark": Setting({"benchmark": True}, slow=True),
    # ways of running
    "fast_dev_run": Setting({"fast_dev_run": True}, loggers=none),
    "fast_dev_run=3": Setting({"fast_dev_run": 3}, loggers=none, slow=True),
    "barebones": Setting({"barebones": True}, loggers=none),
    "overfit_batches=2": told(overfit_batches=2),
    "limit_train_batches=0.5": told(limit_train_batches=0.5),
    "reload_dataloaders_every_n_epochs=1": Setting(
        {"reload_dataloaders_every_n_epochs": 1, "max_epochs": 3}, given=data
    ),
    "inference_mode=True, then validate": Setting({"inference_mode": True}, then=validate),
    "inference_mode=False, then validate": Setting({"inference_mode": False}, then=validate),
    "validate first": Setting(first=validate, loggers=none, slow=True),
    # precision
    "bf16-mixed": told(precision="bf16-mixed"),
    "bf16-true": told(precision="bf16-true"),
    "64-true": told(precision="64-true"),
    # the module
    "a compiled part, eager": Setting(module=lambda: Compiled("eager")),
    "a part compiled in place, eager": Setting(module=lambda: Compiled("eager", in_place=True)),
    "a compiled part, inductor": Setting(module=lambda: Compiled("inductor"), slow=True),
    "a part compiled in place, inductor": Setting(
        module=lambda: Compiled("inductor", in_place=True), slow=True
    ),
    "gradient checkpointing": Setting(module=Checkpointing),
    "a frozen part": Setting(module=Frozen),
    # averages and finders
    "EMAWeightAveraging before us": Setting(before=exponential),
    "EMAWeightAveraging after us": Setting(after=exponential),
    "WeightAveraging before us": Setting(before=plain_averaging),
    "WeightAveraging after us": Setting(after=plain_averaging),
    "StochasticWeightAveraging before us": Setting({"max_epochs": 4}, before=stochastic),
    "StochasticWeightAveraging after us": Setting({"max_epochs": 4}, after=stochastic, slow=True),
    "Tuner.lr_find": Setting(first=find_rate),
    "LearningRateFinder before us": Setting(
        before=lambda: LearningRateFinder(num_training_steps=8)
    ),
    "LearningRateFinder after us": Setting(after=lambda: LearningRateFinder(num_training_steps=8)),
    "Tuner.scale_batch_size": Setting(given=data, first=find_size, slow=True),
    "BatchSizeFinder before us": Setting(given=data, before=sizes),
    "BatchSizeFinder after us": Setting(given=data, after=sizes, slow=True),
    # what is written, watched and shown
    "no logger": Setting(loggers=none),
    "CSVLogger": Setting(loggers=by_csv),
    "TensorBoardLogger": Setting(loggers=by_tensorboard, slow=True),
    "several loggers": Setting(loggers=by_all),
    "EarlyStopping and ModelCheckpoint on our key": Setting(watching=watch),
    "TQDMProgressBar": Setting({"enable_progress_bar": True}, before=TQDMProgressBar),
    "RichProgressBar": Setting({"enable_progress_bar": True}, before=RichProgressBar),
}


# --- fitting


class Count(Callback):
    """Where validations are, where epochs end and where the training does, counted without us."""

    def __init__(self) -> None:
        self.steps: dict[str, list[int]] = {"validation": [], "epoch": [], "end": []}
        self.seen: list[Tensor] = []
        """The inputs of training, in order."""

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if stage == "fit":
            for steps in self.steps.values():
                steps.clear()

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, *_: Any) -> None:
        self.seen.append(batch[0].clone())

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.steps["validation"].append(trainer.fit_loop.epoch_loop._batches_that_stepped)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        # What is logged at an epoch's end goes to its last step, as what is at a validation there.
        self.steps["epoch"].append(trainer.fit_loop.epoch_loop._batches_that_stepped - 1)
        self.steps["end"] = self.steps["epoch"][-1:]


@dataclass
class Outcome:
    """What a fit leaves behind."""

    host: Trainer
    module: LightningModule
    count: Count
    loggers: list[Logger]
    monitor: ComplexityMonitor | None
    warned: set[str]
    left: dict[str, Any]


@contextmanager
def alone() -> Iterator[set[str]]:
    """Gather what is warned of, and undo what a Trainer and a compiler leave in the process."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    benchmark = torch.backends.cudnn.benchmark
    warned: set[str] = set()
    counters.clear()
    try:
        with warnings.catch_warnings(record=True) as record:
            warnings.simplefilter("always")
            yield warned
        hidden = (DeprecationWarning, PendingDeprecationWarning)  # Python shows users none
        warned |= {str(w.message) for w in record if not issubclass(w.category, hidden)}
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.benchmark = benchmark
        torch._dynamo.reset()


def fit(folder: Path, setting: Setting, *, measured: bool) -> Outcome:
    """Train as the setting says, from the same seed, with the monitor or without it."""
    count, monitor = Count(), ComplexityMonitor(**setting.monitor) if measured else None
    neighbours = [make() if make else None for make in (setting.before, setting.after)]
    callbacks = [neighbours[0], monitor, neighbours[1], count]
    callbacks += setting.watching(folder) if measured else []
    written = setting.loggers(folder)
    options = {
        "max_epochs": 2,
        "logger": written or False,
        "log_every_n_steps": 1,
        "default_root_dir": folder,
        "accelerator": "cpu",
        **dict.fromkeys(("enable_progress_bar", "enable_model_summary"), False),
        "enable_checkpointing": bool(setting.watching(folder)),
        "callbacks": [callback for callback in callbacks if callback is not None],
    }
    if {"fast_dev_run", "barebones"} & {*setting.options}:
        del options["logger"], options["log_every_n_steps"]  # these settings choose themselves
    with alone() as warned:
        seed_everything(1, verbose=False)
        module, given = setting.module(), setting.given()
        host = Trainer(**(options | setting.options))
        setting.first(host, module, *given)
        host.fit(module, *given)
        setting.then(host, module, *given)
    if monitor is not None:
        monitor = next(c for c in host.callbacks if isinstance(c, ComplexityMonitor))
    return Outcome(host, module, count, written, monitor, warned, left(host, module))


def left(host: Trainer, module: LightningModule) -> dict[str, Any]:
    """Everything that training with the monitor has to leave as training without it does."""
    random_states = {
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002 the global state
        "python": random.getstate(),
    }
    return {
        "weights": dict(module.state_dict()),
        "modes": {name: part.training for name, part in module.named_modules()},
        "optimizers": [optimizer.state_dict() for optimizer in host.optimizers],
        "schedulers": [s.scheduler.state_dict() for s in host.lr_scheduler_configs],
        "val_loss": host.callback_metrics.get("val_loss"),
        "random states": random_states,
        "epoch": host.current_epoch,
        "step": host.global_step,
        "hparams": dict(module.hparams),
        "compiled": dict(counters["stats"]),
    }


# --- judging


def differences(one: Any, other: Any, place: str = "") -> list[str]:
    """Name the places where two nests of containers, tensors and numbers are not bit-identical."""
    if type(one) is not type(other):
        return [place]
    match one:
        case Mapping() if list(one) == list(other):
            pairs = [(f"{place}/{key}".strip("/"), one[key], other[key]) for key in one]
        case list() | tuple() if len(one) == len(other):
            pairs = [(f"{place}/{i}", *both) for i, both in enumerate(zip(one, other, strict=True))]
        case Tensor():
            return [] if one.dtype == other.dtype and torch.equal(one, other) else [place]
        case _:
            return [] if one == other else [place]
    return [found for at, *both in pairs for found in differences(*both, at)]


def gaps(setting: Setting, outcome: Outcome) -> list[str]:
    """Name the curves, by where they are kept, that are not finite at just the expected steps."""
    assert outcome.monitor is not None
    steps = outcome.count.steps[setting.measured]
    if not steps:
        return [f"no {setting.measured} was counted"]
    failed = [warning for warning in outcome.warned if warning.startswith("effcx")]
    kept = outcome.monitor.history
    curves = {
        ("history", tag): [(e["step"], e["values"][tag]) for e in kept if tag in e["values"]]
        for tag in TAGS
    }
    curves |= {
        (type(logger).__name__, tag): points(logger, tag)
        for logger in outcome.loggers
        for tag in TAGS
    }
    return failed + [
        f"{place} has {tag} at {[step for step, _ in curve]}, expected {steps}, and finite"
        for (place, tag), curve in curves.items()
        if [step for step, value in curve if math.isfinite(value)] != steps
        or len(curve) != len(steps)
    ]


def judge(setting: Setting) -> tuple[list[str], list[str]]:
    """Return what is not bit-identical, and what is not complete; or the error for both."""
    try:
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
            plain = fit(Path(one), setting, measured=False)
            measured = fit(Path(other), setting, measured=True)
            return differences(plain.left, measured.left), gaps(setting, measured)
    except Exception as error:  # noqa: BLE001 the table shows it
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return [reason], [reason]


def main() -> int:
    """Print the table; return how many settings are not all yes."""
    torch.set_num_threads(1)
    chosen = {name: s for name, s in SETTINGS.items() if "".join(sys.argv[1:]) in name}
    table = Table("Trainer setting", "bit-identical weights", "curves complete")
    missed = 0
    for name, setting in track(chosen.items(), console=Console(stderr=True)):
        faults = judge(setting)
        missed += any(faults)
        table.add_row(
            name, *(f"no: {fault[0]} ({len(fault)})" if fault else "yes" for fault in faults)
        )
    Console().print(table)
    return missed


if __name__ == "__main__":
    sys.exit(min(main(), 1))
