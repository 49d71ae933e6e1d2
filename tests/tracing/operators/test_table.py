"""What the table says of an operator agrees with what torch says of it."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812 as everybody calls it

from lightning_effcx.piecewise.lines import pieces
from lightning_effcx.tracing.operators import TABLE, operator_of
from lightning_effcx.tracing.operators.calls import never

aten = torch.ops.aten


def forms(name):
    """All forms of an operator, given its name in the table."""
    spellings = (f"{before}{name}{after}" for after in ("", "_") for before in ("", "_"))
    packets = [getattr(aten, each) for each in spellings if hasattr(aten, each)]
    return [getattr(packet, each) for packet in packets for each in packet.overloads()]


def test_every_operator_that_draws_by_chance_is_known_to_do_so():
    drawing = {
        name
        for name in TABLE
        for form in forms(name)
        if torch.Tag.nondeterministic_seeded in form.tags and operator_of(form) is TABLE[name]
    }
    assert {"native_dropout", "rand_like", "rrelu_with_noise"} <= drawing
    assert [name for name in drawing if TABLE[name].decides is never] == []


@pytest.mark.parametrize("draw", [F.rrelu, torch.rrelu, torch.rrelu_])
def test_a_randomized_relu_in_training_is_refused_even_where_it_changes_nothing(draw):
    with pytest.raises(ValueError, match="lets the network decide by its input, or by chance, "):
        pieces(lambda x: draw(x.abs(), training=True), torch.randn(2, 3, 4))


def test_a_randomized_relu_in_eval_mode_has_its_mean_slope():
    found = pieces(lambda x: F.rrelu(x, 0.1, 0.3), torch.tensor([[[-1.0], [1.0]]]), keep=["output"])
    assert found.regions().tolist() == [2]
