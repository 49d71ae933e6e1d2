"""Residual networks for images, with random weights and BatchNorm in eval mode."""

from torch import Tensor, nn


class Block(nn.Module):
    """A residual block with normalisation and ReLU before each convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            h = conv(norm(h).relu())
        return x + h


def pooled(width: int = 8) -> nn.Module:
    """Residual blocks and max pooling, for images of 3 x 16 x 16."""
    return evaluated(
        nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            Block(width),
            nn.MaxPool2d(2),
            Block(width),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * width, 10),
        )
    )


def deep(blocks: int = 20, width: int = 16) -> nn.Module:
    """A pre-activation ResNet, for images of 3 channels and any size."""
    return evaluated(
        nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            *[Block(width) for _ in range(blocks)],
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, 10),
        )
    )


def evaluated(network: nn.Module) -> nn.Module:
    """Give its normalisations statistics, and put it in eval mode."""
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):  # as after a training, not the identity
            nn.init.normal_(norm.running_mean, std=0.5)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.5)
    return network.eval()
