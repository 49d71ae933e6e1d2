"""LightningModules of users: fully connected layers, and the steps that most people write."""

import torch
from pytorch_lightning import LightningModule
from torch import nn
from torch.nn import functional as F  # noqa: N812 as everybody calls it
from user_samples import CLASSES


class Supervised(LightningModule):
    """The usual steps: the batch is `(x, y)`, and the module maps `x` to logits."""

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


class Regression(LightningModule):
    """One output, without a dimension of its own."""

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


class TiedAutoencoder(Autoencoder):
    """The decoder has the transposed weight of the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(36, 8), None
        self.bias = nn.Parameter(torch.zeros(36))

    def forward(self, x):
        hidden = F.relu(self.encoder(x.flatten(1)))
        return F.linear(hidden, self.encoder.weight.T, self.bias).unflatten(1, (1, 6, 6))
