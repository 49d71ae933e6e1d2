"""Which calls keep samples apart: by hand, and for every operator that the table calls affine.

The last part does not ask what a rule should say. It asks whether what the rule says is true: where
three samples together are let through, each of them must give the same alone.
"""

import pytest
import torch
from affine_calls import CALLS, operator
from networks import mlp
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 as everybody calls it
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_effcx.piecewise.lines import pieces
from lightning_effcx.tracing.lineage import Lineage
from lightning_effcx.tracing.operators import (
    TABLE,
    OperatorCall,
    keeps_samples_apart,
    operator_of,
    tensors,
)
from lightning_effcx.tracing.operators.calls import always, never

aten = torch.ops.aten
X = torch.randn(3, 4)
SQUARE = torch.randn(3, 3)
IMAGE = torch.randn(3, 4, 5, 5)
COLUMN = torch.randn(3)
W = torch.randn(4, 4)
INDEX = torch.tensor([0, 1])
MASK = torch.rand(3, 4) > 0.5

EACH_BY_ITSELF = {
    "cat along features": (aten.cat.default, [X, X], 1),
    "cat along the last": (aten.cat.default, [X, X], -1),
    "stack along a new last": (aten.stack.default, [X, X], -1),
    "split of features": (aten.split.Tensor, X, 2, 1),
    "unbind of features": (aten.unbind.int, X, 1),
    "sum over features": (aten.sum.dim_IntList, X, [1]),
    "mean over the image": (aten.mean.dim, IMAGE, [-1, -2]),
    "cumsum over features": (aten.cumsum.default, X, 1),
    "flip of features": (aten.flip.default, X, [1]),
    "roll of features": (aten.roll.default, X, [1], [1]),
    "select of a feature": (aten.select.int, X, 1, 0),
    "index_select of features": (aten.index_select.default, X, 1, INDEX),
    "unsqueeze after": (aten.unsqueeze.default, X, 1),
    "unsqueeze last": (aten.unsqueeze.default, X, -1),
    "permute with the batch first": (aten.permute.default, IMAGE, [0, 2, 3, 1]),
    "transpose of the image": (aten.transpose.int, IMAGE, -1, -2),
    "index of features": (aten.index.Tensor, X, [None, INDEX]),
    "slice of features": (aten.slice.Tensor, X, 1, 0, 2),
    "slice of all samples": (aten.slice.Tensor, X, 0, 0, 2**63 - 1),
    "repeat of features": (aten.repeat.default, X, [1, 2]),
    "expand of features": (aten.expand.default, X[:, :1], [3, 4]),
    "samples times weights": (aten.mm.default, X, W),
    "bias and samples times weights": (aten.addmm.default, W[0], X, W),
    "addition": (aten.add.Tensor, X, W[0]),
    "permute of nothing, from the end": (aten.permute.default, X, [-2, -1]),
    "transpose of a dimension with itself": (aten.transpose.int, X, 0, -2),
    "t of a column": (aten.t.default, COLUMN),
    "Fourier of features": (aten._fft_c2c.default, X, [-1], 0, True),
    "tril of the image": (aten.tril.default, IMAGE),
    "padding of features": (aten.constant_pad_nd.default, X, [1, 1]),
    "padding of features, of no samples": (aten.constant_pad_nd.default, X, [1, 1, 0, 0]),
    "tile of features": (aten.tile.default, X, [2]),
    "index of neighbouring dimensions": (aten.index.Tensor, IMAGE, [None, INDEX, INDEX]),
    "one number by a mask": (aten.index_put.default, X, [MASK], torch.zeros(())),
    "samples into columns": (aten.index_put.default, W[:3], [None, INDEX], X[:, :2]),
    "gather of features": (aten.gather.default, X, 1, MASK.long()),
    "diagonal of the image": (aten.diagonal.default, IMAGE, 0, -1, -2),
    "bias that depends": (aten.addmm.default, X, X, W),
    "flip of nothing": (aten.flip.default, X, []),
    "subtraction of a column": (aten.sub.Tensor, SQUARE, COLUMN[:, None]),
}
ACROSS = {
    "cat of samples": (aten.cat.default, [X, X]),
    "cat of samples, from the end": (aten.cat.default, [X, X], -2),
    "stack first": (aten.stack.default, [X, X]),
    "split of samples": (aten.split.Tensor, X, 2),
    "unbind of samples": (aten.unbind.int, X),
    "sum over samples": (aten.sum.dim_IntList, X, [0]),
    "sum over all": (aten.sum.default, X),
    "sum over no dimension named": (aten.sum.dim_IntList, X, []),
    "mean over all": (aten.mean.default, X),
    "mean over samples, from the end": (aten.mean.dim, IMAGE, [-4]),
    "cumsum over samples": (aten.cumsum.default, X, 0),
    "flip of samples": (aten.flip.default, X, [0]),
    "roll of samples": (aten.roll.default, X, [1], [0]),
    "roll of all numbers": (aten.roll.default, X, [1]),
    "select of a sample": (aten.select.int, X, 0, 1),
    "unsqueeze before": (aten.unsqueeze.default, X, 0),
    "unsqueeze before, from the end": (aten.unsqueeze.default, X, -3),
    "permute of samples": (aten.permute.default, IMAGE, [1, 0, 2, 3]),
    "transpose of samples": (aten.transpose.int, X, 0, 1),
    "t": (aten.t.default, X),
    "index of samples": (aten.index.Tensor, X, [INDEX]),
    "every other sample": (aten.slice.Tensor, X, 0, 0, 2**63 - 1, 2),
    "slice from the second": (aten.slice.Tensor, X, 0, 1),
    "slice of the first": (aten.slice.Tensor, X, 0, 0, 2),
    "repeat of samples": (aten.repeat.default, X, [2, 1]),
    "repeat with a new first": (aten.repeat.default, X, [1, 1, 2]),
    "expand with a new first": (aten.expand.default, X, [3, 3, 4]),
    "weights times samples": (aten.mm.default, W[:, :3], X),
    "Fourier of samples": (aten._fft_c2c.default, X, [-2], 0, True),
    "Fourier of the image and the samples": (aten._fft_c2c.default, IMAGE, [0, 2], 0, True),
    "tril of samples": (aten.tril.default, X),
    "triu of samples": (aten.triu.default, X),
    "padding of samples": (aten.constant_pad_nd.default, X, [0, 0, 1, 0]),
    "tile of samples": (aten.tile.default, X, [2, 1]),
    "index of dimensions that are apart": (aten.index.Tensor, IMAGE, [None, INDEX, None, INDEX]),
    "numbers by a mask": (aten.index_put.default, X, [MASK], torch.zeros(int(MASK.sum()))),
    "gather of samples": (aten.gather.default, X, 0, MASK.long()),
    "diagonal of samples": (aten.diagonal.default, X),
    "memory": (aten.as_strided.default, X, [3, 4], [4, 1]),
    "numbers by their places in all": (aten.take.default, X, INDEX),
    "numbers for a mask": (aten.masked_scatter.default, X, MASK, X),
    "sum of matrices": (aten.addbmm.default, W, IMAGE[:, 0, :, :4], IMAGE[:, 0, :4, :]),
    "bias for each sample, as a row": (aten.addmm.default, COLUMN, SQUARE, SQUARE),
    "subtraction of the samples from each": (aten.sub.Tensor, SQUARE, COLUMN),
    "a maximum over samples": (aten.amax.default, X, [0]),
    "a maximum over all": (aten.max.default, X),
    "an operator of tomorrow": (aten.cdist.default, X, X),
}


def depends(argument):
    return isinstance(argument, Tensor) and any(
        argument.untyped_storage().data_ptr() == each.untyped_storage().data_ptr()
        for each in (X, SQUARE, IMAGE, COLUMN)
    )


@pytest.mark.parametrize(
    ("func", "args"), [(c[0], c[1:]) for c in EACH_BY_ITSELF.values()], ids=EACH_BY_ITSELF
)
def test_calls_that_treat_each_sample_by_itself_are_known(func, args):
    assert keeps_samples_apart(OperatorCall(func, args, {}, depends))


@pytest.mark.parametrize(("func", "args"), [(c[0], c[1:]) for c in ACROSS.values()], ids=ACROSS)
def test_calls_across_samples_are_known(func, args):
    assert not keeps_samples_apart(OperatorCall(func, args, {}, depends))


# Every operator that is affine for some call


AFFINE = {name for name, operator in TABLE.items() if operator.affine is not never}
SAMPLES = 3
SHAPES = [(3,), (3, 3), (3, 4), (3, 3, 3), (3, 4, 4), (3, 4, 4, 4), (3, 4, 2, 4, 4)]
ON_OTHER_DEVICES = {"cudnn_batch_norm"}


class Judge(TorchDispatchMode):
    """Notes which operators run, and whether the table lets all calls through.

    It follows nothing but memory: what shares the memory of `x` or of a result depends on `x`.
    """

    def __init__(self, x):
        super().__init__()
        self.lineage = Lineage()
        self.lineage.add(frozenset({"input"}), x)
        self.names, self.refused = set(), False

    def depends(self, argument):
        return bool(self.lineage.of(argument))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        call = OperatorCall(func, args, kwargs or {}, self.depends)
        self.names.add(call.name)
        out = call.run()
        if call.operands:
            self.refused |= not self.is_let_through(call, list(tensors(out)))
        self.lineage.add_call(call, out, self.lineage.of(args, kwargs or {}))
        return out

    def is_let_through(self, call, out):
        row = operator_of(call.func)
        if not row.affine(call) or row.decides(call):
            return False
        if row.is_fresh:
            return True
        size = len(call.operands[0]) if call.operands[0].dim() else 0
        lengths = [len(tensor) if tensor.dim() else 0 for tensor in out if tensor.numel()]
        if row.keeps_order:
            return all(length and length % SAMPLES == 0 for length in lengths)
        return keeps_samples_apart(call) and all(length == size for length in lengths)


@torch.no_grad()
def judged(call, shape):
    """Return what a call gives, and its judge; `None` if it does not run for this shape."""
    x = torch.randn(shape, dtype=torch.float64)
    try:
        out = call(x)
    except (RuntimeError, IndexError, ValueError, AssertionError):
        return None
    with Judge(x) as judge:
        call(x)
    return x, list(tensors(out)), judge


def is_composite(name):
    """Tell whether torch takes an operator to pieces before the dispatcher sees it."""
    packet = operator(name)
    overloads = [getattr(packet, each) for each in packet.overloads()]
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    return any(each.has_kernel_for_dispatch_key(key) for each in overloads)


def test_every_operator_that_the_table_calls_affine_is_tried():
    assert set(CALLS) == AFFINE - ON_OTHER_DEVICES


@pytest.mark.parametrize("name", CALLS)
def test_samples_that_are_let_through_together_give_the_same_alone(name):
    names, accepted = set(), 0
    for call in CALLS[name]:
        for shape in SHAPES:
            found = judged(call, shape)
            if found is None:
                continue
            x, together, judge = found
            names |= judge.names
            if judge.refused:
                continue
            accepted += 1
            for index in range(len(x)):
                with torch.no_grad():
                    alone = tensors(call(x[index : index + 1].clone()))
                for whole, one in zip(together, alone, strict=True):
                    assert_close(whole.reshape(len(x), -1)[index], one.flatten(), equal_nan=True)
    assert name in names or is_composite(name)
    row = TABLE[name]
    if row.samples is not never and row.decides is not always:
        assert accepted


# Whole passes


def fourier(x, dim):
    return torch.fft.fft(torch.complex(x, x), dim=dim).real


def set_listed(x):
    x[[0]] = 0
    return x


def set_masked(x):
    x[torch.arange(len(x)) < 1] = 0
    return x


def set_in_all(x):
    x[torch.ones(len(x), dtype=torch.bool)] = 0.5
    return x + torch.relu(x - 0.4)


def by_position(x):
    parts = x.view(len(x) * 2, 3)
    return (parts + torch.arange(6.0).view(2, 3).repeat(len(x), 1)).view(len(x), 6)


PASSES = {
    "Fourier of samples": (lambda x: fourier(x, 0), "fft_c2c"),
    "Fourier of features": (lambda x: fourier(x, 1), None),
    "tril of samples": (torch.tril, "tril"),
    "triu of samples": (torch.triu, "triu"),
    "tril of each sample": (lambda x: x.view(-1, 3, 2).tril().flatten(1), None),
    "real Fourier of samples": (lambda x: torch.fft.rfft(x, dim=0).real, "fft_r2c"),
    "real Fourier of both": (lambda x: torch.fft.rfft2(x).real, "fft_r2c"),
    "Fourier of both": (lambda x: torch.fft.fft2(x).real, "fft_c2c"),
    "diagonal of samples": (lambda x: x[:, :3].diagonal(), "diagonal"),
    "samples cut off by padding": (lambda x: F.pad(x, (0, 0, 1, -1)), "constant_pad_nd"),
    "a sample set by its index": (set_listed, "index_put"),
    "a sample set by a mask": (set_masked, "index_put"),
    "every sample set by a mask": (set_in_all, None),
    "take": (lambda x: x.take(torch.arange(6)).expand(len(x), 6), "take"),
    "masked scatter": (lambda x: x.masked_scatter(torch.tensor([True, False] * 3), x), "masked_s"),
    "as_strided": (lambda x: x.as_strided((len(x), 6), (1, 1)), "as_strided"),
    "addbmm": (lambda x: x.addbmm(x[:, :, None], torch.ones(len(x), 1, 6).double()), "addbmm"),
    "numbers for each sample": (lambda x: x + torch.randn(x.shape, dtype=x.dtype), "add"),
    "a mask for each sample": (lambda x: x.masked_fill(torch.rand(x.shape) > 0.5, 0.0), "masked_f"),
    "positions in parts of samples": (by_position, None),
    "permute of nothing": (lambda x: x.permute(-2, -1), None),
    "permute of samples": (lambda x: x.permute(-1, -2), "permute"),
    "an operator of another library": (lambda x: torch.ops.tests.tomorrow(x), "tomorrow"),  # noqa: PLW0108 made below
}


@torch.library.custom_op("tests::tomorrow", mutates_args=())
def tomorrow(x: Tensor) -> Tensor:
    return x.clone()


@pytest.mark.parametrize(("part", "refused"), PASSES.values(), ids=PASSES)
def test_paths_have_the_same_counts_together_as_alone_or_are_refused(part, refused):
    first, last = mlp(4, 6, 6).double(), mlp(6, 9, 5).double()

    def network(x):
        return last(part(first(x)))

    paths = torch.randn(3, 2, 4, dtype=torch.float64)
    if refused:
        with pytest.raises(ValueError, match=rf"^site '{refused}.* no exact regions: .*Transit"):
            pieces(network, paths)
        return
    alone = [pieces(network, path[None]).transitions().item() for path in paths]
    assert pieces(network, paths).transitions().tolist() == alone
