"""Writes in place: into views, into what has views, into constants, and into `out`."""

import pytest
import torch
from slow_oracles import confirm, points_at
from torch import nn
from torch.nn import functional as F  # noqa: N812 as everybody calls it
from torch.testing import assert_close

from lightning_effcx.functional import boundary_distance
from lightning_effcx.piecewise.lines import pieces

pytestmark = pytest.mark.usefixtures("_float64")

FIRST, NEXT, HEAD, WIDE = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3), nn.Linear(5, 3)
CONV, UP = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
CIRCULAR = nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")


@pytest.fixture(autouse=True)
def _weights(_float64):
    for layer in (FIRST, NEXT, HEAD, WIDE, CONV, UP, CIRCULAR):
        layer.requires_grad_(False).to(torch.float64).reset_parameters()


def on_hidden(write):
    """A network that writes into its hidden values `h`; `r` was computed from them before."""

    def network(x):
        h = FIRST(x)
        write(h, torch.relu(NEXT(h)))
        return HEAD(torch.relu(NEXT(h)))

    return network


def joined(make):
    """A network that writes two parts into a tensor, made before or after rows are inserted."""

    def network(x):
        out = make(x)
        a, b = torch.relu(FIRST(x))[:, :2], torch.relu(NEXT(FIRST(x)))[:, :3]
        out[:, :2] = a
        out[:, 2:] = b
        return WIDE(out.to(WIDE.weight))

    return network


def set_columns(h, r):
    h[:, :3] = r[:, 3:]


def add_to_a_column(h, r):
    h[:, 0] += r[:, 1]


def set_a_number(h, r):
    h[:, 1] = 0.5


def set_numbers(h, r):
    h[:, 1:3] = torch.tensor([1.0, 2.0])


def set_chosen(h, r):
    h[:, torch.tensor([True, False] * 3)] = r[:, :3]


def set_listed(h, r):
    h[:, torch.tensor([0, 2])] = r[:, [1, 3]]


def overlapping(h, r):
    a, b = h[:, :4], h[:, 2:]
    a += r[:, :4]
    b.relu_()
    a.mul_(-1)


def unbound(h, r):
    a, b, *_ = h.unbind(1)
    a.relu_()
    b += r[:, 0]


def indexed_by_stale_numbers(h, r):
    index = torch.zeros(1, 2, dtype=torch.long).repeat(len(r), 1)
    torch.relu(r - 0.3)
    h.scatter_add_(1, index, r[:, :2])


def with_a_copy(h, r):
    part = h[:, :3]
    part.mul_(2)
    part.contiguous().add_(1)  # of a copy, since the columns lie apart


HIDDEN = {
    "setting columns": set_columns,
    "adding to a column": add_to_a_column,
    "setting a number": set_a_number,
    "setting numbers": set_numbers,
    "setting chosen columns": set_chosen,
    "setting listed columns": set_listed,
    "every second": lambda h, r: h[:, ::2].mul_(2),
    "copy": lambda h, r: h[..., 1:].copy_(r[..., 1:]),
    "zeros": lambda h, r: h[:, :2].zero_(),
    "fill": lambda h, r: h.index_fill_(1, torch.tensor([0, 2]), 1.0),
    "relu of a part": lambda h, r: h.view(len(h), 2, -1)[:, 0].relu_(),
    "clamp of a part": lambda h, r: h[:, 1:4].clamp_(-0.3, 0.3),
    "hardtanh": lambda h, r: F.hardtanh_(h[:, 2:]),
    "narrow": lambda h, r: h.narrow(1, 1, 2).add_(r.narrow(1, 0, 2)),
    "select": lambda h, r: h.select(1, 0).abs_(),
    "unbind": unbound,
    "split": lambda h, r: h.split(3, 1)[1].add_(r[:, :3]),
    "chunk": lambda h, r: h.chunk(2, 1)[0].relu_(),
    "diagonal": lambda h, r: h.view(-1, 2, 3).diagonal(dim1=1, dim2=2).relu_(),
    "transposed": lambda h, r: h.view(-1, 2, 3).mT[:, 1].relu_(),
    "moved": lambda h, r: h.view(-1, 2, 3).movedim(1, 2)[:, 0].sub_(r[:, :2]),
    "unfolded": lambda h, r: h.unfold(1, 2, 2)[..., 0].relu_(),
    "parts of dimension 0": lambda h, r: h.view(-1, 3)[:, 0].relu_(),
    "reshaped": lambda h, r: h.reshape(-1, 3, 2)[:, 0].copy_(r[:, :2]),
    "detached": lambda h, r: h.detach()[:, 0].add_(r[:, 1]),
    "overlapping": overlapping,
    "index_add": lambda h, r: h.index_add_(1, torch.tensor([0, 2]), r[:, :2]),
    "index_copy": lambda h, r: h[:, :4].index_copy_(1, torch.tensor([0, 2]), r[:, :2]),
    "scatter": indexed_by_stale_numbers,
    "out": lambda h, r: torch.add(h, r, out=h),
    "out of a part": lambda h, r: torch.mul(r[:, :3], 2, out=h[:, 3:]),
    "out of a kink": lambda h, r: torch.maximum(h[:, :3], r[:, 3:], out=h[:, :3]),
    "a copy of a part": with_a_copy,
}
MADE = {
    "new_zeros": lambda x: x.new_zeros(len(x), 5),
    "zeros": lambda x: torch.zeros(len(x), 5),
    "full": lambda x: torch.full((len(x), 5), 3.0),
    "zeros_like": lambda x: torch.zeros_like(x.repeat(1, 2)[:, :5]),
    "empty": lambda x: torch.empty(len(x), 5),
    "new_empty": lambda x: x.new_empty((len(x), 5)),
    "empty_like": lambda x: torch.empty_like(x.repeat(1, 2)[:, :5]),
    "a part of zeros": lambda x: torch.zeros(len(x), 9)[:, 2:7],
}


def base_follows_view(x):
    h = FIRST(x)
    view = h[:, :3]
    view += torch.relu(h)[:, 3:]
    return HEAD(torch.relu(h))


def view_follows_base(x):
    h = FIRST(x)
    view, r = h[:, :3], torch.relu(h)
    h += r
    h.relu_()
    return view + HEAD(r)


def views_follow_each_other(x):
    h = FIRST(x)
    first, second = h.view(-1, 3, 2), h.view(-1, 3, 2)[:, 1]
    r = torch.relu(NEXT(torch.relu(NEXT(h))))
    second -= r[:, :2]
    return HEAD(h.abs()) + first[..., 0]


def views_of_a_constant_follow_it(x):
    out = torch.zeros(len(x), 6)
    part = out[:, 1:4]
    out[:, :3] = torch.relu(FIRST(x))[:, 3:]
    return HEAD(torch.relu(NEXT(out))) + part


def step_by_step(x):
    h, out = FIRST(x), torch.zeros(len(x), 4, 6)
    for t in range(4):
        h = torch.relu(NEXT(h) + x[:, t, None])
        out[:, t] = h
    return HEAD(out).flatten(1)


def added_up(x):
    h, total = FIRST(x), torch.zeros(len(x), 3)
    for _ in range(3):
        h = torch.relu(NEXT(h))
        total += HEAD(h)
    return total


def into_its_input(x):
    x[:, 0] = 0
    x[:, 1:].relu_()
    return HEAD(torch.relu(FIRST(x)))


def out_of_nothing(x):
    out = torch.empty(0)
    torch.clamp(FIRST(x), min=0, out=out)
    return HEAD(torch.relu(NEXT(out)))


def out_of_zeros(x):
    out, h = torch.zeros(len(x), 6), torch.relu(FIRST(x))
    part = out[:, :3]
    torch.mm(h, NEXT.weight, out=out)
    return HEAD(torch.relu(out)) + part


def out_of_a_constant(x):
    h, ones = FIRST(x), torch.ones(len(x), 6)
    r, zeros = torch.relu(h), torch.zeros(len(x), 3)
    torch.mul(ones, 0.5, out=h[:, :])
    torch.maximum(r[:, 1:4], zeros, out=h[:, 3:])
    return HEAD(torch.minimum(torch.zeros(len(x), 6), NEXT(h)))


ALIASES = [
    out_of_a_constant,
    base_follows_view,
    view_follows_base,
    views_follow_each_other,
    views_of_a_constant_follow_it,
    step_by_step,
    added_up,
    into_its_input,
    out_of_nothing,
    out_of_zeros,
]


def channels(x):
    h = torch.relu(CONV(x))
    out = h.new_zeros(len(h), 4, *h.shape[2:])
    out[:, :2] = h
    out[:, 2:] = UP(h).relu()
    out[:, 1].sub_(1).relu_()
    return out.flatten(1)


def pixels(x):
    h = CONV(x)
    h[:, :, 1:3, ::2] = torch.relu(h[:, :, :2, ::2])
    h[..., 0].abs_()
    return torch.relu(UP(h)).flatten(1)


def channels_last(x):
    h = CONV(x.to(memory_format=torch.channels_last))
    r = torch.relu(h)
    h[:, 0] -= r[:, 1]
    return torch.relu(h.reshape(len(x), -1))


IMAGES = [channels, pixels, channels_last, lambda x: CIRCULAR(torch.relu(CONV(x))).abs().flatten(1)]
VECTORS = {
    **{name: on_hidden(write) for name, write in HIDDEN.items()},
    **{name: joined(make) for name, make in MADE.items()},
    **{network.__name__: network for network in ALIASES},
}


def check(network, path):
    """The pieces, the values at the knots, and the distances are those of the plain network."""

    def plain(x):  # twice, since what lies apart for two samples may lie together for one
        pairs = x[:, None].expand(-1, 2, *x.shape[1:]).clone()
        return torch.stack([network(pair)[0] for pair in pairs])

    before = path.clone()
    found = confirm(plain_or(network, plain), path)
    known = pieces(network, path, keep=["output"])
    assert_close(known.values["output"], plain(points_at(path, found.path, found.position)))
    x = path[:, 0].lerp(path[:, 1], 0.3)
    distance = boundary_distance(network, x)
    step = torch.randn(16, *x.shape)
    norms = torch.linalg.vector_norm(step.flatten(2), dim=2) / (0.99 * distance)
    step = step / norms.reshape(*norms.shape, *[1] * (x.dim() - 1))
    both = [plain((x + sign * step).flatten(0, 1)) for sign in (1, -1)]
    assert_close((both[0] + both[1]) / 2, plain(x).repeat(16, 1))
    assert torch.equal(path, before)


def plain_or(network, plain):
    """The network in a pass, where its input is followed; else the plain one."""

    def either(x):
        return network(x) if torch.utils._python_dispatch._get_current_dispatch_mode() else plain(x)

    return either


@pytest.mark.parametrize("network", VECTORS.values(), ids=VECTORS)
def test_what_is_written_into_a_part_is_seen_by_all_that_share_it(network):
    check(network, 2 * torch.randn(2, 3, 4))


@pytest.mark.parametrize("network", IMAGES)
def test_channels_and_pixels_may_be_written_one_after_the_other(network):
    check(network, 2 * torch.randn(1, 2, 1, 5, 4))


def test_a_constant_in_single_precision_becomes_as_precise_as_the_pass():
    path = 2 * torch.randn(2, 3, 4)
    single = joined(lambda x: torch.zeros(len(x), 5, dtype=torch.float32))
    found, expected = pieces(single, path), pieces(joined(MADE["zeros"]), path)
    assert torch.equal(found.position, expected.position)


def test_what_was_kept_of_a_site_stays_as_it_was():
    def network(x):
        low = torch.minimum(x, -torch.ones_like(x))
        F.leaky_relu_(low, 0.5)  # without a knot
        return low

    found = pieces(network, torch.tensor([[[-3.0], [3.0]]]), keep=["minimum", "output"])
    assert found.values["minimum"].tolist() == [[-1.0]]
    assert found.values["output"].tolist() == [[-0.5]]


BUFFER = torch.zeros(6, 4)
REFUSED = {
    "buffer": (lambda x: BUFFER[:, :2].copy_(x[:, :2]), "'copy' writes in place into a tensor"),
    "whole numbers": (
        lambda x: torch.zeros(len(x), 4, dtype=torch.long).copy_(x),
        "'copy' writes in place into a tensor",
    ),
    "a longer tensor": (lambda x: x.new_zeros(9, 4)[:6].copy_(x), "'copy' writes in place into a"),
    "noise": (lambda x: torch.rand(len(x), 4).copy_(x), "'copy' mixes the samples"),
    "a sample": (lambda x: (2 * x)[0].zero_(), "'select' mixes the samples"),
    "listed samples": (
        lambda x: (2 * x).index_put_((torch.tensor([0]),), torch.zeros(())),
        "'index_put' mixes the samples",
    ),
    "set": (lambda x: (2 * x).set_(x), "'set' mixes the samples"),
    "as_strided": (lambda x: (2 * x).as_strided((6, 2), (4, 1)), "'as_strided' mixes the samples"),
    "resize": (lambda x: (2 * x).resize_(6, 2), "'resize' mixes the samples"),
}


@pytest.mark.parametrize(("network", "message"), REFUSED.values(), ids=REFUSED)
def test_writes_that_cannot_be_followed_are_refused(network, message):
    with pytest.raises(ValueError, match=f"^site {message}"):
        pieces(lambda x: network(x) + 0, torch.randn(2, 3, 4))


def test_what_is_written_beside_the_outputs_may_be_anything():
    kept = []

    def network(x):
        r = torch.relu(FIRST(x))
        beside = r.new_zeros(len(r), 6)
        beside[:, :3] = torch.tanh(r)[:, :3]
        kept.append(beside.sum(1))
        return HEAD(torch.relu(NEXT(r)))

    check(network, 2 * torch.randn(2, 3, 4))
    assert kept


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_what_is_written_of_a_curve_is_refused(make):
    def network(x):
        out, r = make(x), torch.relu(FIRST(x))
        out[:, :3] = torch.tanh(r)[:, :3]
        return WIDE(out.to(WIDE.weight))

    with pytest.raises(ValueError, match=r"^site 'tanh' \(tanh\) is not piecewise linear"):
        pieces(network, 2 * torch.randn(2, 3, 4))
