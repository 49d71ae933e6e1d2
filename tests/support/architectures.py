"""The LightningModules of users who know nothing of us, and what the monitor finds in them.

    python tests/support/architectures.py

trains each for two epochs of two batches and prints a table, architectures x measures: the value at
the last validation, or the number of the reason for which it does not hold, which is told below.
"""

import argparse
import logging
import math
import re
import sys
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 as everybody calls it
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric

from lightning_effcx.callbacks import ComplexityMonitor
from lightning_effcx.metrics import (
    ActivationPatterns,
    BoundaryDensity,
    BoundaryDistance,
    CapacityGap,
    FisherRaoNorm,
    JacobianNorm,
    LANNComplexity,
    LinearDeviation,
    LinearRegions,
    TrajectoryGrowth,
    TrajectoryLength,
    Transitions,
)
from lightning_effcx.paths import Segment

SAMPLES, ROWS = 8, 5  # of the probe, and of each batch: it takes one and a part of the next
CLASSES, VOCABULARY, LATENT = 3, 7, 4

# --- modules of users


class Supervised(LightningModule):
    """The steps that most people write: the batch is `(x, y)`, the module maps `x` to logits."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", F.cross_entropy(self(x), y))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class MLP(Supervised):
    def __init__(self, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(6, 12), activation(), nn.Linear(12, 12), activation(), nn.Linear(12, CLASSES)
        )

    def forward(self, x):
        return self.layers(x)


class LeNet(Supervised):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 3, 3, padding=1)
        self.conv2 = nn.Conv2d(3, 4, 3)
        self.fc1 = nn.Linear(4, 8)
        self.fc2 = nn.Linear(8, CLASSES)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.view(x.size(0), -1))))


class PreActivation(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(out)
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x):
        h = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(h))))
        out += self.shortcut(h)
        return out


class ResNet(Supervised):
    """Pre-activation blocks, and a schedule of the learning rate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3, padding=1)
        self.blocks = nn.Sequential(PreActivation(3, 3, 1), PreActivation(3, 4, 2))
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x):
        x = F.relu(self.bn(self.blocks(self.stem(x))), inplace=True)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, nesterov=True)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2)]


class DenseNet(Supervised):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(2 + 2 * i) for i in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(2 + 2 * i, 2, 3, padding=1) for i in range(3))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        features = [self.stem(x)]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            features.append(conv(F.relu(norm(torch.cat(features, 1)))))
        return self.head(F.avg_pool2d(torch.cat(features, 1), 8).flatten(1))


class UNet(LightningModule):
    """Image to image: skip connections, a transposed convolution, and an interpolation."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 3, 3, padding=1)
        self.bottom = nn.Conv2d(3, 3, 3, padding=1)
        self.up = nn.ConvTranspose2d(3, 3, 2, stride=2)
        self.up2, self.up1 = nn.Conv2d(6, 2, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, image):
        skip1 = F.relu(self.down1(image))
        skip2 = F.relu(self.down2(F.max_pool2d(skip1, 2)))
        x = self.up(F.relu(self.bottom(F.max_pool2d(skip2, 2))))
        x = F.relu(self.up2(torch.cat([x, skip2], 1)))
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return self.up1(torch.cat([x, skip1], 1))

    def training_step(self, batch, batch_idx):
        image, mask = batch
        return F.binary_cross_entropy_with_logits(self(image), mask)

    def validation_step(self, batch, batch_idx):
        image, mask = batch
        self.log("val_iou", ((self(image) > 0) & (mask > 0)).float().mean())

    def configure_optimizers(self):
        return torch.optim.RMSprop(self.parameters(), lr=1e-3)


class ViT(Supervised):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 5, 8))
        layer = nn.TransformerEncoderLayer(
            8, 2, 16, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        patches = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), patches], 1)
        return self.head(self.norm(self.encoder(x + self.positions))[:, 0])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=0.05)


@dataclass
class CausalOutput:
    """What language models return: the loss comes first, and it has no batch dimension."""

    loss: Tensor | None
    logits: Tensor


class CausalTransformer(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 8)
        self.positions = nn.Embedding(16, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(8, VOCABULARY, bias=False)

    def forward(self, input_ids, labels=None):
        length = input_ids.shape[1]
        x = self.embed(input_ids) + self.positions(torch.arange(length, device=input_ids.device))
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=x.device)
        logits = self.head(self.encoder(x, mask=mask, is_causal=True))
        loss = None if labels is None else F.cross_entropy(logits.transpose(1, 2), labels)
        return CausalOutput(loss, logits)

    def training_step(self, batch, batch_idx):
        return self(**batch).loss

    def validation_step(self, batch, batch_idx):
        self.log("val_perplexity", self(**batch).loss.exp())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class Lengths(LightningModule):
    """A recurrent classifier of sequences of different lengths, which are given beside them."""

    def __init__(self, *, packed: bool) -> None:
        super().__init__()
        self.packed = packed
        self.lstm = nn.LSTM(3, 5, batch_first=True)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x, lengths):
        if self.packed:
            x = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
            return self.head(self.lstm(x)[1][0][-1])
        states, _ = self.lstm(x)
        return self.head(states[torch.arange(len(x)), lengths - 1])

    def training_step(self, batch, batch_idx):
        x, lengths, y = batch
        return F.cross_entropy(self(x, lengths), y)

    def validation_step(self, batch, batch_idx):
        x, lengths, y = batch
        self.log("val_loss", F.cross_entropy(self(x, lengths), y))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class GRU(Supervised):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 4, num_layers=2, dropout=0.1, bidirectional=True, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        _, last = self.gru(x)
        return self.head(torch.cat([last[-2], last[-1]], 1))


class TextClassifier(LightningModule):
    """The mean of the embeddings that the mask lets through."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 6, padding_idx=0)
        self.classifier = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, CLASSES))

    def forward(self, input_ids, attention_mask):
        mask = attention_mask.unsqueeze(-1).float()
        return self.classifier((self.embedding(input_ids) * mask).sum(1) / mask.sum(1))

    def shared_step(self, batch):
        logits = self(batch["input_ids"], attention_mask=batch["attention_mask"])
        return F.cross_entropy(logits, batch["labels"])

    def training_step(self, batch, batch_idx):
        return self.shared_step(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.shared_step(batch))

    def configure_optimizers(self):
        return torch.optim.Adagrad(self.parameters(), lr=0.05)


class Graphs:
    """Graphs put together to one that has no edges between them: no container that we know."""

    def __init__(self, x: Tensor, edge_index: Tensor, batch: Tensor, y: Tensor) -> None:
        self.x, self.edge_index, self.batch, self.y = x, edge_index, batch, y

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: Any) -> "Graphs":
        return Graphs(*(part.to(device) for part in vars(self).values()))

    @classmethod
    def collate(cls, graphs: list[tuple[Tensor, Tensor, Tensor]]) -> "Graphs":
        nodes = torch.tensor([len(x) for x, _, _ in graphs])
        offsets = (nodes.cumsum(0) - nodes).tolist()
        edges = [edges + offset for (_, edges, _), offset in zip(graphs, offsets, strict=True)]
        return cls(
            torch.cat([x for x, _, _ in graphs]),
            torch.cat(edges, 1),
            torch.arange(len(graphs)).repeat_interleave(nodes),
            torch.stack([y for _, _, y in graphs]),
        )


class GraphConvolution(nn.Module):
    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.own, self.neighbours = nn.Linear(fan_in, fan_out), nn.Linear(fan_in, fan_out)

    def forward(self, x, edge_index):
        source, target = edge_index
        gathered = torch.zeros_like(x).index_add(0, target, x[source])
        return self.own(x) + self.neighbours(gathered)


class GraphNetwork(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = GraphConvolution(2, 6), GraphConvolution(6, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, graphs):
        x = F.relu(self.conv1(graphs.x, graphs.edge_index))
        x = F.relu(self.conv2(x, graphs.edge_index))
        pooled = torch.zeros(len(graphs), 6, dtype=x.dtype, device=x.device)
        return self.head(pooled.index_add(0, graphs.batch, x))

    def training_step(self, graphs, batch_idx):
        return F.cross_entropy(self(graphs), graphs.y)

    def validation_step(self, graphs, batch_idx):
        self.log("val_loss", F.cross_entropy(self(graphs), graphs.y), batch_size=len(graphs))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class NodesAndEdges(GraphNetwork):
    """The same, called with tensors: those of the nodes have more rows than there are graphs."""

    def forward(self, x, edge_index, batch):
        return super().forward(Graphs(x, edge_index, batch, batch.unique()))

    def training_step(self, graphs, batch_idx):
        return F.cross_entropy(self(graphs.x, graphs.edge_index, graphs.batch), graphs.y)

    def validation_step(self, graphs, batch_idx):
        logits = self(graphs.x, graphs.edge_index, graphs.batch)
        self.log("val_loss", F.cross_entropy(logits, graphs.y), batch_size=len(graphs))


class Autoencoder(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 2))
        self.decoder = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 36))

    def forward(self, x):
        return self.decoder(self.encoder(x)).view(-1, 1, 6, 6)

    def loss(self, batch):
        x, _ = batch
        return F.mse_loss(self(x), x)

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


class BareAutoencoder(Autoencoder):
    """The batch is a tensor."""

    def loss(self, x):
        return F.mse_loss(self(x), x)


class GAN(LightningModule):
    """The module generates; what it is called with is noise, and never in the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(
            nn.Linear(LATENT, 16),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Unflatten(1, (4, 2, 2)),
            nn.ConvTranspose2d(4, 1, 4, stride=2, padding=0),
            nn.Tanh(),
        )
        self.critic = nn.Sequential(
            nn.Flatten(), nn.Linear(36, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1)
        )

    def forward(self, z):
        return self.generator(z)

    def training_step(self, batch, batch_idx):
        images, _ = batch
        for_generator, for_critic = self.optimizers()
        fake = self(torch.randn(len(images), LATENT, device=self.device))

        for_critic.zero_grad()
        losses = F.softplus(self.critic(fake.detach())), F.softplus(-self.critic(images))
        self.manual_backward(sum(losses).mean())
        for_critic.step()

        for_generator.zero_grad()
        self.manual_backward(F.softplus(-self.critic(fake)).mean())
        for_generator.step()

    def validation_step(self, batch, batch_idx):
        images, _ = batch
        z = torch.randn(len(images), LATENT, device=self.device)
        self.log("fooled", self.critic(self(z)).sigmoid().mean())

    def configure_optimizers(self):
        betas = (0.5, 0.999)
        return [
            torch.optim.Adam(part.parameters(), lr=2e-3, betas=betas)
            for part in (self.generator, self.critic)
        ]


class Regression(LightningModule):
    """One output, whose dimension the user takes away."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, x):
        return self.net(x).squeeze(-1)

    def training_step(self, batch, batch_idx):
        return F.huber_loss(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_mae", F.l1_loss(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), max_iter=2)


class TiedAutoencoder(Autoencoder):
    """Decodes with the encoder's weight, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(36, 8), None
        self.bias = nn.Parameter(torch.zeros(36))

    def forward(self, x):
        hidden = F.relu(self.encoder(x.flatten(1)))
        return F.linear(hidden, self.encoder.weight.T, self.bias).unflatten(1, (1, 6, 6))


class TiedLanguageModel(LightningModule):
    """Predicts tokens with the embedding's weight; the batch is a tensor of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 5)
        self.rnn = nn.RNN(5, 5, nonlinearity="relu", batch_first=True)
        self.head = nn.Linear(5, VOCABULARY)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.rnn(self.embedding(tokens))[0])

    def loss(self, tokens):
        return F.cross_entropy(self(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Lazy(Supervised):
    """Makes its table of positions at its first forward, and keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.table: Tensor | None = None
        self.layer = nn.Linear(3, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        if self.table is None or len(self.table) < x.shape[1]:
            self.table = torch.arange(x.shape[1], device=x.device).float()[:, None].sin()
        return self.head(F.relu(self.layer(x + self.table)).mean(1))


class Normalizing(Supervised):
    """What the module is called with is not what is in the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([1.0, -1.0, 2.0, 0.0, 0.0, 0.5]))
        self.register_buffer("std", torch.tensor([0.1, 0.2, 3.0, 1.0, 1.0, 0.5]))
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, CLASSES))

    def forward(self, x):
        return self.net(x)

    def normalized(self, batch):
        return (batch[0] - self.mean) / self.std, batch[1]

    def training_step(self, batch, batch_idx):
        return super().training_step(self.normalized(batch), batch_idx)

    def validation_step(self, batch, batch_idx):
        super().validation_step(self.normalized(batch), batch_idx)


class Bytes(Normalizing):
    """Images come as bytes, channels last, and are made floating-point in the step."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, CLASSES)
        )

    def normalized(self, batch):
        return batch[0].permute(0, 3, 1, 2) / 255 - 0.5, batch[1]


class Forwardless(LightningModule):
    """No `forward`; beside the network, parts that have no parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.criterion = nn.CrossEntropyLoss()
        self.val_loss = MeanMetric()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, CLASSES))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.criterion(self.net(x), y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.val_loss(self.criterion(self.net(x), y))
        self.log("val_loss", self.val_loss)

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), lr=0.1)


class ForwardUnused(Forwardless):
    """`forward` is for those who predict; the steps want logits, from the same child."""

    def forward(self, x):
        return self.net(x).argmax(1)


class ForwardCalled(MLP):
    """Calls `self.forward`, of which the hooks of modules do not hear."""

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.forward(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self.forward(batch[0]), batch[1]))


class Children(LightningModule):
    """No `forward`, and no child that is the network."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
        self.head = nn.Linear(8, CLASSES)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.head(self.encoder(x)), y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", F.cross_entropy(self.head(self.encoder(x)), y))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Siamese(LightningModule):
    """Called twice in each step, and once more with both: the first call is what is looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        one, other, same = batch
        return F.cosine_embedding_loss(self(one), self(other), same)

    def validation_step(self, batch, batch_idx):
        one, other, same = batch
        self.log("val_loss", F.cosine_embedding_loss(self(one), self(other), same))
        self.log("spread", self(torch.cat([one, other])).std())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Example(NamedTuple):
    """A batch with names, of which the input is not the first."""

    label: Tensor
    image: Tensor


class NamedBatch(MLP):
    def training_step(self, batch, batch_idx):
        return super().training_step((batch.image, batch.label), batch_idx)

    def validation_step(self, batch, batch_idx):
        super().validation_step((batch.image, batch.label), batch_idx)


@dataclass
class Record:
    """A batch that is a dataclass, with what is no tensor."""

    names: list[str]
    image: Tensor
    label: Tensor

    @classmethod
    def collate(cls, samples: list[tuple[Tensor, Tensor]]) -> "Record":
        images, labels = map(torch.stack, zip(*samples, strict=True))
        return cls([f"{label:04}" for label in labels.tolist()], images, labels)


class MappingBatch(MLP):
    def training_step(self, batch, batch_idx):
        return super().training_step((batch["image"], batch["label"]), batch_idx)

    def validation_step(self, batch, batch_idx):
        super().validation_step((batch["image"], batch["label"]), batch_idx)


class TwoInputs(LightningModule):
    """An image and what is known besides, both floating-point."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.head = nn.Sequential(nn.Linear(2 * 16 + 3, 8), nn.ReLU(), nn.Linear(8, CLASSES))

    def forward(self, image, features):
        seen = F.relu(self.conv(image)).flatten(1)
        return self.head(torch.cat([seen, features], 1))

    def logits(self, image, features):
        return self(image, features)

    def training_step(self, batch, batch_idx):
        (image, features), y = batch
        return F.cross_entropy(self.logits(image, features), y)

    def validation_step(self, batch, batch_idx):
        (image, features), y = batch
        self.log("val_loss", F.cross_entropy(self.logits(image, features), y))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class Keywords(TwoInputs):
    """Called with keyword arguments, not in their order, and with what is no tensor."""

    def forward(self, image, *, features, scale: float, mask: Tensor | None = None):
        return super().forward(scale * image, features if mask is None else features * mask)

    def logits(self, image, features):
        return self(features=features, scale=2.0, image=image)


class OutputOf(MLP):
    """Returns more than logits, in some container."""

    def __init__(self, container: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.container = container

    def forward(self, x):
        hidden = self.layers[:-1](x)
        return self.container(self.layers[-1](hidden), hidden)

    def logits(self, out):
        return out["logits"] if isinstance(out, Mapping) else out[0]

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.logits(self(batch[0])), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self.logits(self(batch[0])), batch[1]))


class ModelOutput(OrderedDict[str, Any]):
    """A mapping whose values are attributes, too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def as_tuple(logits: Tensor, hidden: Tensor) -> tuple[Tensor, ...]:
    return logits, hidden


def as_dict(logits: Tensor, hidden: Tensor) -> dict[str, Any]:
    return {"classes": logits.argmax(1), "logits": logits, "features": {"hidden": hidden}}


def as_model_output(logits: Tensor, hidden: Tensor) -> ModelOutput:
    return ModelOutput(loss=hidden.square().mean(), logits=logits, hidden_states=(hidden,))


# --- their data, and what their modules are called with

Reads: TypeAlias = Callable[[Any, Any], tuple[tuple[Tensor, ...], Callable[..., Tensor]]]
"""Maps a module and a batch to the inputs, and to the function of these which the step calls."""


def xy(module: Any, batch: Any) -> tuple[tuple[Tensor, ...], Callable[..., Tensor]]:
    return (batch[0],), module


def of_embedding(embedding: nn.Module, call: Callable[[], Tensor]) -> Callable[[Tensor], Tensor]:
    """Make of a call whose tokens are fixed a function of what the embedding makes of them."""

    def function(embedded: Tensor) -> Tensor:
        handle = embedding.register_forward_hook(lambda *_: embedded)
        try:
            return call()
        finally:
            handle.remove()

    return function


def causal(module: Any, batch: Any):
    call = lambda: module(**batch).logits  # noqa: E731
    return (module.embed(batch["input_ids"]),), of_embedding(module.embed, call)


def text(module: Any, batch: Any):
    call = lambda: module(batch["input_ids"], batch["attention_mask"])  # noqa: E731
    return (module.embedding(batch["input_ids"]),), of_embedding(module.embedding, call)


def tied_tokens(module: Any, batch: Any):
    tokens = batch[:, :-1]
    function = of_embedding(module.embedding, lambda: module(tokens))
    return (module.embedding(tokens),), function


def nodes(graphs: Graphs) -> Tensor:
    return graphs.x.unflatten(0, (len(graphs), -1))


def on_rings(module: Any, x: Tensor) -> Tensor:
    """The graphs are rings of as many nodes as there are."""
    graphs, count = x.shape[:2]
    offsets = count * torch.arange(graphs)
    edges = (ring(count)[:, None] + offsets[:, None]).flatten(1)
    return module(
        Graphs(x.flatten(0, 1), edges, offsets.repeat_interleave(count) // count, offsets)
    )


def ring(nodes: int) -> Tensor:
    return torch.stack([torch.arange(nodes), (torch.arange(nodes) + 1) % nodes])


def random(count: int, *shape: int) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(count))


def whole(high: int, *shape: int) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(high))


def classified(*shape: int) -> Callable[[int], list[Any]]:
    return lambda count: [*zip(random(count, *shape), whole(CLASSES, count), strict=True)]


def sequences(count: int) -> list[Any]:
    parts = random(count, 5, 3), 1 + whole(5, count), whole(CLASSES, count)
    return [*zip(*parts, strict=True)]


def two_inputs(count: int) -> list[Any]:
    parts = random(count, 1, 6, 6), random(count, 3), whole(CLASSES, count)
    return [((image, features), y) for image, features, y in zip(*parts, strict=True)]


def pairs(count: int) -> list[Any]:
    one = random(count, 6)
    return [*zip(one, one.flip(0), 1.0 - 2 * whole(2, count), strict=True)]


def sentences(count: int) -> list[Any]:
    tokens, lengths = 1 + whole(VOCABULARY - 1, count, 5), 1 + whole(5, count)
    masks = (torch.arange(5) < lengths[:, None]).long()
    return [
        {"input_ids": t * m, "attention_mask": m, "labels": y}
        for t, m, y in zip(tokens, masks, whole(CLASSES, count), strict=True)
    ]


def rings(count: int) -> list[Any]:
    return [(x, ring(4), y) for x, y in classified(4, 2)(count)]


def named(count: int) -> list[Any]:
    return [Example(y, x) for x, y in classified(6)(count)]


def mapped(count: int) -> list[Any]:
    return [{"label": y, "image": x} for x, y in classified(6)(count)]


# --- architectures

PROBABILITIES = frozenset({"jacobian_norm.probabilities", "fisher_rao_norm"})
LENGTHS = frozenset({"jacobian_norm", "trajectory_length.segment", "trajectory_growth.segment"})
KINKS = frozenset({"activation_patterns"})
CODES = frozenset({"transitions.segment"})
CURVES = frozenset({"lann_complexity"})
EXACT = frozenset(
    {
        "linear_regions.segment",
        "boundary_distance",
        "boundary_density",
        "capacity_gap.segment",
        "linear_deviation.segment",
    }
)
EVERYTHING = PROBABILITIES | LENGTHS | KINKS | CODES | CURVES | EXACT
PIECEWISE = EVERYTHING - CURVES  # of a network that has kinks only
ATTENTION = EVERYTHING - CURVES - EXACT  # that has kinks, and what is neither a kink nor a curve
SMOOTH = ATTENTION - KINKS


def metrics() -> dict[str, Any]:
    """All measures, with few paths."""
    sampled, exact = Segment(count=3, points=8), Segment(count=3, points=2)
    found = [
        JacobianNorm(),
        JacobianNorm(of="probabilities"),
        FisherRaoNorm(),
        LinearRegions(exact),
        Transitions(sampled),
        ActivationPatterns(),
        BoundaryDistance(),
        BoundaryDensity(directions=2),
        CapacityGap(exact),
        LANNComplexity(),
        LinearDeviation(exact),
        TrajectoryLength(sampled),
        TrajectoryGrowth(sampled),
    ]
    return {metric.name: metric for metric in found}


@dataclass(frozen=True)
class Architecture:
    """A user's module and data.

    Attributes:
        make: Makes the module.
        data: Makes so many samples.
        reads: What the validation step calls the module with, and what it then computes; None where
            it cannot be known without configuration.
        holds: The measures that hold.
        unsettled: Those that may hold, or not.
        arguments: Of `ComplexityMonitor`, where configuration is needed.
        collate: As in `DataLoader`.
    """

    make: Callable[[], LightningModule]
    data: Callable[[int], list[Any]]
    reads: Reads | None = xy
    holds: frozenset[str] = PIECEWISE
    unsettled: frozenset[str] = frozenset()
    arguments: dict[str, Any] = field(default_factory=dict)
    collate: Callable[[list[Any]], Any] | None = None

    def loader(self, batches: int, *, shuffle: bool) -> DataLoader[Any]:
        data: Any = self.data(batches * ROWS)
        return DataLoader(data, ROWS, shuffle=shuffle, collate_fn=self.collate)


GRAPHS = {"batch": lambda graphs: (nodes(graphs), graphs.y), "network": on_rings}

ARCHITECTURES = {
    "MLP": Architecture(MLP, classified(6)),
    "MLP, tanh": Architecture(
        lambda: MLP(nn.Tanh), classified(6), holds=EVERYTHING - EXACT - KINKS
    ),
    "LeNet": Architecture(LeNet, classified(1, 8, 8)),
    "ResNet, pre-activation": Architecture(ResNet, classified(1, 6, 6)),
    "DenseNet": Architecture(DenseNet, classified(1, 8, 8)),
    "U-Net": Architecture(
        UNet,
        lambda n: [*zip(random(n, 1, 8, 8), whole(2, n, 1, 8, 8).float(), strict=True)],
    ),
    "ViT": Architecture(ViT, classified(1, 8, 8), holds=SMOOTH),
    "causal transformer": Architecture(
        CausalTransformer,
        lambda n: [{"input_ids": t[:-1], "labels": t[1:]} for t in whole(VOCABULARY, n, 6)],
        causal,
        ATTENTION,
    ),
    "LSTM, lengths": Architecture(
        lambda: Lengths(packed=False),
        sequences,
        lambda module, batch: ((batch[0],), lambda x: module(x, batch[1])),
        SMOOTH,
    ),
    "LSTM, packed": Architecture(
        lambda: Lengths(packed=True),
        sequences,
        lambda module, batch: ((batch[0],), lambda x: module(x, batch[1])),
        PROBABILITIES | {"jacobian_norm"},
        unsettled=SMOOTH,  # packed, samples are no longer apart where units are looked for
    ),
    "GRU, two ways": Architecture(GRU, classified(5, 3), holds=SMOOTH),
    "text classifier": Architecture(TextClassifier, sentences, text),
    "graph network": Architecture(GraphNetwork, rings, None, frozenset(), collate=Graphs.collate),
    "graph network, tensors": Architecture(
        NodesAndEdges, rings, None, frozenset(), collate=Graphs.collate
    ),
    "graph network, batch= network=": Architecture(
        GraphNetwork,
        rings,
        lambda module, graphs: ((nodes(graphs),), lambda x: on_rings(module, x)),
        PIECEWISE - EXACT,  # which refuse to gather nodes that lie among the samples
        arguments=GRAPHS,
        collate=Graphs.collate,
    ),
    "autoencoder": Architecture(Autoencoder, classified(1, 6, 6)),
    "autoencoder, batch is x": Architecture(
        BareAutoencoder, lambda n: [*random(n, 1, 6, 6)], lambda module, x: ((x,), module)
    ),
    "GAN": Architecture(
        GAN,
        classified(1, 6, 6),
        lambda module, batch: ((torch.randn(len(batch[0]), LATENT),), module),
        EVERYTHING - EXACT,
    ),
    "regression": Architecture(
        Regression,
        lambda n: [*zip(random(n, 5), random(n), strict=True)],
        holds=PIECEWISE - PROBABILITIES,
    ),
    "tied autoencoder": Architecture(TiedAutoencoder, classified(1, 6, 6)),
    "tied language model": Architecture(
        TiedLanguageModel,
        lambda n: [*whole(VOCABULARY, n, 5)],
        tied_tokens,
        PIECEWISE - EXACT,  # which refuse that recurrent layers put time first
    ),
    "lazy table": Architecture(Lazy, classified(5, 3)),
    "normalizes in its step": Architecture(
        Normalizing, classified(6), lambda m, batch: ((m.normalized(batch)[0],), m)
    ),
    "images of bytes": Architecture(
        Bytes,
        lambda n: [*zip(whole(256, n, 6, 6, 3).byte(), whole(CLASSES, n), strict=True)],
        lambda m, batch: ((m.normalized(batch)[0],), m),
    ),
    "no forward, one child": Architecture(
        Forwardless, classified(6), lambda m, batch: ((batch[0],), m.net)
    ),
    "forward not used": Architecture(
        ForwardUnused, classified(6), lambda m, batch: ((batch[0],), m.net)
    ),
    "self.forward": Architecture(ForwardCalled, classified(6)),
    "no forward, two children": Architecture(Children, classified(6), None, frozenset()),
    "called three times": Architecture(Siamese, pairs),
    "batch is a named tuple": Architecture(NamedBatch, named, lambda m, batch: ((batch.image,), m)),
    "batch is a dataclass": Architecture(
        NamedBatch,
        classified(6),
        lambda m, batch: ((batch.image,), m),
        collate=Record.collate,
    ),
    "batch is a mapping": Architecture(
        MappingBatch, mapped, lambda m, batch: ((batch["image"],), m)
    ),
    "two inputs": Architecture(TwoInputs, two_inputs, lambda m, batch: (tuple(batch[0]), m)),
    "keyword arguments": Architecture(
        Keywords,
        two_inputs,
        lambda m, batch: (tuple(batch[0]), m.logits),
    ),
    "output is a tuple": Architecture(
        lambda: OutputOf(as_tuple), classified(6), lambda m, b: ((b[0],), lambda x: m(x)[0])
    ),
    "output is a dict": Architecture(
        lambda: OutputOf(as_dict),
        classified(6),
        lambda m, b: ((b[0],), lambda x: m(x)["logits"]),
        PIECEWISE,
    ),
    "output is an object": Architecture(
        lambda: OutputOf(as_model_output),
        classified(6),
        lambda m, b: ((b[0],), lambda x: m(x).logits),
        PIECEWISE,
    ),
}

# --- trainings, and what is found in them


class Witness(Callback):
    """Keeps the first validation's batches, with the random state that their steps start from."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, Tensor]] = []
        self.trained = False

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if not trainer.sanity_checking and len(self.seen) * ROWS < SAMPLES:
            self.seen.append((batch, torch.get_rng_state()))

    def on_train_start(self, trainer, pl_module):
        self.trained = True


@dataclass(frozen=True)
class Training:
    """A module after its training, and what the monitor said of it.

    Attributes:
        module: With the weights of the last validation.
        values: The measures at the last validation, by name.
        reasons: Why others were left out, by name.
        warned: Every warning of the monitor.
        seen: The batches of the first validation, and the random states before their steps.
    """

    module: LightningModule
    values: dict[str, float]
    reasons: dict[str, str]
    warned: list[str]
    seen: list[tuple[Any, Tensor]]


def host(folder: Any, *callbacks: Callback, epochs: int = 2) -> Trainer:
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        callbacks=[*callbacks],
    )


def train(
    architecture: Architecture, folder: Any, *callbacks: Callback, epochs: int = 2
) -> LightningModule:
    """Train for so many epochs of two batches, always from the same seed."""
    seed_everything(1, verbose=False)
    module = architecture.make()
    loaders = architecture.loader(2, shuffle=True), architecture.loader(3, shuffle=False)
    host(folder, *callbacks, epochs=epochs).fit(module, *loaders)
    return module


def watch(architecture: Architecture, folder: Any) -> Training:
    """Train with a monitor of all measures, and collect what it warns of."""
    monitor = ComplexityMonitor(metrics(), samples=SAMPLES, **architecture.arguments)
    witness = Witness()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module = train(architecture, folder, monitor, witness)
    warned = [str(w.message) for w in caught if str(w.message).startswith("effcx")]
    for other in caught:  # what is not ours is for the caller's filters
        if not str(other.message).startswith("effcx"):
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    return Training(module, values(monitor), reasons(warned), warned, witness.seen)


def values(monitor: ComplexityMonitor) -> dict[str, float]:
    """Return the last value of each measure."""
    last = monitor.history[-1]["values"] if monitor.history else {}
    return {name: last[f"effcx/{name}"] for name in metrics() if f"effcx/{name}" in last}


_LEFT_OUT = re.compile(r"effcx leaves out (?:the measure '(.+?)'|every measure): (.*)", re.DOTALL)


def reasons(warned: list[str]) -> dict[str, str]:
    """Return the reason for which each measure was left out; one for all, where it is of all."""
    found: dict[str, str] = {}
    for message in warned:
        matched = _LEFT_OUT.match(message)
        if matched is not None:
            name, reason = matched.groups()
            reason = reason.removesuffix(" The training goes on; strict=True raises.")
            found |= dict.fromkeys([name] if name else metrics(), reason)
    return found


def table(found: Mapping[str, Training]) -> Table:
    """Architectures down, measures across, and the reasons by number below."""
    numbers: dict[str, int] = {}
    shown = Table("architecture", caption_justify="left", caption_style="")
    for name in metrics():
        shown.add_column(name.replace("_", "\n").replace("/", "\n/"), justify="right")
    for name, training in found.items():
        cells = []
        for measure in metrics():
            if measure in training.values:
                cells.append(number(training.values[measure]))
            elif measure in training.reasons:
                reason = training.reasons[measure]
                cells.append(f"[dim]{numbers.setdefault(reason, len(numbers) + 1)})[/]")
            else:
                cells.append("[red]?[/]")
        shown.add_row(name, *cells)
    lines = [f"{i}) {reason}" for reason, i in numbers.items()]
    shown.caption = "\n".join(lines).replace("[", "\\[")
    return shown


def number(value: float) -> str:
    """Three digits, as short as they go."""
    return f"{value:.0f}" if abs(value) >= 100 and math.isfinite(value) else f"{value:.3g}"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of names of architectures; default: all")
    names = parser.parse_args(argv).names
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder:
        chosen = {k: v for k, v in ARCHITECTURES.items() if not names or any(n in k for n in names)}
        found = {
            name: watch(architecture, Path(folder))
            for name, architecture in track(chosen.items(), "training", console=console)
        }
    shown = table(found)
    Console(width=Console(width=sys.maxsize).measure(shown).maximum).print(shown)


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # the monitor's own are collected
    for logger in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    main()
