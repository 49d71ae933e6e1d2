"""The monitor: one callback that measures the network at every validation and logs the curves."""

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, Literal

from torchmetrics import Metric
from typing_extensions import override

from lightning_effcx.callbacks.budget import Budget
from lightning_effcx.callbacks.choices import Choices
from lightning_effcx.callbacks.defaults import candidates, choose_metrics
from lightning_effcx.callbacks.distributed import gather
from lightning_effcx.callbacks.guard import Guard
from lightning_effcx.callbacks.hooks import MeasuringHooks
from lightning_effcx.callbacks.lightning_compat import (
    LightningModule,
    Trainer,
    callbacks_around,
    observing_silently,
)
from lightning_effcx.callbacks.measuring import (
    declared_names,
    measure,
    memory,
    metrics_by_name,
    restore_memory,
)
from lightning_effcx.callbacks.probe import Probe
from lightning_effcx.callbacks.reporting import Reporter
from lightning_effcx.callbacks.schedules import Every, Schedule
from lightning_effcx.callbacks.subject import Subject, announce_subject, find_subject
from lightning_effcx.callbacks.tensorboard import declare_measures
from lightning_effcx.network import check_finite
from lightning_effcx.options import check_kind, check_seed, check_switch
from lightning_effcx.tags import Tag, check_name, prefixed, renewed, slashed


class ComplexityMonitor(MeasuringHooks):
    """Measure the effective complexity of the network at every validation, and log it.

    The first validation samples become a fixed probe. At the end of each validation every metric is
    computed on the probe and logged through the LightningModule. So all loggers, EarlyStopping and
    ModelCheckpoint see `effcx/<measure>`, and its cost as `effcx_seconds/<measure>`. The training
    stays bit-identical. An error in a measure is one warning, and does not stop the training.

    By default the network is the LightningModule, or its only child with parameters. The monitor
    records what its forward is called with in the validation step. The input is then all
    floating-point tensors with one row per sample, taken together. If there are none, the input is
    what the first embedding returns for the tokens. If no call was recorded, the input is the first
    floating-point tensor in the batch. One line in the log says what was chosen. If the input is
    not found, one warning in the sanity check shows the batch: specify `batch` or `network` then.

    A training without validation is measured at the end of each epoch, on its first training
    samples. The processes of a distributed training share the work, and log what a single process
    would log. A checkpoint holds the probe and the memory of the metrics, so a resumed training
    continues the same curves.

    Args:
        metrics: What to measure: a list of metrics, or a dictionary of metrics by name. The default
            set is `jacobian_norm` of outputs and of probabilities, `fisher_rao_norm`, `transitions`
            and `trajectory_length`. If the network is piecewise linear, it also has
            `linear_regions` within and between classes and on lines through the origin, and
            `linear_deviation`; if the network has curves, `lann_complexity`. Measures that need
            classes are left out if the targets are not classes.
        samples: How many validation samples form the probe, over all processes.
        every: Measure at every n-th validation; or at those for which a function of the number of
            validations so far returns True; or once, at the `end` of the training.
        budget: The share of the training's wall time that measuring may take, such as 0.05.
            Validations that would exceed it are skipped and log nothing. The first is always
            measured.
        detail: Also log the values at each site of the network.
        network: The part of the module to measure: its dotted name, or a function of the module and
            the input that returns the outputs. By default the module itself.
        batch: A function that maps a batch to the input, or to `(input, target)`. By default the
            input is found as described above, and the target by its name in the batch, or as the
            second part of the batch.
        output: Which output to measure, by name or index, if there are several. By default the
            first floating-point tensor with one row per sample. It is flattened to a vector.
        loader: From which of several validation loaders the probe is taken.
        name: A prefix for the names of this monitor's measures. If there are several monitors in
            one Trainer, each needs a name of its own. Otherwise Lightning mixes their curves, or
            refuses monitors with the same measures when the Trainer is made.
        hparams: Hyperparameters for TensorBoard's table, in addition to those that the module
            saved.
        strict: Raise an error instead of giving a warning.
        seed: The seed of the default metrics.
    """

    def __init__(  # noqa: PLR0913 each is one thing that users choose
        self,
        metrics: Sequence[Metric] | Mapping[str, Metric] | None = None,
        *,
        samples: int = 64,
        every: int | Callable[[int], bool] | Literal["end"] = 1,
        budget: float | None = None,
        detail: bool = False,
        # For LightningCLI: functions come before str, since any text is a str. They return Any,
        # since LightningCLI takes a function that returns a class for a factory of instances.
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
        check_switch("detail", detail)
        check_kind("name", name, str, "text, such as 'encoder'")
        check_name(prefixed(name, "measure"))
        if hparams is not None:
            check_kind("hparams", hparams, Mapping, "values by name, such as {'width': 64}")
        check_switch("strict", strict)
        check_seed(seed)
        self.metrics = candidates(seed) if metrics is None else metrics_by_name(metrics)
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
        self.history = []
        self._names = sorted(self.metrics)
        self._has_defaults = metrics is None
        self._validations = 0
        self._start_run()

    def _start_run(self) -> None:
        """Make anew what belongs to one run of a Trainer."""
        choices = Choices(self.samples, self.network, self.batch, self.output, self.loader)
        self._probe = Probe(choices)
        self._schedule = Schedule(self.every, Budget(self.budget))
        self._guard = Guard(strict=self.strict)
        self._reporter = Reporter(self._guard)
        self._must_choose = self._has_defaults

    @property
    @override
    def state_key(self) -> str:
        names = sorted(map(slashed, self._names))  # as in checkpoints of version 0.1
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
        restore_memory(self.metrics, state_dict.get("memory", {}))  # older checkpoints have none

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._start_run()
        self._compare_names(trainer)
        if stage == "fit":  # a checkpoint to resume from is loaded after this
            self._validations = 0
            self.history = []
            names = [
                declared_name
                for name, metric in self.metrics.items()
                for declared_name in declared_names(prefixed(self.name, name), metric)
            ]
            with self._guard("the declaration of TensorBoard's pages"):
                declare_measures(trainer, pl_module, names, self.hparams)

    @property
    def full_names(self) -> set[str]:
        """The names of the metrics as they stand in tags, after the monitor's own name."""
        return {prefixed(self.name, metric) for metric in self.metrics}

    def _compare_names(self, trainer: Trainer) -> None:
        """Warn if a monitor before this one has measures of the same names."""
        before, _ = callbacks_around(trainer, self)
        others = [callback for callback in before if isinstance(callback, ComplexityMonitor)]
        shared = sorted(self.full_names & {name for other in others for name in other.full_names})
        if shared:
            self._guard.warn(
                f"two monitors in this Trainer measure {', '.join(shared)}, and their curves are "
                "mixed: tell them apart by name=, such as ComplexityMonitor(name='encoder')."
            )

    @override
    def _rehearse(self, trainer: Trainer, pl_module: LightningModule) -> None:
        budget = self._schedule.budget
        with budget.spending(measuring=False), observing_silently(pl_module, self.network):
            self._find_subject(trainer, pl_module)

    @override
    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float] | None:
        values: dict[str, float] = {}
        with self._schedule.budget.spending(), observing_silently(pl_module, self.network):
            subject = self._find_subject(trainer, pl_module)
            if subject is None:
                return None
            for metric_name, metric in self.metrics.items():
                name = prefixed(self.name, metric_name)
                with self._guard(f"the measure {metric_name!r}"):
                    start = perf_counter()
                    device = subject.x.device
                    found = measure(name, metric.to(device), subject.network, subject.x, subject.y)
                    seconds = perf_counter() - start
                    values |= {
                        str(tag): value
                        for tag, value in found.items()
                        if self.detail or tag.grain != "site"
                    }
                    values[str(Tag(name, "seconds"))] = gather(seconds)[0]
        return values

    def _find_subject(self, trainer: Trainer, pl_module: LightningModule) -> Subject | None:
        """Return the network and its samples, or None after an error."""
        found = None
        with self._guard("every measure"):
            subject = find_subject(trainer, pl_module, self._probe)
            announce_subject(subject, self.name, self._guard)
            check_finite(subject.outputs)
            found = subject
            if self._must_choose:
                self._must_choose = False
                self._choose_metrics(subject)
        return found

    def _choose_metrics(self, subject: Subject) -> None:
        """Choose those of the default metrics that suit the subject, and say so."""
        chosen = choose_metrics(self.seed, subject.network, subject.x, subject.y, subject.outputs)
        self.metrics = chosen.metrics
        self._guard.inform(" ".join(chosen.notes))
        if chosen.left_out:
            names = ", ".join(chosen.left_out)
            self._guard.leave_out(f"the exact measures {names}", ValueError(chosen.reason))
