"""LightningModules of users: small networks that are called, or fed, in many different ways."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from plain_modules import MLP, Supervised
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 as everybody calls it
from torchmetrics import MeanMetric
from user_samples import CLASSES, classified


class Normalizing(Supervised):
    """The step normalizes the batch before it calls the module."""

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
    """The batch has images of bytes with channels last. The step turns them into floats."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, CLASSES)
        )

    def normalized(self, batch):
        return batch[0].permute(0, 3, 1, 2) / 255 - 0.5, batch[1]


class Forwardless(LightningModule):
    """A module without `forward`, but with a network and parts that have no parameters."""

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
    """`forward` returns classes. The steps call the child, which returns logits."""

    def forward(self, x):
        return self.net(x).argmax(1)


class ForwardCalled(MLP):
    """The steps call `self.forward`, which runs no hooks."""

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.forward(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self.forward(batch[0]), batch[1]))


class Children(LightningModule):
    """A module without `forward`, whose network is in two children."""

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
    """Three calls in each validation step. The monitor takes the first."""

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
    """A batch with names. The input is not the first."""

    label: Tensor
    image: Tensor


def named(count: int) -> list[Any]:
    return [Example(y, x) for x, y in classified(6)(count)]


class NamedBatch(MLP):
    def training_step(self, batch, batch_idx):
        return super().training_step((batch.image, batch.label), batch_idx)

    def validation_step(self, batch, batch_idx):
        super().validation_step((batch.image, batch.label), batch_idx)


@dataclass
class Record:
    """A batch that is a dataclass. One of its fields is no tensor."""

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
    """Two inputs: an image and a vector of features."""

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
    """The arguments have keywords and another order, and one is no tensor."""

    def forward(self, image, *, features, scale: float, mask: Tensor | None = None):
        return super().forward(scale * image, features if mask is None else features * mask)

    def logits(self, image, features):
        return self(features=features, scale=2.0, image=image)


class OutputOf(MLP):
    """Returns a container that holds the logits and more."""

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
    """A mapping whose values are attributes as well."""

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
