r"""Student: a network with one hidden layer.

It is $g(x) = \beta f(W x)$. Its weights can be factored through a linear bottleneck, $W = U V$.

Ba, Caruana, "Do Deep Nets Really Need to be Deep?", NIPS 2014.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from lightning_effcx.options import check_count, check_seed


class ShallowStudent(nn.Module):
    """A network with one hidden layer, and optionally a linear bottleneck before it.

    Its initial weights depend on `seed` alone, and no other random numbers are drawn. It starts as
    the constant 0.

    Args:
        inputs: The number of entries of a sample, which is flattened.
        outputs: The number of outputs.
        hidden: The number of hidden units.
        bottleneck: The width k of a linear layer before the hidden units, or `None` for none. There
            are then k (hidden + inputs) weights instead of hidden times inputs.
        activation: The activation of the hidden units; `None` for a linear student.
        seed: The seed of the initial weights.
    """

    def __init__(  # noqa: PLR0913 each is one thing that users may choose
        self,
        inputs: int,
        outputs: int,
        *,
        hidden: int,
        bottleneck: int | None = None,
        activation: Callable[[Tensor], Tensor] | None = torch.relu,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_widths(hidden, bottleneck)
        check_seed(seed)
        generator = Generator().manual_seed(seed)
        rank = inputs if bottleneck is None else bottleneck
        self.activation = activation
        self.bottleneck = None if bottleneck is None else _layer(inputs, rank, bias=False)
        self.hidden = _layer(rank, hidden)
        self.output = _layer(hidden, outputs)
        with torch.no_grad():
            if self.bottleneck is not None:
                self.bottleneck.weight.copy_(torch.randn(rank, inputs, generator=generator))
            scale = 1.0 if bottleneck is None else rank**-0.5
            self.hidden.weight.copy_(scale * torch.randn(hidden, rank, generator=generator))
            self.hidden.bias.copy_(torch.randn(hidden, generator=generator))
            self.output.weight.zero_()
            self.output.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs `(n, k)`, in the student's own precision."""
        h = x.flatten(1).to(self.output.weight)
        h = self.hidden(h if self.bottleneck is None else self.bottleneck(h))
        return self.output(h if self.activation is None else self.activation(h))


def _layer(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    # Usual layers would draw their weights from the global random numbers.
    return nn.utils.skip_init(nn.Linear, inputs, outputs, bias=bias)


def check_widths(hidden: int, bottleneck: int | None) -> None:
    """Refuse a student without units."""
    check_count("hidden", hidden, of=" unit")
    if bottleneck is not None:
        check_count("bottleneck", bottleneck, of=", or None for none")
