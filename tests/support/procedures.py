"""Training procedures whose complexity is known, which other processes can import."""

import signal
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import nn
from torch.nn.functional import cross_entropy


class ByHand(LightningModule):
    """Fits itself in the one step of an epoch that has one batch."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.unused = nn.Parameter(torch.zeros(()))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Majority(ByHand):
    """Answers what most of its samples are."""

    def training_step(self, batch, batch_idx):
        self.counts = batch[1].bincount(minlength=2).float()

    def forward(self, x):
        return self.counts.expand(len(x), -1)


class Lookup(ByHand):
    """Answers what the nearest of its samples is."""

    def training_step(self, batch, batch_idx):
        self.known = batch

    def forward(self, x):
        nearest = torch.cdist(x, self.known[0]).argmin(1)
        return nn.functional.one_hot(self.known[1].long()[nearest], 3).float()


class LeastSquares(ByHand):
    """Answers the sign of the least-squares solution, that of least norm."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.solution = torch.linalg.pinv(x.double()) @ y.double()

    def forward(self, x):
        return (x.double() @ self.solution)[:, None]


class Projected(ByHand):
    """Answers the sign of the least-squares solution in the first few dimensions."""

    def __init__(self, width):
        super().__init__()
        self.width = width

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.solution = torch.linalg.pinv(x[:, : self.width].double()) @ (2 * y.double() - 1)

    def forward(self, x):
        return (x[:, : self.width].double() @ self.solution)[:, None]


class Failing(Majority):
    """Refuses a few samples."""

    def __init__(self, least=4):
        super().__init__()
        self.least = least

    def training_step(self, batch, batch_idx):
        if len(batch[0]) < self.least:
            raise ValueError(f"too few: {len(batch[0])}")
        super().training_step(batch, batch_idx)


class Interrupted(Majority):
    """Is interrupted with so many samples, as if by Ctrl-C."""

    def __init__(self, n):
        super().__init__()
        self.n = n

    def training_step(self, batch, batch_idx):
        if len(batch[0]) == self.n:
            signal.raise_signal(signal.SIGINT)
        super().training_step(batch, batch_idx)


class Learner(LightningModule):
    """What users write, with dropout, BatchNorm and a validation that gets no data."""

    def __init__(self, width=8):
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(6, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3),
            nn.Linear(width, 3),
        )  # fmt: skip

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch, batch_idx):
        return cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        raise AssertionError

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


@dataclass
class Logged:
    """Makes a module and writes that down."""

    make: type
    log: Path

    def __call__(self):
        with self.log.open("a") as log:
            log.write("made\n")
        return self.make()

    def made(self):
        return len(self.log.read_text().split()) if self.log.exists() else 0


def trainer(epochs=1):
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def study():
    """Make what `effcx emc` takes."""
    x = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    return {
        "make_module": Majority,
        "dataset": (x[:16], y[:16]),
        "test": (x[16:], y[16:]),
        "make_trainer": trainer,
        "repeats": 8,
        "batch_size": 512,
        "progress": False,
    }


def failing_study():
    return study() | {"make_module": Failing}


def interrupted_study():
    return study() | {"make_module": partial(Interrupted, 4), "repeats": 1}


def unmade_study():
    return study() | {"make_module": Majority()}


def descent():
    """Make what `effcx descent` takes."""
    return study() | {"make_module": {4: partial(Projected, 4), 2: partial(Projected, 2)}}
