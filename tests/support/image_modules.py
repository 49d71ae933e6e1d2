"""LightningModules of users: convolutions, patches, and a generator of images."""

import torch
from plain_modules import Supervised
from pytorch_lightning import LightningModule
from torch import nn
from torch.nn import functional as F  # noqa: N812 as everybody calls it
from user_samples import CLASSES, LATENT


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


class GAN(LightningModule):
    """The module maps noise to images. The noise is not in the batch."""

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
