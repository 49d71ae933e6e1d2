"""What the table says of an operator agrees with what torch says of it."""

from contextlib import suppress
from itertools import chain, product

import pytest
import torch
from affine_calls import CALLS
from torch.nn import functional as F  # noqa: N812 as everybody calls it
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from lightning_effcx.piecewise.lines import pieces
from lightning_effcx.tracing.operators import TABLE, operator_of, tensors
from lightning_effcx.tracing.operators.calls import never, operator_name

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


class WithFewerSamples(TorchDispatchMode):
    """Runs each call once more, with half the samples in one of its tensors, and notes successes.

    Attributes:
        names: The operators that return as many samples as before.
    """

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        with_samples = [each for each in tensors(args, kwargs) if each.dim() and len(each) == 8]
        is_known = len(with_samples) > 1 and operator_name(func) in TABLE
        if is_known and any(is_whole(func, args, kwargs, each, out) for each in with_samples):
            self.names.add(operator_name(func))
        return out


def is_whole(func, args, kwargs, tensor, out):
    """Tell whether a call returns as many samples if one tensor has half of them only."""

    def cut(argument):
        if not isinstance(argument, torch.Tensor):
            return argument
        return argument[:4].clone() if argument is tensor else argument.clone()

    try:
        args, kwargs = tree_map(cut, (args, kwargs))
        made = func(*args, **kwargs)
    except (RuntimeError, IndexError):
        return False
    return [each.shape for each in tensors(made)] == [each.shape for each in tensors(out)]


SHAPES = [(8, 3), (8, 3, 4), (8, 4, 4), (8, 3, 4, 4), (8, 3, 4, 4, 4)]


@pytest.mark.filterwarnings("ignore:The reduce argument of torch.scatter")
def test_every_operator_that_takes_fewer_samples_in_one_operand_has_an_index():
    # The constants of a network may have the number of rows of before rows were inserted.
    with WithFewerSamples() as mode:
        for call, shape in product(chain.from_iterable(CALLS.values()), SHAPES):
            with suppress(RuntimeError, IndexError, ValueError, AssertionError):
                call(torch.randn(shape, dtype=torch.float64))
    assert {"gather", "scatter", "scatter_add"} <= mode.names
    unknown = {name for name in mode.names if not TABLE[name].has_index}
    assert {name for name in unknown if TABLE[name].samples is not never} == set()


INDEX = torch.tensor([[0, 2]])
BY_INDEX = {
    "gather": lambda h, r, index: h.gather(1, index),
    "scatter": lambda h, r, index: h.scatter(1, index, r[:, :2]),
    "scatter of a number": lambda h, r, index: h.scatter(1, index, 1.0),
    "scatter of constants": lambda h, r, index: h.scatter(1, index, (index * 0.3).to(h)),
    "scatter_": lambda h, r, index: h.clone().scatter_(1, index, r[:, 2:4]),
    "scatter_add": lambda h, r, index: h.scatter_add(1, index, r[:, :2]),
    "scatter_add by name": lambda h, r, index: torch.scatter_add(h, dim=1, index=index, src=r),
    "vmap": lambda h, r, index: torch.vmap(lambda a, b: a.index_copy(0, INDEX[0], b[:2]))(h, h - 1),
}


@pytest.mark.parametrize("call", BY_INDEX.values(), ids=BY_INDEX)
def test_an_index_with_the_batch_size_of_before_is_that_of_all_samples(call):
    weight = torch.linspace(-1, 1, 20, dtype=torch.float64).view(4, 5)

    def network(x, count=None):
        h = torch.relu(x @ weight)
        r = torch.relu(h.roll(1, 1) - 0.3)
        count = len(x) if count is None else count(r)
        return torch.relu(call(h + 0 * r, r, INDEX.expand(count, 2)) - 0.2)

    path = 2 * torch.randn(2, 3, 4, dtype=torch.float64)
    found = pieces(network, path, keep=["output"])
    expected = pieces(lambda x: network(x, len), path, keep=["output"])
    assert found.regions().min() > 3
    assert_close(found.position, expected.position)
    assert_close(found.values["output"], expected.values["output"])


def test_an_index_that_differs_between_samples_is_refused():
    def network(x):
        index = torch.arange(len(x))[:, None] % 4
        return torch.relu(x).gather(1, index)

    with pytest.raises(ValueError, match="'gather' mixes the samples of a batch"):
        pieces(network, torch.randn(2, 3, 4))
