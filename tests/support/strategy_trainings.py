"""Trainings over several processes; every rank writes down what it saw.

`python tests/support/strategy_trainings.py --strategy ddp --devices 2 --out folder curves validate`
runs the named trainings, or all, and writes `folder/<training>-<rank>.json` for each. Each training
is a method below.
"""

import argparse
import json
import os
import sys
import warnings
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from pytorch_lightning import Callback, seed_everything
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, TensorDataset
from user_training import Classifier, trainer

from lightning_effcx.callbacks import ComplexityMonitor
from lightning_effcx.metrics import JacobianNorm

PATIENCE = timedelta(seconds=90)  # after which ranks that wait for each other fail
STRATEGIES = {
    "fsdp2": lambda: ModelParallelStrategy(
        data_parallel_size=2,
        tensor_parallel_size=1,
        save_distributed_checkpoint=False,
        timeout=PATIENCE,
    ),
    "ddp": lambda: DDPStrategy(timeout=PATIENCE),
    "ddp_spawn": lambda: DDPStrategy(start_method="spawn", timeout=PATIENCE),
    "ddp_fork": lambda: DDPStrategy(start_method="fork", timeout=PATIENCE),
    "auto": lambda: "auto",
}


class Net(Classifier):
    """The user's classifier in float64, so that ranks can be held to 1e-6; spread if so chosen."""

    def __init__(self, lr: float = 0.0, *, norm: bool = False, spread: bool = False) -> None:
        super().__init__(lr)
        torch.manual_seed(0)
        layers = [nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)]
        if norm:
            layers.insert(1, nn.BatchNorm1d(16))
            nn.init.uniform_(layers[1].running_mean)
        self.network = nn.Sequential(*layers).double()
        self.spread = spread

    def configure_model(self) -> None:
        if self.spread and not hasattr(self.network, "unshard"):
            fully_shard(self.network[0])
            fully_shard(self.network)

    def validation_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("val_loss", loss, sync_dist=True)


class FailsOnOneRank(JacobianNorm):
    """A measure that fails on the last rank only, where there are several."""

    def score(self, network, chunk):
        if dist.is_initialized() and dist.get_rank() == dist.get_world_size() - 1 > 0:
            raise ValueError("this rank is tired")
        return super().score(network, chunk)


class Record(Callback):
    """Write down, on every rank, what the callbacks and the weights are."""

    def __init__(self, file: Path, **observers: Callback) -> None:
        self.file = file
        self.observers = observers
        self.warnings: list[str] = []

    def setup(self, trainer, pl_module, stage):
        # Here, since in a spawned process nothing else of ours runs.
        warnings.showwarning = lambda message, *_: self.warnings.append(str(message))
        warnings.simplefilter("always")
        torch.set_num_threads(1)

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.write(trainer, pl_module)

    def on_fit_end(self, trainer, pl_module):
        self.write(trainer, pl_module)

    def on_exception(self, trainer, pl_module, exception):
        self.write(trainer, pl_module, f"{type(exception).__name__}: {exception}", whole=False)
        if dist.is_initialized() and dist.get_world_size() > 1:
            # A launcher ends the other processes when one has failed: wait until they have written.
            dist.monitored_barrier(timeout=timedelta(seconds=20))

    def write(self, trainer, pl_module, error="", *, whole=True):
        monitor, stopping, best = map(self.observers.get, ("monitor", "stopping", "best"))
        found = {
            "rank": trainer.global_rank,
            "world": trainer.world_size,
            "metrics": {key: value.item() for key, value in trainer.callback_metrics.items()},
            "history": getattr(monitor, "history", None),
            "weights": [_whole(p).tolist() for p in pl_module.parameters()] if whole else None,
            "epoch": trainer.current_epoch,
            "stopped": getattr(stopping, "stopped_epoch", None),
            "best": None
            if best is None
            else [best.best_model_path, _number(best.best_model_score)],
            "warnings": [text for text in self.warnings if "effcx" in text],
            "error": error,
        }
        file = self.file.with_name(f"{self.file.name}-{trainer.global_rank}.json")
        file.write_text(json.dumps(found))


def _whole(parameter):
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter.detach()


def _number(value):
    return None if value is None else float(value)


class Training:
    """What all trainings share: a strategy, a number of processes, a folder to write to."""

    def __init__(self, strategy: str, devices: int, folder: Path) -> None:
        self.strategy = strategy
        self.devices = devices
        self.folder = Path(folder)

    def host(self, name, **options):
        observers = {
            key: options.pop(key) for key in ("monitor", "stopping", "best") if key in options
        }
        return trainer(
            self.folder,
            Record(self.folder / name, **observers),
            *observers.values(),
            strategy=STRATEGIES[self.strategy](),
            devices=self.devices,
            **{"enable_checkpointing": "best" in observers, "max_epochs": 2} | options,
        )

    def net(self, lr=0.0, **options):
        seed_everything(1, verbose=False)
        return Net(lr, spread=self.strategy == "fsdp2", **options)

    # Weights stay as they are (lr=0), so that numbers do not depend on how batches are dealt out.

    def curves(self, name="curves"):
        """Fit, with callbacks that watch a measure which never improves."""
        watched = {"monitor": "effcx/jacobian_norm", "mode": "min"}
        host = self.host(
            name,
            monitor=ComplexityMonitor(samples=33),
            stopping=EarlyStopping(
                patience=1, strict=True, check_on_train_epoch_end=False, **watched
            ),
            best=ModelCheckpoint(self.folder / f"{name}-{self.strategy}", **watched),
            max_epochs=4,
        )
        host.fit(self.net(), *loaders(81))

    def validate(self, name="validate"):
        """Validate a net with BatchNorm; ranks keep 17 samples each, one too many."""
        host = self.host(name, monitor=ComplexityMonitor(samples=33))
        host.validate(self.net(norm=True), loaders(81)[1], verbose=False)

    def few(self, name="few"):
        """Validate on fewer samples than asked for, which do not divide by the ranks."""
        host = self.host(name, monitor=ComplexityMonitor(samples=64))
        host.validate(self.net(), loaders(21)[1], verbose=False)

    def broken(self, name="broken"):
        """Fit with a metric that fails on one rank."""
        metrics = {"fails": FailsOnOneRank(), "jacobian_norm": JacobianNorm()}
        self.host(name, monitor=ComplexityMonitor(metrics)).fit(self.net(), *loaders(80))

    def strict(self, name="strict"):
        """The same, where errors are raised."""
        metrics = {"fails": FailsOnOneRank(), "jacobian_norm": JacobianNorm()}
        monitor = ComplexityMonitor(metrics, strict=True)
        self.host(name, monitor=monitor).fit(self.net(), *loaders(80))

    def watched(self, name="watched"):
        """Train in earnest, with the monitor."""
        monitor = ComplexityMonitor(samples=33)
        self.host(name, monitor=monitor).fit(self.net(0.1, norm=True), *loaders(81))

    def alone(self, name="alone"):
        """Train in earnest, without it."""
        self.host(name).fit(self.net(0.1, norm=True), *loaders(81))


TRAININGS = ("curves", "validate", "few", "watched", "alone", "broken", "strict")


def loaders(size):
    """Loaders of 80 samples to train on, and of this many to validate on."""
    x = torch.randn(80 + size, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = x[:, :3].argmax(1)
    train, val = TensorDataset(x[:80], y[:80]), TensorDataset(x[80:], y[80:])
    return DataLoader(train, 8, shuffle=True), DataLoader(val, 8)


def run(strategy, devices, out, names):
    """Do the trainings one after the other, each whatever became of the one before."""
    for name in names:
        try:
            getattr(Training(strategy, devices, out), name)()
        except Exception as error:  # noqa: BLE001 it is written down
            print(f"{name}: {error}", file=sys.stderr)  # noqa: T201


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strategy", choices=STRATEGIES, default="auto")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("trainings", nargs="*", default=TRAININGS)
    given = parser.parse_args()
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    run(given.strategy, given.devices, given.out, given.trainings)


if __name__ == "__main__":
    main()
