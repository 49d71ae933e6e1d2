import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from lightning_effcx.network.calls import Call
from lightning_effcx.network.capture import capture_network
from lightning_effcx.network.observe import observing
from lightning_effcx.network.outputs import find_output, output_name

X = torch.randn(6, 3)


class Code(NamedTuple):
    mean: Any
    logvar: Any


class Variational(nn.Module):
    """Draws its outputs anew each time, beside the parameters of what they are drawn from."""

    def __init__(self, of: Callable[..., Any]) -> None:
        super().__init__()
        self.of = of
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Any:
        mean = self.layer(x)
        return self.of(torch.randn_like(mean) + mean, mean)


def see(module: nn.Module, output: str | int | None = None) -> Any:
    call = Call.of("", (X,), {}, 9)
    assert call is not None
    with observing(module):
        return capture_network(module, call, None, output)


RANDOM = "are random: evaluated twice at the same samples, they differ"
ADVICE = "but measures need a function: choose a part that is not random with network="
OTHERS = "output='a' or output='b'"
REFUSED = {
    "one output": (lambda z, mean: z, f"the network's outputs {RANDOM}, {ADVICE}"),
    "one of a dictionary": (
        lambda z, mean: {"z": z, "a": mean, "b": -mean, "n": 3},
        f"the network's outputs `z` {RANDOM}; choose others with {OTHERS}, which are not",
    ),
    "one of a tuple": (
        lambda z, mean: (z, mean),
        f"the network's outputs `output[0]` {RANDOM}; choose others with output=1, which are not",
    ),
    "one within another": (
        lambda z, mean: {"code": [z], "q": Code(mean, -mean), "other": z + 1},
        f"the network's outputs `code[0]` {RANDOM}; choose others with output='q', which are not",
    ),
    "all": (lambda z, mean: {"z": z, "w": -z}, f"the network's outputs `z` {RANDOM}, {ADVICE}"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_outputs_that_are_random_are_named_and_those_that_are_not(name):
    of, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        see(Variational(of))


def test_outputs_that_are_not_random_may_stand_beside_some_that_are():
    module = Variational(lambda z, mean: {"z": z, "mean": mean})
    assert torch.equal(see(module, "mean").outputs, module.layer(X))


class Gathering(nn.Module):
    """Has an index of other rows, as graphs do whose edges have some other name."""

    def forward(self, x: Tensor) -> Tensor:
        return x[torch.tensor([5, 4, 3, 2, 1, 0])]


def test_what_cannot_be_evaluated_at_some_of_the_samples_alone_is_refused():
    message = (
        r"^the network cannot be evaluated at 3 of the 6 samples alone \(IndexError: index 5 is out"
        r".*\), but measures need a function of one sample: choose such a part with network=$"
    )
    with pytest.raises(ValueError, match=message):
        see(Gathering())


@pytest.mark.parametrize(
    ("raw", "place", "name"),
    [
        (X, (), ""),
        ({"loss": X[0, 0], "logits": X}, ("logits",), "logits"),
        (Code(X[0, 0], [1, X]), ("logvar", 1), "logvar[1]"),
        ([X[0], {"y": X}], (1, "y"), "output[1]['y']"),
        ({3: X}, (3,), "output[3]"),
    ],
)
def test_outputs_are_found_and_named_as_a_user_would(raw, place, name):
    assert find_output(raw, 6, None) == place
    assert output_name(raw, place) == name
