"""The monitor: one callback that measures the network at every validation and logs the curves."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import dropwhile, takewhile
from numbers import Integral
from time import perf_counter
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

from lightning_effcx.callbacks.budget import Budget
from lightning_effcx.callbacks.defaults import candidates, choose_metrics
from lightning_effcx.callbacks.distributed import gather, together
from lightning_effcx.callbacks.guard import Guard
from lightning_effcx.callbacks.lightning_compat import (
    Callback,
    LightningModule,
    Trainer,
    averaged,
    observing_silently,
    rank_zero_info,
    rank_zero_warn,
    step_of,
)
from lightning_effcx.callbacks.loggers import hand_out
from lightning_effcx.callbacks.measuring import declared, measure, memory, named, remember
from lightning_effcx.callbacks.probe import Probe
from lightning_effcx.callbacks.schedules import Every
from lightning_effcx.callbacks.tensorboard import declare
from lightning_effcx.network import (
    Captured,
    Network,
    Target,
    UnrestorableError,
    capture_network,
    check_finite,
    is_target,
    join_words,
    select_samples,
)
from lightning_effcx.options import check_count, check_kind, check_seed, check_switch, refusal
from lightning_effcx.tags import Tag, check_name, of_key, renewed, slashed

_SHOWN = 4  # names of parts, in a message


class Seen(NamedTuple):
    """What the monitor sees: a network, samples, its outputs for them, and their targets."""

    network: Network
    x: Tensor
    outputs: Tensor
    y: Tensor | None


class ComplexityMonitor(Callback):
    """Measure the effective complexity of the network at every validation, and log it.

    The first validation samples are kept as a fixed probe. At the end of each validation every
    metric is computed on them and logged through the LightningModule, so that all loggers,
    EarlyStopping and ModelCheckpoint see `effcx/<measure>`, and `effcx_seconds/<measure>`, what it
    cost. The training is left bit-identical, and no error in a measure stops it.

    The network is the LightningModule as a function of what its forward, or that of its only child
    with parameters, is really called with in the validation step: of all floating-point tensors
    with a row for each sample, jointly; only where there are none, of what the first embedding of
    the tokens returns. Where no such call is heard, it is a function of the first floating-point
    tensor in the batch. One line says what was chosen. In a training without validation the first
    training samples are measured, at each epoch's end.

    Processes of a distributed training share the work, and log what one would. Checkpoints hold the
    probe, and what metrics remember, so that a resumed training goes on with the same curves.

    Args:
        metrics: What to measure: metrics, named by themselves or as the keys of a dictionary. By
            default `jacobian_norm` of outputs and of probabilities, `fisher_rao_norm`,
            `transitions` and `trajectory_length`, with what suits the targets: classes, or values;
            if the network is piecewise linear, `linear_regions` within and between classes and on
            lines through the origin, and `linear_deviation`; if it has curves, `lann_complexity`.
        samples: How many validation samples make up the probe, of all processes together.
        every: Measure at every so many-th validation; or where a predicate of the number of
            validations so far says so; or once, at the `end` of the training.
        budget: Share of the training's wall time that measuring may take, such as 0.05. Beyond it
            validations are skipped, and log nothing; the first is always measured.
        detail: Log the values at each site of the network, too.
        network: The part of the module to measure: its dotted name, or a function of the module and
            the input that returns the outputs. By default the module itself.
        batch: A function that maps a batch to the input, or to `(input, target)`. By default both
            are found as said above, the target by its name in the batch, or as the second part.
        output: Which of the outputs to measure, by name or index, if there are several. By default
            the first floating-point tensor with a row for each sample. It is flattened to a vector.
        loader: Which of several validation loaders the probe is taken from.
        name: What the names of this monitor's measures start with. If there are several monitors in
            one Trainer, each needs a name of its own; else Lightning mixes their curves, or refuses
            monitors of the same measures when the Trainer is made.
        hparams: Hyperparameters for TensorBoard's table, besides those that the module saved.
        strict: Raise where there would be a warning.
        seed: Seed of the default metrics.
    """

    def __init__(  # noqa: PLR0913 each is one thing that users may choose
        self,
        metrics: Sequence[Metric] | Mapping[str, Metric] | None = None,
        *,
        samples: int = 64,
        every: int | Callable[[int], bool] | Literal["end"] = 1,
        budget: float | None = None,
        detail: bool = False,
        # For LightningCLI: functions come first, as any text is a name; and return Any, because it
        # takes what returns a class to be a way of making an instance.
        network: Callable[[Any, Any], Any] | str | None = None,
        batch: Callable[[Any], Any] | None = None,
        output: str | int | None = None,
        loader: int = 0,
        name: str = "",
        hparams: Mapping[str, Any] | None = None,
        strict: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_count("samples", samples)
        check_switch("detail", detail)
        _check_choices(network, batch, output)
        check_count("loader", loader, least=0)
        check_kind("name", name, str, "text, such as 'encoder'")
        if name:
            check_name(f"{name}_measure")
        if hparams is not None:
            check_kind("hparams", hparams, Mapping, "values by name, such as {'width': 64}")
        check_switch("strict", strict)
        check_seed(seed)
        self.metrics = candidates(seed) if metrics is None else named(metrics)
        self.samples = samples
        self.every = every if callable(every) or every == "end" else Every(every)
        self.budget = budget
        self.detail = detail
        self.network = network
        self.batch = batch
        self.output = output
        self.loader = loader
        self.name = name
        self.hparams = dict(hparams or {})
        self.strict = strict
        self.seed = seed
        self.history: list[dict[str, Any]] = []
        """One entry per measurement: `epoch`, `step`, and `values` by tag."""
        self._by_default = metrics is None
        self._names = sorted(self.metrics)
        self._validations = 0
        self._probe = Probe(samples, network, batch, loader)
        self._without_validation = False
        self._clock = Budget(budget)
        self._guard = Guard(strict=strict)
        self._chosen = False
        self._unlogged: tuple[dict[str, float], int] | None = None

    @property
    @override
    def state_key(self) -> str:
        names = sorted(map(slashed, self._names))  # so that checkpoints of version 0.1 resume
        return self._generate_state_key(metrics=names, name=self.name)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "validations": self._validations,
            "history": self.history,
            "probe": self._probe.state(),
            "memory": memory(self.metrics),
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._validations = state_dict["validations"]
        self.history = [
            entry | {"values": {renewed(tag): value for tag, value in entry["values"].items()}}
            for entry in state_dict["history"]
        ]
        self._probe.load(state_dict["probe"])
        remember(self.metrics, state_dict.get("memory", {}))  # older checkpoints have none

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._probe = Probe(self.samples, self.network, self.batch, self.loader)
        self._without_validation = False
        self._clock.start()
        self._guard = Guard(strict=self.strict)
        self._chosen = False
        self._compare_names(trainer)
        if stage == "fit":  # a checkpoint to resume from is loaded after this
            self._validations = 0
            self.history = []
            with self._guard("the declaration of TensorBoard's pages"):
                self._declare(trainer, pl_module)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.history:
            # Callbacks that watch a measure find its last value, as they do in a training that runs
            # through, until the next validation that is measured.
            trainer.callback_metrics.update(_tensors(self.history[-1]["values"]))
        # Training samples do where there are no others, for as long as there are no others.
        self._without_validation = not (trainer.enable_validation and self._probe.seen)
        if self._without_validation:
            self._probe.begin("training")
        if not trainer.enable_validation:
            rank_zero_info(
                "effcx: no validation runs in this training, so the first training samples are "
                "measured, at the end of each epoch."
            )

    # -- which samples

    @override
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._probe.begin("sanity" if trainer.sanity_checking else "validation")
        self._without_validation = False

    @override
    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if dataloader_idx == self.loader:
            self._probe.listen(trainer, pl_module)

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
        if dataloader_idx == self.loader:
            self._probe.take(trainer, batch)

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._without_validation:
            self._probe.listen(trainer, pl_module)

    @override
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if self._without_validation:
            self._probe.take(trainer, batch)

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._probe.stop()

    # -- when

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        before = takewhile(lambda callback: callback is not self, trainer.callbacks)  # type: ignore[union-attr]
        if trainer.sanity_checking:
            with self._clock.spending(measuring=False), observing_silently(pl_module, self.network):
                self._look(trainer, pl_module)
        elif trainer.state.fn != "fit" or self._is_due():
            with averaged(trainer, pl_module, before):
                self._measure(trainer, pl_module, step_of(trainer), pl_module.log)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(trainer)  # now it is known whether the module logs a step of its own

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.enable_validation and self._is_due():
            with averaged(trainer, pl_module, trainer.callbacks):  # type: ignore[union-attr]
                self._measure(trainer, pl_module, step_of(trainer) - 1, pl_module.log)
            self._log(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.every == "end" or not self._validations:
            after = dropwhile(lambda callback: callback is not self, trainer.callbacks)  # type: ignore[union-attr]
            with averaged(trainer, pl_module, after):
                self._measure(trainer, pl_module, step_of(trainer) - 1)
            self._log(trainer)

    def _is_due(self) -> bool:
        count = self._validations
        self._validations += 1
        due = False
        with self._guard("a validation"):
            due = callable(self.every) and bool(self.every(count))
        affords = gather(self._clock.affords())[0]  # by the clock of one rank
        if due and not affords and self._guard.is_new("budget"):
            rank_zero_info(
                f"effcx: measuring takes {self._clock.last:.2g} s, more than budget={self.budget} "
                "allows at every validation, so some are skipped."
            )
        return due and affords

    def _compare_names(self, trainer: Trainer) -> None:
        """Say if a monitor before this one has measures of the same names; Lightning mixes them."""
        before = takewhile(lambda callback: callback is not self, trainer.callbacks)  # type: ignore[union-attr]
        others = [callback for callback in before if isinstance(callback, ComplexityMonitor)]
        taken = {other._named(m) for other in others for m in other.metrics}  # noqa: SLF001 like us
        shared = sorted(taken & set(map(self._named, self.metrics)))
        if not shared:
            return
        problem = (
            f"two monitors in this Trainer measure {', '.join(shared)}, and their curves are "
            "mixed: tell them apart by name=, such as ComplexityMonitor(name='encoder')."
        )
        if self.strict:
            raise ValueError(problem)
        rank_zero_warn(f"effcx: {problem}")

    # -- what

    def _declare(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell TensorBoard what will come."""
        names = [
            self._named(name) + beside
            for name, metric in self.metrics.items()
            for beside in declared(metric)
        ]
        declare(trainer, pl_module, names, self.hparams)

    def _named(self, metric: str) -> str:
        return f"{self.name}_{metric}" if self.name else metric

    def _look(self, trainer: Trainer, pl_module: LightningModule) -> Seen | None:
        """Return the network and its probe, unless that cannot be found, or the outputs are bad.

        To be called while the module is observed.
        """
        seen = None
        with self._guard("every measure"):
            with self._explaining():
                call, y = self._probe.gathered(trainer)
                choices = self.network, self.output
                found = together(lambda: capture_network(pl_module, call, *choices))
            # A part may be called with several rows for each sample.
            y = y if is_target(y, len(found.x)) else None
            self._announce(found, y)
            check_finite(found.outputs)
            y = None if y is None else y.to(found.x.device, copy=True)
            seen = Seen(found.network, found.x, found.outputs, y)
            if self._by_default and not self._chosen:
                self._chosen = True
                self._choose(seen)
        return seen

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Add to an error what the batch is, and how to say what is in it."""
        try:
            yield
        except UnrestorableError:  # which is not about the batch
            raise
        except ValueError as error:
            said = f"{error}."
            if self._probe.seen not in said:
                said += f" The batch is {self._probe.seen}."
            if "batch=lambda" not in said:
                names = [f"network={name!r}" for name in self._probe.names[:_SHOWN]]
                such = f" such as {join_words(names, 'or')}," if names else ""
                said += (
                    " Say what the input is with batch=, such as ComplexityMonitor(batch=lambda "
                    "batch: (batch['x'], batch['y'])), and what the network is with network=, a "
                    f"part's name,{such} or a function (module, x) -> outputs."
                )
            raise ValueError(said) from error

    def _announce(self, found: Captured, y: Tensor | None) -> None:
        """Say what was chosen; once, but again if it is something else, with other samples."""
        who = f"the monitor {self.name!r} is " if self.name else ""
        line = f"{who}measuring {found.words}; {Target(y, self._probe.target).words()}"
        if self._guard.is_new(re.sub(rf"\({len(found.x)}(?=[,)])", "(n", line)):
            rank_zero_info(f"effcx: {line}")

    def _choose(self, seen: Seen) -> None:
        """Of the standard set, take what suits network and targets, and say so."""
        first = torch.zeros(1, dtype=torch.long, device=seen.x.device)
        network = select_samples(seen.network, first)
        found = choose_metrics(self.seed, network, seen.x, seen.y, seen.outputs)
        self.metrics = found.metrics
        rank_zero_info(f"effcx: {' '.join(found.notes)}")
        if found.left_out:
            with self._guard(f"the exact measures {', '.join(found.left_out)}"):
                raise ValueError(found.reason)

    def _measure(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        step: int,
        log: Callable[..., None] | None = None,
    ) -> None:
        """Measure, hand the values to callbacks that watch them, and keep them for the loggers."""
        values: dict[str, float] = {}
        with self._clock.spending(), observing_silently(pl_module, self.network):
            seen = self._look(trainer, pl_module)
            if seen is None:
                return
            for metric_name, metric in self.metrics.items():
                name = self._named(metric_name)
                with self._guard(f"the measure {metric_name!r}"):
                    start = perf_counter()
                    found = measure(metric.to(seen.x.device), seen.network, seen.x, seen.y)
                    seconds = perf_counter() - start
                    read = {of_key(name + key): value for key, value in found.items()}
                    values |= {
                        str(tag): value
                        for tag, value in read.items()
                        if self.detail or tag.grain != "site"
                    }
                    values[str(Tag(name, "seconds"))] = gather(seconds)[0]
        is_training = trainer.state.fn == "fit"
        if log is None:
            trainer.callback_metrics.update(_tensors(values))
        else:
            for tag, value in values.items():
                # Every rank has the same. What a `validate` returns is what goes to loggers.
                log(tag, value, sync_dist=True, logger=False if is_training else None)
        if is_training:
            trainer.logged_metrics.update(_tensors(values))
            epoch = {} if log is None else {"epoch": trainer.current_epoch}
            self._unlogged = values | epoch, step
        self.history.append({"epoch": trainer.current_epoch, "step": step, "values": values})

    def _log(self, trainer: Trainer) -> None:
        """Hand what was measured to the loggers."""
        if self._unlogged is not None:
            hand_out(trainer, *self._unlogged, self._guard)
        self._unlogged = None


def _check_choices(network: Any, batch: Any, output: Any) -> None:
    """Refuse what says neither which network, nor which input, nor which output is meant."""
    # A part can be called as well, but with the input alone.
    is_part = isinstance(network, torch.nn.Module)
    if is_part or not (network is None or isinstance(network, str) or callable(network)):
        expected = "the name of a part of the module, or a function (module, x) -> outputs"
        raise refusal(TypeError, "network", network, expected)
    if not (batch is None or callable(batch)):
        expected = "a function of a batch that returns the input, or (input, target)"
        raise refusal(TypeError, "batch", batch, expected)
    if output is not None:
        check_kind("output", output, (str, Integral), "the name of an output, or its index")


def _tensors(values: Mapping[str, float]) -> dict[str, Tensor]:
    return {tag: torch.tensor(value) for tag, value in values.items()}
