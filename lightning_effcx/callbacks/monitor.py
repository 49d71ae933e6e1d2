"""The monitor: one callback that measures the network at every validation and logs the curves."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

from lightning_effcx.callbacks.hosts import (
    Callback,
    LightningModule,
    Trainer,
    rank_zero_info,
    rank_zero_warn,
)
from lightning_effcx.callbacks.schedules import Every
from lightning_effcx.callbacks.selection import (
    check_exact,
    exact_set,
    is_curved,
    measure,
    named,
    standard_set,
    suited,
)
from lightning_effcx.callbacks.tensorboard import (
    declare_hparams,
    declare_layout,
    draw_bands,
    writers,
)
from lightning_effcx.capture import input_and_target, network_of
from lightning_effcx.observe import Network, evaluate, observing
from lightning_effcx.tags import PREFIX, STDERR, Tag, is_site_key


class ComplexityMonitor(Callback):
    """Measure the effective complexity of the network at every validation, and log it.

    The first validation samples are kept as a fixed probe. At the end of each validation every
    metric is computed on them and logged through the LightningModule, so that all loggers,
    EarlyStopping and ModelCheckpoint see `effcx/<measure>`, and `effcx/seconds/<measure>`, what it
    cost. The training is left bit-identical, and no error in a measure stops it.

    Args:
        metrics: What to measure: metrics, named by themselves or as the keys of a dictionary. By
            default `jacobian_norm` of outputs and of probabilities, `fisher_rao_norm`,
            `transitions` and `trajectory_length`, with what suits the targets: classes, or values;
            if the network is piecewise linear, `linear_regions` within and between classes and on
            lines through the origin, and `linear_deviation`; if it has curves, `lann_complexity`.
        samples: How many validation samples make up the probe.
        every: Measure at every so many-th validation, or where a predicate of the number of
            validations so far says so.
        detail: Log the values at each site of the network, too.
        network: The part of the module to measure: its dotted name, or a function of the module and
            the input that returns the outputs. By default the module itself.
        batch: A function that maps a batch to the input, or to `(input, target)`. By default the
            batch is the input, or starts with it and the target.
        hparams: Hyperparameters for TensorBoard's table, besides those that the module saved.
        strict: Raise where there would be a warning.
        seed: Seed of the default metrics.
    """

    def __init__(  # noqa: PLR0913 each is one thing that users may choose
        self,
        metrics: Sequence[Metric] | Mapping[str, Metric] | None = None,
        *,
        samples: int = 64,
        every: int | Callable[[int], bool] = 1,
        detail: bool = False,
        # For LightningCLI: functions come first, as any text is a name; and return Any, because it
        # takes what returns a class to be a way of making an instance.
        network: Callable[[Any, Any], Any] | str | None = None,
        batch: Callable[[Any], Any] | None = None,
        hparams: Mapping[str, Any] | None = None,
        strict: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(samples, int):
            raise TypeError(f"samples={samples!r}: expected a whole number.")
        if samples < 1:
            raise ValueError(f"samples={samples}: expected at least 1.")
        self.metrics = standard_set(seed) if metrics is None else named(metrics)
        self.samples = samples
        self.every = every if callable(every) else Every(every)
        self.detail = detail
        self.network = network
        self.batch = batch
        self.hparams = dict(hparams or {})
        self.strict = strict
        self.seed = seed
        self.history: list[dict[str, Any]] = []
        """One entry per measurement: `epoch`, `step`, and `values` by tag."""
        self._by_default = metrics is None
        self._names = sorted(self.metrics)
        self._validations = 0
        self._probe: list[tuple[Tensor, Tensor | None]] = []
        self._warned: set[str] = set()
        self._chosen = False

    @property
    @override
    def state_key(self) -> str:
        return self._generate_state_key(metrics=self._names)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"validations": self._validations, "history": self.history}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._validations = state_dict["validations"]
        self.history = state_dict["history"]

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._probe.clear()
        self._warned.clear()
        self._chosen = False
        if stage == "fit":  # a checkpoint to resume from is loaded after this
            self._validations = 0
            self.history = []
            with self._guarding("the declaration of TensorBoard's pages"):
                self._declare(trainer, pl_module)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.history:
            # Callbacks that watch a measure find its last value, as they do in a training that runs
            # through, until the next validation that is measured.
            last = {tag: torch.tensor(value) for tag, value in self.history[-1]["values"].items()}
            trainer.callback_metrics.update(last)

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
        missing = self.samples - sum(len(x) for x, _ in self._probe)
        if dataloader_idx == 0 and missing > 0:
            with self._guarding("every measure"):
                x, y = input_and_target(batch, self.batch)
                kept = None if y is None else y[:missing].detach().clone()
                self._probe.append((x[:missing].detach().clone(), kept))

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            self._look(pl_module)
            self._probe.clear()  # the sanity check sees a few batches, the probe takes from all
        elif trainer.state.fn != "fit" or self._is_due():
            self._measure(trainer, pl_module)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._validations:
            with self._guarding("every measure"):
                raise ValueError(
                    "no validation ran in this training, and it is at validations that they are "
                    "taken: give the Trainer a validation loader."
                )

    def _is_due(self) -> bool:
        count = self._validations
        self._validations += 1
        with self._guarding("a validation"):
            return self.every(count)
        return False  # type: ignore[unreachable]  # the guard swallows errors

    def _declare(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell TensorBoard what will come, before Lightning declares its own hyperparameters."""
        hparams: dict[str, Any] = {}
        for owner in (getattr(trainer, "datamodule", None), pl_module):
            if getattr(owner, "_log_hyperparams", False):
                hparams |= dict(owner.hparams)  # type: ignore[union-attr]
        monitored = (getattr(callback, "monitor", None) for callback in trainer.callbacks)  # type: ignore[union-attr]
        measured = [str(Tag(name)) for name in self.metrics]
        measured += sorted({"val_loss", *(key for key in monitored if key)} - {*measured})
        for writer in writers(trainer.loggers):
            declare_hparams(writer, hparams | self.hparams, measured)
            declare_layout(writer, self.metrics)

    def _look(self, pl_module: LightningModule) -> tuple[Network, Tensor, Tensor | None] | None:
        """Return the network, its probe and their targets, unless it has no finite outputs."""
        seen = None
        if self._probe:
            with self._guarding("every measure"), observing(pl_module):
                network = network_of(pl_module, self.network)
                x = torch.cat([x.clone() for x, _ in self._probe]).to(_dtype(pl_module))
                targets = [y.clone() for _, y in self._probe if y is not None]
                y = torch.cat(targets) if len(targets) == len(self._probe) else None
                outputs = evaluate(network, x)
                if not outputs.isfinite().all():
                    bad = (~outputs.isfinite()).any(1).sum()
                    raise ValueError(
                        f"the network's outputs are not finite for {bad} of {len(x)} samples."
                    )
                if self._by_default and not self._chosen:
                    self._chosen = True
                    self._choose(network, x, y, outputs)
                seen = network, x, y
        return seen

    def _choose(self, network: Network, x: Tensor, y: Tensor | None, outputs: Tensor) -> None:
        """Of the default metrics, take those that suit network and targets, and say so."""
        metrics, what = suited(self.seed, y, outputs)
        rank_zero_info(f"effcx: {what}")
        if not is_curved(network, x):
            del metrics["lann_complexity"]
        exact = [name for name in exact_set(self.seed) if name in metrics]
        self.metrics = {name: metric for name, metric in metrics.items() if name not in exact}
        with self._guarding(f"the exact measures {', '.join(exact)}"):
            check_exact(network, x)
            self.metrics = metrics

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seen = self._look(pl_module)
        if seen is None:
            return
        values: dict[str, float] = {}
        bands: dict[str, tuple[float, float]] = {}
        for name, metric in self.metrics.items():
            with self._guarding(f"the measure {name!r}"):
                start = perf_counter()
                found = measure(metric.to(seen[1].device), *seen)
                seconds = perf_counter() - start
                values |= {
                    PREFIX + name + key: value
                    for key, value in found.items()
                    if self.detail or not is_site_key(key)
                }
                values[str(Tag(name, "seconds"))] = seconds
                if "" in found:
                    bands[name] = found[""], found.get(STDERR, 0.0)
        for tag, value in values.items():
            pl_module.log(tag, value, sync_dist=True)
        step = _step(trainer)
        self.history.append({"epoch": trainer.current_epoch, "step": step, "values": values})
        if trainer.state.fn == "fit":
            for writer in writers(trainer.loggers):
                draw_bands(writer, bands, step)

    @contextmanager
    def _guarding(self, what: str) -> Iterator[None]:
        """Turn an error into one warning that names `what` failed, unless `strict`."""
        try:
            yield
        except Exception as error:
            if self.strict:
                error.add_note(f"effcx: this came from {what}.")
                raise
            if what not in self._warned:
                self._warned.add(what)
                reason = str(error).removesuffix(".") or type(error).__name__
                rank_zero_warn(
                    f"effcx leaves out {what}: {reason}. The training goes on; strict=True raises."
                )


def _dtype(module: torch.nn.Module) -> torch.dtype | None:
    """Return the parameters' own precision, which training in mixed precision hides."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), None)


def _step(trainer: Trainer) -> int:
    """Return the step at which Lightning writes what a module logs: steps done, less one."""
    epoch_loop = trainer.fit_loop.epoch_loop
    return int(getattr(epoch_loop, "_batches_that_stepped", trainer.global_step))
