import pytest
import torch
from pytorch_lightning import seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric
from user_training import Classifier, task, trainer

from lightning_effcx.callbacks import ComplexityMonitor
from lightning_effcx.metrics import TrainingError

TAG = "effcx/training_error.since"
KNOWN = [False, False, True, False, True, True, True, True]  # at each epoch
resuming = pytest.mark.filterwarnings(
    "ignore:Be aware that when using `ckpt_path`, callbacks used",  # Lightning's, both
    "ignore:You.re resuming from a checkpoint that ended before the epoch",
)


class Forgetful(Classifier):
    """Knows its samples at some epochs, and learns nothing."""

    def __init__(self):
        super().__init__(lr=0.0)
        self.network = nn.Linear(6, 3, bias=False)

    def on_train_epoch_start(self):
        with torch.no_grad():
            self.network.weight.copy_(torch.eye(3, 6) * (1 if KNOWN[self.current_epoch] else -1))


def train(module, folder, *callbacks, resume=None, **options):
    """Train in steps of five to an epoch; keep checkpoints of each step and of each epoch once."""
    if resume is None:
        options["enable_checkpointing"] = True
        steps = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
        callbacks += (steps, ModelCheckpoint(folder, "{epoch}", save_top_k=-1))
    host = trainer(folder, *callbacks, **{"max_epochs": len(KNOWN)} | options)
    seed_everything(1, verbose=False)
    loaders = DataLoader(task(), 16), DataLoader(task(), 16)
    host.fit(module, *loaders, ckpt_path=resume, weights_only=True)


def watching(**options):
    return ComplexityMonitor([TrainingError(task())], strict=True, **options)


def seen_by(monitor):
    values = [entry["values"] for entry in monitor.history]
    return [{t: v for t, v in entry.items() if "seconds/" not in t} for entry in values]


@resuming
@pytest.mark.parametrize("options", [{}, {"limit_val_batches": 0}], ids=["", "no validation"])
@pytest.mark.parametrize(
    ("every", "expected"), [(1, [None, None, 2, None, 4, 4, 4, 4]), (2, [None, 1, 1, 1])]
)
def test_since_goes_on_in_a_resumed_training_as_in_one_that_ran_through(
    tmp_path, every, expected, options
):
    whole = watching(every=every)
    train(Forgetful(), tmp_path, whole, **options)
    assert [entry.get(TAG) for entry in seen_by(whole)] == expected
    for place in ("epoch=0", "epoch=2", "epoch=3", "epoch=5", "step=12", "step=22"):
        resumed, half = watching(every=every), tmp_path / f"{place}.ckpt"
        train(Forgetful(), tmp_path, resumed, resume=half, **options)
        assert seen_by(resumed) == seen_by(whole), place
        ours, theirs = resumed.metrics["training_error"], whole.metrics["training_error"]
        assert (ours.measured, ours.since) == (theirs.measured, theirs.since), place


@resuming
def test_a_resumed_training_is_bit_identical_with_and_without_it(tmp_path):
    train(Classifier(), tmp_path, watching(), max_epochs=3)
    plain, measured = Classifier(seed=1), Classifier(seed=2)
    for module, callbacks in ((plain, []), (measured, [watching()])):
        train(module, tmp_path, *callbacks, resume=tmp_path / "epoch=0.ckpt", max_epochs=3)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, measured.state_dict()[name]), name


@resuming
def test_after_a_checkpoint_without_its_count_it_counts_anew(tmp_path):
    train(Forgetful(), tmp_path, watching())
    half = tmp_path / "epoch=4.ckpt"
    checkpoint = torch.load(half, weights_only=True)
    [state] = (v for k, v in checkpoint["callbacks"].items() if "ComplexityMonitor" in k)
    assert state.pop("memory") == {"training_error": {"measured": 5, "since": 4}}
    torch.save(checkpoint, half)
    resumed = watching()
    train(Forgetful(), tmp_path, resumed, resume=half)
    assert [entry.get(TAG) for entry in seen_by(resumed)] == [None, None, 2, None, 4, 0, 0, 0]
    assert resumed.metrics["training_error"].measured == 3


def own():
    return TrainingError((torch.eye(4), torch.arange(4)))


def measured(metric, network):
    metric.update(network, torch.zeros(1, 4))
    found = metric.compute()
    metric.reset()
    return found.get("training_error.since")


def test_only_what_is_known_is_remembered():
    monitor = ComplexityMonitor({"mine": own(), "mean": MeanMetric()})
    metric, state = monitor.metrics["mine"], monitor.state_dict()
    assert state["memory"] == {"mine": {"measured": 0, "since": None}}
    others = {"gone": {"measured": 1}, "mean": {"since": 1}}
    monitor.load_state_dict(state | {"memory": others | {"mine": {"since": 3, "epsilon": 0.5}}})
    assert (metric.measured, metric.since, metric.epsilon) == (0, 3, 0.1)
    assert not hasattr(monitor.metrics["mean"], "since")


def test_what_is_under_way_when_a_checkpoint_is_loaded_is_not_counted():
    monitor = ComplexityMonitor([own()])
    metric = monitor.metrics["training_error"]
    assert measured(metric, nn.Identity()) == 0
    state = monitor.state_dict()
    metric.update(torch.neg, torch.zeros(1, 4))
    metric.compute()
    monitor.load_state_dict(state)
    assert measured(metric, nn.Identity()) == 0
    assert (metric.measured, metric.since) == (2, 0)
