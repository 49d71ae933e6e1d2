"""A training and three studies, small and repeatable, that an older version once ran.

`python tests/support/before_rooms.py FOLDER` runs them with the version that is imported, and
writes what `tests/test_older_formats.py` reads. The last version before the
package had rooms wrote `tests/fixtures/before_rooms`; the last version before tags had their
present grammar wrote the `events_of_version_0_1` there. Never write them with a newer version:
then they prove nothing.
"""

import json
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from procedures import Majority, Projected, trainer
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_effcx.callbacks import ComplexityMonitor
from lightning_effcx.cli import main as effcx
from lightning_effcx.metrics import JacobianNorm, TrainingError
from lightning_effcx.studies import double_descent, effective_model_complexity, mimic

EPOCHS = 6
STOPPED = 3  # epochs in the checkpoint, of which `every=2` has measured the first and the third


def task(count: int = 24) -> TensorDataset:
    """Return samples that are the same to the last bit on every machine."""
    x = (torch.arange(6 * count).reshape(count, 6) * 37 % 97) / 48 - 1
    return TensorDataset(x, x[:, :3].argmax(1))


class Classifier(LightningModule):
    """Draws no random numbers after its weights, so that a resumed training is the same."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"], momentum=0.9)


class Saving(Callback):
    """Saves a checkpoint in the middle; Lightning's own would tell the folder of the machine."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch + 1 == STOPPED:
            trainer.save_checkpoint(self.file)


def monitors() -> dict[str, ComplexityMonitor]:
    """Make the default monitor, and one with names, a schedule and a metric that remembers."""
    chosen = {"error": TrainingError(task(), epsilon=0.1), "norm": JacobianNorm()}
    return {
        "default": ComplexityMonitor(strict=True),
        "chosen": ComplexityMonitor(chosen, name="body", every=2, detail=True, strict=True),
    }


def train(
    folder: Path,
    watching: dict[str, ComplexityMonitor],
    *callbacks: Any,
    lr: float = 0.1,
    resume: Path | None = None,
    validation: Any = None,
    **options: Any,
) -> LightningModule:
    """Train, or go on from a checkpoint."""
    torch.manual_seed(0)
    module = Classifier(lr)
    host = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        callbacks=[*watching.values(), *callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        enable_checkpointing=False,
        **{"max_epochs": EPOCHS, "logger": False} | options,
    )
    loaders = DataLoader(task(), 8), DataLoader(validation or task(), 8)
    host.fit(module, *loaders, ckpt_path=resume)
    return module


def curves(monitor: ComplexityMonitor) -> list[dict[str, Any]]:
    """Return what a monitor measured, without what it cost."""
    return [
        entry | {"values": {t: v for t, v in entry["values"].items() if "seconds/" not in t}}
        for entry in monitor.history
    ]


def samples() -> dict[str, Any]:
    """Return what the studies train on and test with."""
    x, y = task().tensors
    return {"dataset": (x[:16], y[:16] % 2), "test": (x[16:], y[16:] % 2)}


OPTIONS: dict[str, Any] = {"make_trainer": trainer, "batch_size": 512, "progress": False}


def emc(folder: Path) -> str:
    """Study the effective model complexity; return what was found."""
    found = effective_model_complexity(
        Majority, **samples(), **OPTIONS, repeats=3, label_noise=0.2, folder=folder
    )
    return found.as_json()


def descent(folder: Path) -> str:
    """Study double descent along a width."""
    modules = {width: partial(Projected, width) for width in (2, 4)}
    found = double_descent(
        modules, **samples(), **OPTIONS, samples=8, repeats=2, epsilon=0.2, folder=folder
    )
    return found.as_json()


class Teacher(nn.Module):
    """Has outputs that are exact on every machine, by which a folder knows its samples."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x[:, :3].abs()


def mimicry(folder: Path) -> str:
    """Study which shallow students do what a teacher does."""
    x, y = task(40).tensors
    found = mimic(Teacher(), (x, y), students=(1, 4, 8), steps=20, folder=folder, progress=False)
    return found.as_json()


STUDIES = {"emc": emc, "descent": descent, "mimic": mimicry}
RESULTS = "results.jsonl"


def stop(folder: Path) -> None:
    """Leave of a finished study what a kill in the middle of its last part leaves."""
    (folder / "found.json").unlink()
    lines = (folder / RESULTS).read_text().splitlines(keepends=True)
    half = len(lines) // 2
    (folder / RESULTS).write_text("".join(lines[:half]) + lines[half][:20])


def _write_training(folder: Path) -> None:
    folder.mkdir(parents=True)
    watching = monitors()
    train(folder, watching, Saving(folder / "half.ckpt"))
    found = {name: curves(monitor) for name, monitor in watching.items()}
    (folder / "curves.json").write_text(json.dumps(found, indent=1) + "\n")


def _write_runs(folder: Path) -> None:
    for lr in (0.1, 0.02):
        logger = TensorBoardLogger(folder, name=f"lr_{lr:g}", version=0)
        train(folder, monitors(), lr=lr, max_epochs=3, logger=logger)
        [events] = Path(logger.log_dir).glob("events*")
        events.rename(events.with_name("events.out.tfevents.0"))  # without the machine's name


def _write_studies(folder: Path) -> None:
    for name, study in STUDIES.items():
        whole, half = folder / "finished" / name, folder / "stopped" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(study(whole))
        for lock in whole.rglob("lock"):
            lock.unlink()
        shutil.copytree(whole, half)
        stop(half / "width=4" if name == "descent" else half)


def write(folder: Path) -> None:
    """Write everything, and what `effcx compare` says of it."""
    _write_training(folder / "training")
    _write_runs(folder / "events")
    _write_studies(folder / "studies")
    for what, below in (("events", "events"), ("studies", "studies/finished")):
        effcx(["compare", str(folder / below), f"--json={folder / what}.json"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    write(Path(sys.argv[1]))
