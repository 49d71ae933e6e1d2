"""A small classification task, and a user's Lightning code for it."""

from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

# The metrics of which the monitor measures a piecewise-linear classifier by default, in order,
METRICS = [
    "jacobian_norm",
    "fisher_rao_norm",
    "transitions.segment",
    "trajectory_length.segment",
    "linear_regions.segment_same",
    "linear_regions.segment_different",
    "linear_regions.origin_line",
    "linear_deviation.segment",
]
# and what they find, each with its error bar.
STANDARD = [*METRICS[:1], "jacobian_norm.probabilities", *METRICS[1:]]
# What it finds of other networks.
OTHERS = [
    "linear_regions.segment_estimated",
    "lann_complexity",
    "jacobian_norm.sampled",
    "jacobian_norm.probabilities_sampled",
]


class Classifier(LightningModule):
    """With everything that observation could disturb: BatchNorm, dropout, a part frozen in eval."""

    def __init__(self, lr: float = 0.1, seed: int = 0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Sequential(
            nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"], momentum=0.9)


def task(targets: str = "classes") -> TensorDataset:
    x = torch.randn(80, 6, generator=torch.Generator().manual_seed(0))
    y = x[:, :3].argmax(1) if targets == "classes" else x[:, :3].clone()
    return TensorDataset(x, y)


def loaders(dataset: Any = None, **options: Any) -> tuple[DataLoader[Any], DataLoader[Any]]:
    dataset = task() if dataset is None else dataset
    return DataLoader(dataset, 16, shuffle=True, **options), DataLoader(dataset, 16, **options)


def trainer(folder: Any, *callbacks: Any, **options: Any) -> Trainer:
    options = {"max_epochs": 2, "logger": False, "enable_checkpointing": False} | options
    return Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **options,
    )


def fit(
    folder: Any,
    *callbacks: Any,
    module: LightningModule | None = None,
    data: Any = None,
    collate_fn: Any = None,
    ckpt_path: Any = None,
    **options: Any,
) -> tuple[Trainer, LightningModule]:
    """Train from the same seed, with workers of no account."""
    seed_everything(1, verbose=False)
    module = Classifier() if module is None else module
    host = trainer(folder, *callbacks, **options)
    host.fit(module, *loaders(data, collate_fn=collate_fn), ckpt_path=ckpt_path)
    return host, module
