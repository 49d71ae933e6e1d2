import copy
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import Metric
from user_training import METRICS, STANDARD, Classifier, fit, loaders, task, trainer

from lightning_effcx.callbacks import ComplexityMonitor, Every, Geometric
from lightning_effcx.functional import jacobian_norm
from lightning_effcx.metrics import FisherRaoNorm, JacobianNorm, TrajectoryLength, Transitions
from lightning_effcx.network.observe import observing
from lightning_effcx.paths import Segment
from lightning_effcx.tags import parse


def names(values: dict[str, Any], grain: str = "value") -> set[str]:
    tags = [tag for tag in map(parse, values) if tag is not None]
    return {tag.name for tag in tags if tag.grain == grain}


class Broken(Metric):
    """A measure with an error in it."""

    def update(self, *_: Any) -> None:
        raise RuntimeError("the dog ate it")

    def compute(self) -> Tensor:
        return torch.zeros(())


class Outputs(Classifier):
    """A network whose outputs are what a function makes of them."""

    def __init__(self, spoil: Any) -> None:
        super().__init__()
        del self.hparams["spoil"]  # which the base class saved, and which no checkpoint can hold
        self.spoil = spoil

    def forward(self, x: Tensor) -> Tensor:
        return self.spoil(super().forward(x))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.network(batch[0]).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass


# --- what is measured


def test_the_standard_set_is_logged_with_errors_and_costs(tmp_path):
    host, _ = fit(tmp_path, ComplexityMonitor())
    assert names(host.callback_metrics) == set(STANDARD)
    assert names(host.callback_metrics, "stderr") == set(STANDARD)
    assert names(host.callback_metrics, "seconds") == set(METRICS)
    assert "val_loss" in host.callback_metrics


def test_what_is_logged_is_the_measure_of_the_first_validation_samples(tmp_path):
    host, module = fit(tmp_path, ComplexityMonitor([JacobianNorm()], samples=20))
    with observing(module):
        expected = jacobian_norm(module, task().tensors[0][:20]).mean()
    torch.testing.assert_close(host.callback_metrics["effcx/jacobian_norm"], expected)


def test_sites_are_logged_only_in_detail(tmp_path):
    host, _ = fit(tmp_path, ComplexityMonitor([Transitions()]))
    assert names(host.callback_metrics, "site") == set()
    host, _ = fit(tmp_path, ComplexityMonitor([Transitions()], detail=True))
    assert "effcx_sites/transitions.segment/network.2" in host.callback_metrics


def test_a_dictionary_names_the_metrics(tmp_path):
    monitor = ComplexityMonitor({"steepness": JacobianNorm(), "bends": Transitions()})
    host, _ = fit(tmp_path, monitor)
    assert names(host.callback_metrics) == {"steepness", "bends"}


class Size(Broken):
    def update(self, network: Any, x: Tensor, y: Tensor | None = None) -> None:
        pass

    def compute(self) -> Any:
        return torch.tensor(7.0)


def test_a_metric_of_the_users_own_may_compute_a_number(tmp_path):
    host, _ = fit(tmp_path, ComplexityMonitor({"size": Size()}))
    assert host.callback_metrics["effcx/size"] == 7


def test_a_metric_of_the_users_own_may_compute_a_dictionary(tmp_path):
    class Sizes(Size):
        def compute(self) -> dict[str, Tensor]:
            return {"small": torch.tensor(1.0), "large": torch.tensor(2.0)}

    host, _ = fit(tmp_path, ComplexityMonitor({"size": Sizes()}))
    assert host.callback_metrics["effcx/size_small"] == 1
    assert host.callback_metrics["effcx/size_large"] == 2


def test_a_part_of_the_module_can_be_measured_by_its_name_or_by_a_function(tmp_path):
    by_name = ComplexityMonitor([JacobianNorm()], network="network.0")
    by_function = ComplexityMonitor(
        [JacobianNorm(), FisherRaoNorm()], network=lambda module, x: module.network[0](x)
    )
    host, module = fit(tmp_path, by_name)
    weight = module.network[0].weight
    torch.testing.assert_close(host.callback_metrics["effcx/jacobian_norm"], weight.norm())
    host, module = fit(tmp_path, by_function)
    torch.testing.assert_close(host.callback_metrics["effcx/jacobian_norm"], weight.norm())
    assert "effcx/fisher_rao_norm" in host.callback_metrics


class Dictionaries(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step((batch["x"], batch["y"]), batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step((batch["x"], batch["y"]), batch_idx)


def test_a_function_finds_the_input_in_an_unusual_batch(tmp_path):
    data = [{"x": x, "y": y} for x, y in task()]
    monitor = ComplexityMonitor(batch=lambda batch: (batch["x"], batch["y"]))
    host, _ = fit(tmp_path, monitor, module=Dictionaries(), data=data)
    assert names(host.callback_metrics) == set(STANDARD)


def test_for_targets_that_are_no_classes_the_outputs_are_the_mean_of_a_gaussian(tmp_path, caplog):
    class Regression(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return (self(batch[0]) - batch[1]).square().mean()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            pass

    with caplog.at_level("INFO"):
        host, module = fit(tmp_path, ComplexityMonitor(), module=Regression(), data=task("values"))
    assert "taken for the mean of a Gaussian" in caplog.text
    assert names(host.callback_metrics) == set(STANDARD) - {
        "jacobian_norm.probabilities",
        "linear_regions.segment_same",
        "linear_regions.segment_different",
    }
    metric = FisherRaoNorm("gaussian")
    metric.update(module, task().tensors[0][:64])
    torch.testing.assert_close(
        host.callback_metrics["effcx/fisher_rao_norm"], metric.compute()["fisher_rao_norm"]
    )


def test_for_classes_it_is_said_that_outputs_are_logits(tmp_path, caplog):
    with caplog.at_level("INFO"):
        fit(tmp_path, ComplexityMonitor())
    assert caplog.text.count("the outputs are taken for logits") == 1


PARTS = ("measured_error", "per_input", "pieces", "propagated_error")


class Curved(Classifier):
    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).tanh()


def test_a_network_that_is_not_piecewise_linear_goes_without_the_exact_measures(tmp_path):
    message = (
        "leaves out the exact measures linear_regions.segment_same, linear_regions.segment_"
        "different, linear_regions.origin_line, linear_deviation.segment: site 'tanh' .tanh. is "
        "not piecewise linear.*: use Transitions or LANNComplexity. The training goes on"
    )
    with pytest.warns(UserWarning, match=message) as warned:
        host, _ = fit(tmp_path, ComplexityMonitor(), module=Curved())
    assert len([w for w in warned if "effcx" in str(w.message)]) == 1
    assert names(host.callback_metrics) == {
        "lann_complexity",
        *(f"lann_complexity.{part}" for part in PARTS),
        *(name for name in STANDARD if not name.startswith("linear_")),
    }
    with pytest.raises(ValueError, match="site 'tanh'"):
        fit(tmp_path, ComplexityMonitor(strict=True), module=Curved())


def test_a_network_that_is_neither_piecewise_linear_nor_of_curves_goes_without_both(tmp_path):
    class Normalized(Classifier):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.layer_norm(self.network(x).tanh(), (3,))

    with pytest.warns(UserWarning, match="leaves out the exact measures") as warned:
        host, _ = fit(tmp_path, ComplexityMonitor(), module=Normalized())
    assert len([w for w in warned if "effcx" in str(w.message)]) == 1
    assert names(host.callback_metrics) == {
        name for name in STANDARD if not name.startswith("linear_")
    }


def test_the_probe_stays_and_draws_repeat_so_that_a_frozen_network_has_flat_curves(tmp_path):
    module = Classifier(lr=0.0)
    module.network[1].momentum = 0.0  # BatchNorm's running statistics would move
    monitor = ComplexityMonitor()
    fit(tmp_path, monitor, module=module, max_epochs=3)
    first, *later = [
        {tag: value for tag, value in entry["values"].items() if "seconds" not in tag}
        for entry in monitor.history
    ]
    assert later == [first, first]


def test_validate_measures_too_under_inference_mode(tmp_path):
    host, module = fit(tmp_path, ComplexityMonitor())
    during_fit = {k: v.clone() for k, v in host.callback_metrics.items()}
    host.validate(module, loaders()[1], verbose=False)
    for tag, value in during_fit.items():
        if "seconds" not in tag:
            torch.testing.assert_close(host.callback_metrics[tag], value)


# --- when


def test_every_second_validation_is_measured_from_the_first_on(tmp_path):
    monitor = ComplexityMonitor([JacobianNorm()], every=2)
    fit(tmp_path, monitor, max_epochs=5)
    assert [entry["epoch"] for entry in monitor.history] == [0, 2, 4]


def test_validate_is_measured_whatever_the_schedule(tmp_path):
    monitor = ComplexityMonitor([JacobianNorm()], every=3)
    host, module = fit(tmp_path, monitor, max_epochs=2)
    host.validate(module, loaders()[1], verbose=False)
    assert len(monitor.history) == 2


def test_another_fit_starts_another_history(tmp_path):
    monitor = ComplexityMonitor([JacobianNorm()], every=2)
    fit(tmp_path, monitor, max_epochs=2)
    fit(tmp_path, monitor, max_epochs=2)
    assert [entry["epoch"] for entry in monitor.history] == [0]


def test_a_predicate_of_the_number_of_validations_decides(tmp_path):
    monitor = ComplexityMonitor([JacobianNorm()], every=Geometric(2))
    fit(tmp_path, monitor, max_epochs=5)
    assert [entry["epoch"] for entry in monitor.history] == [0, 1, 3]


def test_the_monitor_pickles(tmp_path):
    monitor = ComplexityMonitor(every=Every(2))
    again = pickle.loads(pickle.dumps(monitor))
    assert again.every == monitor.every
    assert again.state_key == monitor.state_key


# --- leaving no trace


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate_grad_batches": 3, "val_check_interval": 2},
        {"gradient_clip_val": 0.1, "num_sanity_val_steps": 0},
        {"precision": "bf16-mixed"},
        {"detect_anomaly": True},
    ],
    ids=lambda options: ", ".join(options) or "default",
)
def test_training_is_bit_identical_with_and_without_the_monitor(tmp_path, options):
    without, plain = fit(tmp_path, max_epochs=3, **options)
    monitor = ComplexityMonitor(detail=True)
    with_it, measured = fit(tmp_path, monitor, max_epochs=3, **options)
    assert monitor.history
    for name, value in plain.state_dict().items():
        assert torch.equal(value, measured.state_dict()[name]), name
    assert torch.equal(without.callback_metrics["val_loss"], with_it.callback_metrics["val_loss"])


@pytest.mark.filterwarnings("ignore:Found 1 module")  # Lightning's, on the frozen part
def test_a_part_that_the_user_froze_in_eval_stays_so(tmp_path):
    module = Classifier()
    module.network[1].eval()
    fit(tmp_path, ComplexityMonitor(), module=module)
    assert not module.network[1].training
    assert module.network[3].training


# --- what hosts do with it


def test_early_stopping_and_checkpoints_can_watch_a_measure(tmp_path):
    stopping = EarlyStopping("effcx/jacobian_norm", mode="min", patience=1, min_delta=1e9)
    checkpoint = ModelCheckpoint(tmp_path, monitor="effcx/jacobian_norm", filename="best")
    host, _ = fit(
        tmp_path, stopping, ComplexityMonitor(), checkpoint, enable_checkpointing=True, max_epochs=9
    )
    assert host.current_epoch == 2
    assert checkpoint.best_model_score is not None


def test_a_checkpoint_can_watch_a_variant_and_have_its_value_in_its_name(tmp_path):
    watched = "effcx/jacobian_norm.probabilities"
    name = f"norm={{{watched}:.3f}}"
    checkpoint = ModelCheckpoint(
        tmp_path, monitor=watched, filename=name, auto_insert_metric_name=False
    )
    monitor = ComplexityMonitor([JacobianNorm("probabilities")])
    fit(tmp_path, monitor, checkpoint, enable_checkpointing=True)
    least = min(entry["values"][watched] for entry in monitor.history)
    assert Path(checkpoint.best_model_path) == tmp_path / f"norm={least:.3f}.ckpt"


def test_every_logger_sees_the_measures(tmp_path):
    fit(tmp_path, ComplexityMonitor(), logger=CSVLogger(tmp_path, name="", version=""))
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0].split(",")
    assert "effcx/jacobian_norm" in header
    assert "effcx_seconds/jacobian_norm" in header


@pytest.mark.filterwarnings("ignore:Checkpoint directory")  # Lightning's, on the first half
def test_after_resuming_early_stopping_finds_the_last_value_until_the_next(tmp_path):
    def callbacks() -> list[Any]:
        stopping = EarlyStopping("effcx/jacobian_norm", patience=99)
        monitor = ComplexityMonitor([JacobianNorm()], every=2)
        return [monitor, stopping, ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)]

    fit(tmp_path, *callbacks(), max_epochs=3, enable_checkpointing=True)
    half = tmp_path / "epoch=2.ckpt"
    monitor, *others = callbacks()
    host, _ = fit(
        tmp_path, monitor, *others, max_epochs=4, enable_checkpointing=True, ckpt_path=half
    )
    assert host.current_epoch == 4
    assert [entry["epoch"] for entry in monitor.history] == [0, 2]


@pytest.mark.filterwarnings("ignore:Checkpoint directory")  # Lightning's, on the first half
def test_a_resumed_training_continues_the_history(tmp_path):
    whole = ComplexityMonitor(every=2)
    fit(tmp_path, whole, max_epochs=5)

    saving = ModelCheckpoint(tmp_path, filename="half")
    fit(tmp_path, ComplexityMonitor(every=2), saving, max_epochs=3, enable_checkpointing=True)
    resumed = ComplexityMonitor(every=2)
    half, saving = tmp_path / "half.ckpt", ModelCheckpoint(tmp_path, filename="whole")
    fit(tmp_path, resumed, saving, max_epochs=5, enable_checkpointing=True, ckpt_path=half)

    assert [entry["epoch"] for entry in resumed.history] == [0, 2, 4]
    assert [entry["step"] for entry in resumed.history] == [e["step"] for e in whole.history]
    for ours, theirs in zip(resumed.history[:2], whole.history[:2], strict=True):
        assert names(ours["values"]) == names(theirs["values"])
        for name in names(ours["values"]):
            assert ours["values"][f"effcx/{name}"] == theirs["values"][f"effcx/{name}"]


@pytest.mark.filterwarnings("ignore:You.re resuming from a checkpoint that ended before the epoch")
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used")
@pytest.mark.parametrize(
    ("step", "options"),
    [
        (2, {"num_sanity_val_steps": 1}),  # which sees less than the validations do
        (7, {"num_sanity_val_steps": 0}),
        (7, {"limit_val_batches": 0}),
    ],
)
def test_a_training_resumed_at_any_step_has_the_same_probe(tmp_path, step, options):
    class Still(Classifier):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.0)

    def curve(*callbacks: Any, **more: Any) -> list[float]:
        monitor = ComplexityMonitor([JacobianNorm()], samples=40)
        module = copy.deepcopy(still)
        fit(tmp_path, monitor, *callbacks, module=module, max_epochs=3, **options, **more)
        return [entry["values"]["effcx/jacobian_norm"] for entry in monitor.history]

    still = Still()
    still.network[1].momentum = 0.0  # type: ignore[assignment]
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    expected = curve(keep, enable_checkpointing=True)
    assert len(expected) == 3
    assert curve(ckpt_path=tmp_path / f"step={step}.ckpt") == expected


def test_the_checkpoint_holds_plain_python_values(tmp_path):
    saving = ModelCheckpoint(tmp_path, filename="last")
    monitor = ComplexityMonitor()
    fit(tmp_path, monitor, saving, enable_checkpointing=True)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    state = checkpoint["callbacks"][monitor.state_key]
    assert state["validations"] == 2
    assert all(type(value) is float for value in state["history"][0]["values"].values())


def test_two_monitors_share_a_trainer(tmp_path):
    host, _ = fit(
        tmp_path,
        ComplexityMonitor([JacobianNorm()]),
        ComplexityMonitor({"far": Transitions(Segment(points=9))}),
    )
    assert names(host.callback_metrics) == {"jacobian_norm", "far"}


def test_a_fast_dev_run_passes(tmp_path):
    host, _ = fit(tmp_path, ComplexityMonitor(strict=True), fast_dev_run=True, logger=None)
    assert names(host.callback_metrics) == set(STANDARD)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")  # Lightning's, on every log
def test_a_barebones_run_passes():
    host = Trainer(barebones=True, max_epochs=1, accelerator="cpu", callbacks=ComplexityMonitor())
    host.fit(Classifier(), *loaders())
    assert host.state.finished


# --- bad input


WRONG = [
    (
        {"metrics": [JacobianNorm]},
        TypeError,
        r"the class JacobianNorm, expected an instance: write JacobianNorm\(\)",
    ),
    ({"metrics": ["jacobian"]}, TypeError, "'jacobian', expected a torchmetrics.Metric"),
    ({"metrics": "jacobian"}, TypeError, "metrics='jacobian': expected a list or a dict"),
    ({"metrics": JacobianNorm()}, TypeError, "expected a list or a dict of metrics"),
    ({"metrics": [Broken()]}, ValueError, "Broken has no name of its own: pass it in a dict"),
    (
        {"metrics": [JacobianNorm(), JacobianNorm(seed=1)]},
        ValueError,
        "two metrics are named 'jacobian_norm'",
    ),
    ({"metrics": {"A b": JacobianNorm()}}, ValueError, "'A b' cannot name a metric"),
    ({"every": 0}, ValueError, "every=0: expected at least 1"),
    ({"every": 1.5}, TypeError, "every=1.5: expected a whole number, a function .*, or 'end'"),
    ({"every": "epoch"}, TypeError, "every='epoch': expected a whole number"),
    ({"name": "My net"}, ValueError, "'My net_measure' cannot name a metric"),
    ({"samples": 0}, ValueError, "samples=0: expected at least 1"),
    ({"samples": 2.5}, TypeError, "samples=2.5: expected a whole number"),
    ({"network": 3}, TypeError, r"network=3: expected the name of a part .*, or a function \(modu"),
    ({"network": nn.Flatten()}, TypeError, r"network=Flatten\(.*\): expected the name of a part"),
    ({"batch": "x"}, TypeError, "batch='x': expected a function of a batch that returns the input"),
    ({"output": 1.5}, TypeError, "output=1.5: expected the name of an output, or its index"),
    ({"output": True}, TypeError, "output=True: expected the name of an output, or its index"),
    ({"name": 3}, TypeError, "name=3: expected text, such as 'encoder'"),
    ({"hparams": ["a"]}, TypeError, r"hparams=\['a'\]: expected values by name, such as {'width'"),
    ({"metrics": 3}, TypeError, "metrics=3: expected a list or a dict of metrics"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), WRONG)
def test_wrong_arguments_are_refused_when_the_monitor_is_made(arguments, error, message):
    with pytest.raises(error, match=message):
        ComplexityMonitor(**arguments)


class Parcel:
    """A batch of a sort that nobody knows."""

    def __init__(self, samples: list[Any]) -> None:
        self.x, self.y = (torch.stack(column) for column in zip(*samples, strict=True))


class Parcels(Classifier):
    """A user of these, whose step calls no module as a whole."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step((batch.x, batch.y), batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        for part in self.network:
            batch.x = part(batch.x)


FAULTS = {
    "a batch without an input": (
        dict,
        {"module": Parcels(), "collate_fn": Parcel},
        (
            "leaves out every measure: no input was found: no call with tensors was seen, and "
            r"the batch has no floating-point tensor \(n, ...\). The batch is Parcel\("
            r"x=float32 \(16, 3\), y=int..? \(16,\)\). Specify the input with batch=, such as "
            ".* and the network with network=: the name of a part"
        ),
    ),
    "an unknown part": (
        lambda: {"network": "head"},
        {},
        r"network='head': Classifier has no such part; it has: \['network', 'network.0'",
    ),
    "an output without samples": (
        dict,
        {"module": Outputs(lambda y: {"loss": y.mean()})},
        (
            r"every measure: the network returned \{'loss': float32 \(\)\} for 64 samples, "
            r"expected a floating-point tensor \(64, ...\), or a structure with one. The batch is "
        ),
    ),
    "outputs that are not finite": (
        dict,
        {"module": Outputs(lambda y: y / 0)},
        "every measure: the network's outputs are not finite for 64 of 64 samples",
    ),
    "an error in a measure": (
        lambda: {"metrics": {"broken": Broken()}},
        {},
        "the measure 'broken': the dog ate it. The training goes on; strict=True raises",
    ),
    "a measure without a number": (
        lambda: {"metrics": {"nan": NotFinite()}},
        {},
        "the measure 'nan': its value is nan",
    ),
    "an error in the schedule": (
        lambda: {"every": lambda count: 1 / count > 0},
        {},
        "leaves out a validation: division by zero",
    ),
}


class NotFinite(Size):
    def compute(self) -> Tensor:
        return torch.tensor(math.nan)


@pytest.mark.parametrize("fault", FAULTS)
def test_what_goes_wrong_in_training_is_one_warning_and_changes_nothing(tmp_path, fault):
    arguments, options, message = FAULTS[fault]
    options = {"num_sanity_val_steps": 0, **copy.deepcopy(options)}
    _, plain = fit(tmp_path, **copy.deepcopy(options))
    with pytest.warns(UserWarning, match=message) as record:
        _, measured = fit(tmp_path, ComplexityMonitor(**arguments()), **options)
    assert len([w for w in record if "effcx" in str(w.message)]) == 1
    for name, value in plain.state_dict().items():
        assert torch.equal(value, measured.state_dict()[name]), name


@pytest.mark.parametrize("fault", FAULTS)
def test_strict_raises_instead(tmp_path, fault):
    arguments, options, message = FAULTS[fault]
    detail = message.split(": ", 1)[-1].split(". The training")[0]
    with pytest.raises(Exception, match=detail.replace("64", r"\d+")):
        fit(tmp_path, ComplexityMonitor(strict=True, **arguments()), **copy.deepcopy(options))


def test_strict_raises_in_the_sanity_check_what_can_be_known_there(tmp_path):
    module = Outputs(torch.sum)
    with pytest.raises(ValueError, match="for 32 samples, expected"):
        fit(tmp_path, ComplexityMonitor(strict=True), module=module)
    assert module.trainer.global_step == 0


def test_the_other_measures_go_on_when_one_fails(tmp_path):
    monitor = ComplexityMonitor({"broken": Broken(), "jacobian_norm": JacobianNorm()})
    with pytest.warns(UserWarning, match="the measure 'broken'"):
        host, _ = fit(tmp_path, monitor)
    assert names(host.callback_metrics) == {"jacobian_norm"}


def test_a_training_without_validation_is_measured_at_the_end_of_each_epoch(tmp_path, caplog):
    monitor = ComplexityMonitor([JacobianNorm()], samples=20)
    with caplog.at_level("INFO"):
        host, _ = fit(tmp_path, monitor, limit_val_batches=0, max_epochs=3)
    assert caplog.text.count("no validation runs in this training, so the first training sam") == 1
    assert [entry["epoch"] for entry in monitor.history] == [0, 1, 2]
    assert "effcx/jacobian_norm" in host.callback_metrics


def test_a_training_that_ends_before_its_validation_is_measured_at_its_end(tmp_path):
    for sanity in (0, 2):
        monitor = ComplexityMonitor([JacobianNorm()])
        host, _ = fit(tmp_path, monitor, max_steps=3, num_sanity_val_steps=sanity)
        [entry] = monitor.history
        assert entry["step"] == 2
        assert "effcx/jacobian_norm" in host.callback_metrics


def test_a_validation_loader_that_is_not_there_is_reported(tmp_path):
    with pytest.warns(
        UserWarning,
        match=r"no batch with samples came from the validation loader number 1 \(the first is n",
    ):
        fit(tmp_path, ComplexityMonitor(loader=1))


def test_a_batch_that_is_a_tensor_has_no_targets(tmp_path):
    class Autoencoder(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.network.append(nn.Linear(3, 6))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return (self(batch) - batch).square().mean()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            pass

    data = list(task().tensors[0])
    host, _ = fit(tmp_path, ComplexityMonitor(strict=True), module=Autoencoder(), data=data)
    assert "effcx/fisher_rao_norm" in host.callback_metrics


def test_only_the_first_of_several_validation_loaders_is_the_probe(tmp_path):
    class Two(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            pass

    other = DataLoader(TensorDataset(torch.full((16, 6), 9.0), torch.zeros(16).long()), 16)
    monitor = ComplexityMonitor([TrajectoryLength()])
    host = trainer(tmp_path, monitor)
    module = Two()
    host.validate(module, [loaders()[1], other], verbose=False)
    both = host.callback_metrics["effcx/trajectory_length.segment"]
    host.validate(module, loaders()[1], verbose=False)
    torch.testing.assert_close(host.callback_metrics["effcx/trajectory_length.segment"], both)


# --- options


def test_the_probe_can_be_of_another_validation_loader(tmp_path):
    class Two(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self(batch[0])

    other = DataLoader(TensorDataset(torch.full((16, 6), 9.0), torch.zeros(16).long()), 16)
    monitor = ComplexityMonitor([JacobianNorm()], loader=1)
    host, module = trainer(tmp_path, monitor), Two()
    host.validate(module, [loaders()[1], other], verbose=False)
    with observing(module):
        expected = jacobian_norm(module, torch.full((16, 6), 9.0)).mean()
    torch.testing.assert_close(host.callback_metrics["effcx/jacobian_norm"], expected)


def test_one_of_several_outputs_is_chosen_by_its_name(tmp_path):
    module = Outputs(lambda y: {"loss": y.mean(), "first": y[:, :1], "all": y})
    host, _ = fit(tmp_path, ComplexityMonitor([JacobianNorm()], output="all"), module=module)
    with observing(module):
        expected = jacobian_norm(lambda x: module(x)["all"], task().tensors[0][:64]).mean()
    torch.testing.assert_close(host.callback_metrics["effcx/jacobian_norm"], expected)


def test_monitors_of_several_parts_are_told_apart_by_their_names(tmp_path):
    monitors = [
        ComplexityMonitor([JacobianNorm()], network=f"network.{part}", name=name)
        for part, name in ((0, "first"), (4, "last"))
    ]
    host, module = fit(tmp_path, *monitors)
    for part, name in ((0, "first"), (4, "last")):
        torch.testing.assert_close(
            host.callback_metrics[f"effcx/{name}_jacobian_norm"], module.network[part].weight.norm()
        )


def test_monitors_that_name_their_measures_alike_are_warned_of(tmp_path):
    first, second = ComplexityMonitor([JacobianNorm()]), ComplexityMonitor([FisherRaoNorm()])
    other = ComplexityMonitor([JacobianNorm("both"), Transitions()])
    message = (
        r"^effcx: two monitors in this Trainer measure jacobian_norm, and their curves are mixed: "
        r"tell them apart by name=, such as ComplexityMonitor\(name='encoder'\)\.$"
    )
    with pytest.warns(UserWarning, match=message) as warned:
        host, _ = fit(tmp_path, first, second, other)
    assert sum(str(warning.message).startswith("effcx") for warning in warned) == 1
    assert host.state.finished


def test_strict_raises_for_monitors_that_name_their_measures_alike(tmp_path):
    first = ComplexityMonitor([JacobianNorm()])
    other = ComplexityMonitor([JacobianNorm(), Transitions()], strict=True)
    with pytest.raises(ValueError, match=r"^two monitors in this Trainer measure jacobian_norm, "):
        fit(tmp_path, first, other)


def test_of_monitors_that_lightning_refuses_the_documentation_tells_them_apart(tmp_path):
    message = "Please consult the documentation of `ComplexityMonitor`"
    with pytest.raises(RuntimeError, match=message):
        trainer(tmp_path, ComplexityMonitor(), ComplexityMonitor(network="network"))
    trainer(tmp_path, ComplexityMonitor(), ComplexityMonitor(network="network", name="part"))
    said = " ".join(str(ComplexityMonitor.__doc__).split())
    assert "several monitors in one Trainer, each needs a name of its own" in said


def test_the_input_of_a_part_is_what_it_is_called_with(tmp_path):
    monitor = ComplexityMonitor({"input": Mean()}, network="network.2", samples=20)
    host, module = fit(tmp_path, monitor)
    with observing(module):
        expected = module.network[:2](task().tensors[0][:20]).mean()
    torch.testing.assert_close(host.callback_metrics["effcx/input"], expected)


class Mean(Broken):
    """The mean of the samples that a metric is given."""

    def update(self, network: Any, x: Tensor, y: Tensor | None = None) -> None:
        self.mean = x.mean()

    def compute(self) -> Tensor:
        return self.mean


def test_at_the_end_the_network_is_measured_once(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="")
    monitor = ComplexityMonitor([JacobianNorm()], every="end")
    host, module = fit(tmp_path, monitor, max_epochs=3, logger=logger)
    [entry] = monitor.history
    with observing(module):
        expected = jacobian_norm(module, task().tensors[0][:64]).mean()
    torch.testing.assert_close(host.callback_metrics["effcx/jacobian_norm"], expected)
    logger.save()
    header, *rows = (tmp_path / "metrics.csv").read_text().splitlines()
    column = header.split(",").index("effcx/jacobian_norm")
    assert [float(row.split(",")[column]) for row in rows if row.split(",")[column]] == [
        pytest.approx(entry["values"]["effcx/jacobian_norm"])
    ]


# --- resuming


class Shuffled(Classifier):
    """Whose validation data come in another order every time; batches of training do not."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(task(), 16)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(task(), 16, shuffle=True)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")  # Lightning's, on the first half
@pytest.mark.filterwarnings("ignore:Your `val_dataloader`")  # Lightning's, on the shuffling
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_training_resumed_at_any_epoch_has_the_curves_of_one_that_ran_through(tmp_path, stop):
    def curves(epochs: int, file: str, ckpt_path: Any = None) -> list[dict[str, float]]:
        monitor = ComplexityMonitor(samples=24)
        saving = ModelCheckpoint(tmp_path, filename=file, save_top_k=-1)
        host = trainer(tmp_path, monitor, saving, max_epochs=epochs, enable_checkpointing=True)
        seed_everything(1, verbose=False)
        module = Shuffled()
        module.network[3].p = 0.0  # dropout draws on where it stopped only if its state is saved
        host.fit(module, ckpt_path=ckpt_path, weights_only=True)
        values = [entry["values"] for entry in monitor.history]
        return [{t: v for t, v in entry.items() if "seconds/" not in t} for entry in values]

    whole = curves(4, "whole-{epoch}")
    assert whole[0] != whole[-1]
    # The second half sees its data in an order that the first did not.
    resumed = curves(4, "resumed", tmp_path / f"whole-epoch={stop - 1}.ckpt")
    assert resumed == whole


class Talking(Classifier):
    """Its forward logs, and collects what is logged in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            self.log("mean", x.mean(), batch_size=len(x))
            self.log_dict({"least": x.min()}, batch_size=len(x))
            self.seen.append(len(x))
        return super().forward(x)

    def on_validation_epoch_end(self) -> None:
        self.log("seen", float(sum(self.seen)))
        self.seen.clear()


@pytest.mark.parametrize("every", [1, "end"])
def test_what_forward_logs_is_about_the_training_alone(tmp_path, every):
    module, monitor = Talking(), ComplexityMonitor([JacobianNorm()], every=every)
    plain, _ = fit(tmp_path, module=copy.deepcopy(module))
    host, _ = fit(tmp_path, monitor, module=module)
    assert names(host.callback_metrics) == {"jacobian_norm"}
    for name, value in plain.callback_metrics.items():
        assert torch.equal(host.callback_metrics[name], value), name


def test_what_the_network_is_called_with_may_be_of_any_sort(tmp_path):
    class Sparse(Classifier):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.to_dense())

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self(batch[0].to_sparse())

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step((batch[0].to_sparse(), batch[1]), batch_idx)

    monitor = ComplexityMonitor([JacobianNorm()])
    host, _ = fit(tmp_path, monitor, module=Sparse())
    assert names(host.callback_metrics) == {"jacobian_norm"}  # of the only part with parameters
    with pytest.warns(UserWarning, match=r"with float32 sparse \(16, 6\), and single samples"):
        fit(tmp_path, ComplexityMonitor(network=""), module=Sparse())


def test_what_looks_across_samples_beside_the_outputs_takes_no_measure_away(tmp_path):
    class Balanced(Classifier):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            self.load = y.mean(0).relu()
            return y

    host, _ = fit(tmp_path, ComplexityMonitor(), module=Balanced())
    assert {*STANDARD} <= names(host.callback_metrics)


# --- what is said where nothing is found


class Parts(Parcels):
    """Several parts with parameters, of which two run in the validation, and one never."""

    def __init__(self) -> None:
        super().__init__()
        self.unused, self.encoder, self.head = nn.Linear(1, 1), nn.Linear(6, 4), nn.Linear(4, 3)
        self.encoder.inner = nn.Linear(1, 1)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.network[4](self.network[0](batch.x))
        self.head(self.encoder(batch.x))


def test_where_no_call_was_heard_the_parts_that_ran_are_named_first(tmp_path):
    message = (
        r"no call with tensors was seen.* with network=: the name of a part, such as "
        r"network='network.0', network='network.4', network='encoder' or network='head', or a "
        r"function \(module, x\) -> outputs\. The training goes on"
    )
    with pytest.warns(UserWarning, match=message):
        fit(tmp_path, ComplexityMonitor(), module=Parts(), collate_fn=Parcel)


class Detector(Parcels):
    """Its batch is a list of images of different sizes."""

    def forward(self, images: list[Tensor]) -> list[Tensor]:
        return [self.network[0](image.mean((1, 2)).repeat(2)) for image in images]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return torch.stack(self(batch[0])).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])


def test_a_list_of_images_is_told_with_functions_that_take_it_apart(tmp_path):
    def collate(samples: list[Any]) -> Any:
        return [torch.zeros(3, 4 + i, 5) for i, _ in enumerate(samples)], [y for _, y in samples]

    message = (
        r"leaves out every measure: no input was found: the network was called with \[float32 "
        r"\(3, 4, 5\), .*\], and single samples cannot be taken from it \(a list of images\): "
        r"write functions that take it apart and put it together, such as ComplexityMonitor\(batch="
        r"lambda batch: torch.stack\(\[resize\(image\) for image in batch\[0\]\]\), "
        r"network=lambda module, x: module\(list\(x\)\)\). The batch is \[\[float32 .*\]\]. The "
        r"training goes on"
    )
    with pytest.warns(UserWarning, match=message) as record:
        fit(tmp_path, ComplexityMonitor(), module=Detector(), collate_fn=collate)
    assert len([w for w in record if "effcx" in str(w.message)]) == 1
    monitor = ComplexityMonitor(
        [JacobianNorm()],
        batch=lambda batch: torch.stack([image[:, :4, :4] for image in batch[0]]),
        network=lambda module, x: torch.stack(module([*x])),
        strict=True,
    )
    host, _ = fit(tmp_path, monitor, module=Detector(), collate_fn=collate)
    assert names(host.callback_metrics) == {"jacobian_norm"}


def test_classes_in_a_column_are_classes(tmp_path):
    class Columns(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step((batch[0], batch[1][:, 0]), batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self(batch[0])

    x, y = task().tensors
    data = TensorDataset(x, y[:, None])
    empirical = {"empirical": FisherRaoNorm(empirical=True)}
    for metrics, expected in ((None, {*STANDARD}), (empirical, {"empirical"})):
        monitor = ComplexityMonitor(metrics, strict=True)
        host, _ = fit(tmp_path, monitor, module=Columns(), data=data)
        assert names(host.callback_metrics) == expected
