"""Which regularizer keeps the function simple? One network, five ways to train it, three seeds.

An MLP learns scikit-learn's digits. A fifth of the training labels is wrong. Without a regularizer
the network learns the wrong labels by heart: its function becomes steep, and bends strongly between
the samples. Each training writes its curves to a folder of its own below `runs/`. The table and the
figure at the end are made from these folders.

    python examples/compare_regularizers.py --help
"""

import argparse
import logging
import shlex
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.loggers import TensorBoardLogger
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_effcx.callbacks import ComplexityMonitor
from lightning_effcx.cli import main as effcx
from lightning_effcx.functional import jacobian_norm

REGULARIZERS = {"none": 0.0, "l1": 3e-4, "l2": 3e-3, "dropout": 0.5, "jacobian": 0.02}
"""The strength of each regularizer: a factor of the penalty, or the share of dropped units."""


class Classifier(LightningModule):
    """An MLP for images of digits."""

    def __init__(self, regularizer: str, strength: float, seed: int) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.regularizer, self.strength = regularizer, strength
        drop = strength if regularizer == "dropout" else 0.0
        self.layers = nn.Sequential(
            nn.Linear(64, 256), nn.ReLU(), nn.Dropout(drop),
            nn.Linear(256, 256), nn.ReLU(), nn.Dropout(drop),
            nn.Linear(256, 10),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.layers(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the loss with its penalty, and log how well the training labels are learned."""
        x, y = batch
        logits = self(x)
        loss = cross_entropy(logits, y)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        self.log("train_acc", (logits.argmax(1) == y).float().mean(), on_step=False, on_epoch=True)
        return loss + self.penalty(x)

    def penalty(self, x: Tensor) -> Tensor:
        """Return the penalty that the regularizer adds to the loss."""
        match self.regularizer:
            case "l1":
                return self.strength * sum(p.abs().sum() for p in self.layers.parameters())
            case "l2":
                return self.strength * sum(p.square().sum() for p in self.layers.parameters())
            case "jacobian":
                return self.strength * jacobian_norm(self, x, directions=1).square().mean()
            case _:
                return torch.zeros(())

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Log how well the network predicts right labels."""
        x, y = batch
        logits = self(x)
        self.log("val_loss", cross_entropy(logits, y))
        self.log("val_acc", (logits.argmax(1) == y).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Use Adam."""
        return torch.optim.Adam(self.parameters(), lr=2e-3)


class Tick(Callback):
    """Advances the progress bar after every epoch."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count one epoch."""
        self.progress.advance(self.progress.task_ids[0])


def digits(noise: float, seed: int) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Return 800 training images, some with wrong labels, and 600 validation images."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    generator = torch.Generator().manual_seed(0)  # every seed gets the same images
    order = torch.randperm(len(x), generator=generator)
    train, val = order[:800], order[800:1400]
    generator.manual_seed(seed)
    wrong = torch.rand(800, generator=generator) < noise
    other = (y[train] + torch.randint(1, 10, (800,), generator=generator)) % 10
    noisy = torch.where(wrong, other, y[train])
    return (
        DataLoader(TensorDataset(x[train], noisy), batch_size=100, shuffle=True),
        DataLoader(TensorDataset(x[val], y[val]), batch_size=600),
    )


def train(regularizer: str, seed: int, options: argparse.Namespace, progress: Progress) -> None:
    """Train one network, and write its curves to a folder of its own."""
    seed_everything(seed, verbose=False)
    Trainer(
        max_epochs=options.epochs,
        accelerator="cpu",
        callbacks=[ComplexityMonitor(), Tick(progress)],
        logger=TensorBoardLogger(options.folder, name=regularizer, version=f"seed_{seed}"),
        log_every_n_steps=8,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(Classifier(regularizer, REGULARIZERS[regularizer], seed), *digits(options.noise, seed))


def jobs(options: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Return every regularizer with every seed."""
    return ((regularizer, seed) for regularizer in REGULARIZERS for seed in range(options.seeds))


def main(argv: list[str] | None = None) -> int:
    """Train all networks, then compare them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=50, help="of each training (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="per regularizer (%(default)s)")
    parser.add_argument("--noise", type=float, default=0.2, help="wrong labels (%(default)s)")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs"), help="of the curves (%(default)s)"
    )
    options = parser.parse_args(argv)
    if any(options.folder.glob("**/events.out.tfevents*")):
        parser.error(f"{options.folder} has runs already: remove it, or name another --folder.")

    torch.set_num_threads(1)  # a network this small is no faster on more
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)  # Lightning 2.6 on torch 2.13
    todo = list(jobs(options))
    columns = (TextColumn("{task.description}"), *Progress.get_default_columns()[1:3])
    with Progress(*columns, MofNCompleteColumn(), TimeRemainingColumn()) as progress:
        task = progress.add_task("epochs", total=options.epochs * len(todo))
        for regularizer, seed in todo:
            progress.update(task, description=f"{regularizer}, seed {seed}")
            train(regularizer, seed, options, progress)

    folder = str(options.folder)
    code = effcx(["compare", folder, "--plot", str(options.folder / "curves.png")])
    print(f"\nThe curves of every run:\n  tensorboard --logdir {shlex.quote(folder)}")
    return code


if __name__ == "__main__":
    sys.exit(main())
