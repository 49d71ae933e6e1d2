import pytest
import torch

from lightning_effcx.tracing.batches import mixes_samples

aten = torch.ops.aten
X = torch.randn(3, 4)
IMAGE = torch.randn(3, 4, 5, 5)
W = torch.randn(4, 4)
INDEX = torch.tensor([0, 1])

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
}


def depends(argument):
    return any(argument is t for t in (X, IMAGE))


@pytest.mark.parametrize(
    ("func", "args"), [(c[0], c[1:]) for c in EACH_BY_ITSELF.values()], ids=EACH_BY_ITSELF
)
def test_calls_that_treat_each_sample_by_itself_are_known(func, args):
    assert not mixes_samples(func, args, depends)


@pytest.mark.parametrize(("func", "args"), [(c[0], c[1:]) for c in ACROSS.values()], ids=ACROSS)
def test_calls_across_samples_are_known(func, args):
    assert mixes_samples(func, args, depends)
