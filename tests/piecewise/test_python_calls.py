"""How a network may spell its calls, and in which numbers, without changing what is measured."""

import pytest
import torch
from slow_oracles import confirm
from torch import nn
from torch.testing import assert_close

from lightning_effcx.functional import boundary_distance, linear_deviation, trajectory_length
from lightning_effcx.piecewise.lines import pieces

CONV, LINEAR = nn.Conv2d(1, 2, 3), nn.Linear(8, 6)
NETWORK = nn.Sequential(CONV, nn.ReLU(), nn.Flatten(), nn.Linear(8, 3), nn.ReLU()).eval()
WEIGHT = nn.Parameter(torch.linspace(-1, 1, 18).view(3, 6))
GROUPS = nn.Parameter(torch.linspace(-1, 1, 30).view(2, 3, 5))


@pytest.fixture
def _double(_float64):
    constants = LINEAR, nn.ParameterList([WEIGHT, GROUPS])
    for each in constants:
        each.to(torch.float64)
    yield
    for each in constants:
        each.to(torch.float32)


def measured(network, path):
    """What four measures say of a network."""
    return (
        pieces(network, path).regions(),
        boundary_distance(network, path[:, 0]),
        linear_deviation(network, path),
        trajectory_length(network, path, exact=True)["output"],
    )


SPELLINGS = {
    "a function": lambda: lambda x: NETWORK(x) + 0,
    "a bound method": lambda: NETWORK.forward,
    "scripted": lambda: torch.jit.script(NETWORK),
    "traced": lambda: torch.jit.trace(NETWORK, torch.randn(3, 1, 4, 4)),
    "a function of bound methods": lambda: lambda x: NETWORK[1:].forward(CONV.forward(x)),
}
compiled = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


@compiled
@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
def test_a_network_in_single_precision_may_be_spelled_in_many_ways(spell):
    path, network = torch.randn(2, 3, 1, 4, 4), spell()
    for found, expected in zip(measured(network, path), measured(NETWORK, path), strict=True):
        assert_close(found, expected)


@compiled
def test_a_precision_that_cannot_be_converted_is_named_with_the_way_out():
    scripted = SPELLINGS["scripted"]()
    with pytest.raises(
        ValueError,
        match=r"^the network was given inputs of torch\.float64, and has .* give the module itself",
    ):
        pieces(lambda x: scripted(x) + 0, torch.randn(2, 3, 1, 4, 4))


class SilentError(RuntimeError):
    """An error that cannot say what it is about."""

    def __str__(self):
        raise NotImplementedError


def test_an_error_without_a_message_is_named_by_its_type():
    def network(x):
        if len(LINEAR(x).relu()) == len(x):
            return x
        raise SilentError

    with pytest.raises(ValueError, match=r"use Transitions \(SilentError\)"):
        pieces(network, 3 * torch.randn(2, 3, 8))


def test_an_index_out_of_range_is_the_error_of_the_network():
    with pytest.raises(IndexError, match="out of range"):
        pieces(lambda x: x.sum(7), torch.randn(2, 3, 8))


def hidden(x):
    return torch.relu(LINEAR(x))


RESHAPED = {
    "input by name": lambda h, n: torch.reshape(input=h, shape=(n, 2, 3)),
    "shape by name": lambda h, n: h.reshape(shape=(n, 2, 3)),
    "view by name": lambda h, n: h.view(size=(n, 2, 3)),
    "like another": lambda h, n: h.reshape_as(torch.zeros(n, 2, 3)),
    "view like another": lambda h, n: h.view_as(torch.zeros(n, 2, 3)),
    "unflattened": lambda h, n: torch.unflatten(input=h, dim=1, sizes=(2, 3)),
}


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("reshape", RESHAPED.values(), ids=RESHAPED)
def test_arguments_may_have_names(reshape):
    path = 2 * torch.randn(2, 3, 8)

    def network(x):
        n = len(x)
        return torch.relu(reshape(hidden(x), n).mT.flatten(1) - 0.1)

    def expected(x):
        return torch.relu(hidden(x).view(-1, 2, 3).mT.flatten(1) - 0.1)

    assert_close(pieces(network, path).position, pieces(expected, path).position)


LATER = {
    "expand": lambda x, r: x[:, :1].expand(len(r), 6),
    "expand_as": lambda x, r: x[:, :1].expand_as(r),
    "reshape_as": lambda x, r: x[:, :6].reshape_as(r),
    "reshape": lambda x, r: x[:, :6].reshape(len(r), 6),
}


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("part", LATER.values(), ids=LATER)
def test_a_batch_size_read_after_rows_were_inserted_fits_what_was_there_before(part):

    def network(x):
        r = hidden(x)
        return torch.relu(part(x, r) + r - 0.2)

    confirm(network, 2 * torch.randn(2, 3, 8))


COPIES = {
    "tensor": lambda x: x * torch.tensor(data=[2.0] * 8),
    "as_tensor": lambda x: torch.as_tensor(data=x),
    "asarray": lambda x: torch.asarray(obj=x),
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_what_torch_copies_may_have_a_name(copy):
    path = torch.randn(2, 3, 8)
    expected = pieces(torch.relu, path).regions()
    assert_close(pieces(lambda x: torch.relu(copy(x)), path).regions(), expected)


# Complex numbers


def spectrum(h):
    return torch.fft.irfft(torch.fft.rfft(h)[:, :3] @ (torch.ones(3, 5) * (1 - 2j)), n=8)


FOURIER = {
    "rfft": lambda h: torch.view_as_real(torch.fft.rfft(h)).flatten(1),
    "fft": lambda h: torch.fft.fft(h).real,
    "ifft": lambda h: torch.fft.ifft(h).imag,
    "irfft": lambda h: torch.fft.irfft(torch.fft.rfft(h) * torch.arange(4), n=6),
    "fft2": lambda h: torch.fft.fft2(h.view(-1, 2, 3)).real.flatten(1),
    "rfft2": lambda h: torch.fft.irfft2(torch.fft.rfft2(h.view(-1, 2, 3)) * (1 + 2j)).flatten(1),
    "hfft": torch.fft.hfft,
    "to complex": lambda h: (h.to(torch.complex128) * (1 + 1j)).imag,
    "complex weights": lambda h: (h.to(torch.complex128) @ (torch.ones(6, 3) * (1 - 1j))).imag,
    "real again": lambda h: torch.view_as_real(h.to(torch.complex128) * 1j)[..., 1] * 2,
    "spectrum": spectrum,
}


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("transform", FOURIER.values(), ids=FOURIER)
def test_transforms_between_real_and_complex_numbers_are_linear(transform):
    path = 2 * torch.randn(2, 3, 8)

    def network(x):
        return torch.relu(transform(hidden(x)) - 0.1)

    confirm(network, path)
    distance = boundary_distance(network, path[:, 0])
    assert_close(torch.cat([boundary_distance(network, x[None]) for x in path[:, 0]]), distance)


def test_complex_numbers_are_as_precise_as_the_pass():
    path = torch.randn(2, 3, 8)

    def network(dtype):
        return lambda x: torch.relu((torch.relu(x).to(dtype) * (1 + 1j)).imag - 0.1)

    single, double = (pieces(network(dtype), path) for dtype in (torch.complex64, torch.complex128))
    assert torch.equal(single.position, double.position)


def test_complex_outputs_are_measured_as_pairs_of_real_ones():
    path = torch.randn(2, 3, 8)

    def network(x):
        return torch.fft.fft(torch.relu(x))

    def pairs(x):
        return torch.view_as_real(network(x)).flatten(1)

    for found, expected in zip(measured(network, path), measured(pairs, path), strict=True):
        assert_close(found, expected)


@pytest.mark.parametrize("name", ["abs", "angle"])
def test_a_curve_of_complex_numbers_is_refused(name):
    with pytest.raises(
        ValueError, match=rf"^site '{name}' \({name}\) is not known to be piecewise linear"
    ):
        pieces(lambda x: getattr(torch.fft.fft(x), name)(), torch.randn(2, 3, 8))


# Einstein's sums and rotations


SUMS = {
    "a layer": lambda h: torch.einsum("nd,kd->nk", h, WEIGHT),
    "a list": lambda h: torch.einsum("nd,kd->nk", [h, WEIGHT]),
    "weights first": lambda h: torch.einsum("kd,nd->nk", WEIGHT, h),
    "three": lambda h: torch.einsum("nd,kd,kj->nj", h, WEIGHT, WEIGHT),
    "dots": lambda h: torch.einsum("...d,kd->...k", h.view(-1, 1, 6), WEIGHT).flatten(1),
    "groups": lambda h: torch.einsum("ntd,tdk->ntk", h.view(-1, 2, 3), GROUPS).flatten(1),
    "sums of groups": lambda h: torch.einsum("ntd, tdk -> nk", h.view(-1, 2, 3), GROUPS),
    "a diagonal": lambda h: torch.einsum("nii->ni", h[:, :4].view(-1, 2, 2)),
    "rot90": lambda h: torch.rot90(h.view(-1, 2, 3), 1, (1, 2)).flatten(1) @ WEIGHT.T,
}


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("product", SUMS.values(), ids=SUMS)
def test_sums_and_rotations_that_keep_samples_apart_are_linear(product):
    confirm(lambda x: torch.relu(product(hidden(x)) - 0.1), 2 * torch.randn(2, 3, 8))


REFUSED = {
    "over samples": (lambda x: torch.einsum("nd->d", x), "'einsum' mixes"),
    "samples last": (lambda x: torch.einsum("nd->dn", x), "'einsum' mixes"),
    "an order of letters": (lambda x: torch.einsum("nd,kd", x, torch.ones(3, 8)), "'einsum' mixes"),
    "a product": (
        lambda x: torch.einsum("nd,nd->n", x, x),
        r"'einsum' \(einsum\) is not known to be",
    ),
    "rotated samples": (torch.rot90, "'rot90' mixes"),
}


@pytest.mark.parametrize(("network", "message"), REFUSED.values(), ids=REFUSED)
def test_other_sums_and_rotations_are_refused(network, message):
    with pytest.raises(ValueError, match=f"^site {message}"):
        pieces(network, torch.randn(2, 3, 8))


# Outputs


OUTPUTS = {
    "tuple": lambda y, x: (y, x),
    "list": lambda y, x: [y, x],
    "dict": lambda y, x: {"y": y, "x": x},
    "after a constant": lambda y, x: (torch.ones(7), y),
}


@pytest.mark.parametrize("structure", OUTPUTS.values(), ids=OUTPUTS)
def test_the_first_output_that_depends_on_the_input_is_measured(structure):
    path = torch.randn(2, 3, 8)
    layer = nn.Linear(8, 6)

    def first(x):
        return torch.relu(layer(x))

    def several(x):
        return structure(first(x), x)

    for found, expected in zip(measured(several, path), measured(first, path), strict=True):
        assert_close(found, expected)
