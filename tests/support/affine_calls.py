"""Calls of every operator that is affine for some arguments: with various dimensions and operands.

Each is a function of `x`, whose samples lie along dimension 0. Not all of them run for every shape
of `x`, and many of them mix samples.
"""

from functools import partial

import torch
from torch import Tensor

aten = torch.ops.aten
DIMS = range(-4, 4)


def const(*shape: int) -> Tensor:
    """The same numbers at every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def alike(x: Tensor, *shape: int) -> Tensor:
    """The same numbers for every sample of `x`, by default as many as it has."""
    return const(1, *(shape or x.shape[1:])).expand(len(x), *(shape or x.shape[1:])).clone()


def chosen(x: Tensor) -> Tensor:
    """The same whole numbers for every sample of `x`."""
    return (alike(x) > 0).long()


def mask(*shape: int) -> Tensor:
    return const(*shape) > 0


def dims(call, *more):
    """Return a call for each dimension."""
    return [partial(call, d=dim) for dim in DIMS] + list(more)


def pairs(call, *more):
    """Return a call for each two dimensions."""
    return [partial(call, d=a, e=b) for a in DIMS for b in DIMS] + list(more)


def unary(*names: str):
    return {name: [lambda x, name=name: operator(name)(x.clone())] for name in names}


def operator(name: str):
    """Return an operator by the name that the table has for it."""
    spellings = [f"{before}{name}{after}" for after in ("", "_") for before in ("", "_")]
    return next(getattr(aten, each) for each in spellings if hasattr(aten, each))


def rows(x: Tensor) -> Tensor:
    """Sums over the last dimension, which has then gone."""
    return x.sum(-1)


def binary(call):
    """Return a call with operands of all sorts of shapes."""
    return [
        lambda x: call(x, x),
        lambda x: call(x, const(4)),
        lambda x: call(const(1), x),
        lambda x: call(x, const(5, 1, 1)),
        lambda x: call(const(3, *x.shape), x),
        lambda x: call(alike(x), x),
        lambda x: call(x, rows(x)),
        lambda x: call(rows(x), x),
        lambda x: call(x, rows(x)[..., None]),
        lambda x: call(x, x[..., :1]),
    ]


def grid(x: Tensor, size: int) -> Tensor:
    return const(1, *[2] * size, size).tanh().expand(len(x), *[-1] * (size + 1))


def batch_norm(name: str):
    def call(x: Tensor) -> Tensor:
        statistics = [torch.ones(x.shape[1], dtype=x.dtype) for _ in range(4)]
        training = [] if name.endswith("no_training") else [False]
        return operator(name)(x, *statistics, *training, 0.1, 1e-5)[0]

    return [call]


def pooled(name: str, rank: int):
    return [lambda x: operator(name)(x, [2] * rank)]


def resized(name: str, rank: int, *more):
    size = [5] * rank
    return [lambda x: operator(name)(x, size, *more)]


CALLS = {
    **unary(*"alias clone conj conj_physical contiguous detach lift_fresh nan_to_num neg".split()),
    **unary(*"neg_view resolve_conj resolve_neg to_copy zero isinf isnan t squeeze".split()),
    **unary(*"ones_like zeros_like rand_like randn_like".split()),
    **{name: binary(getattr(torch, name)) for name in ("add", "sub", "rsub", "mul", "complex")},
    "div": [*binary(torch.div), lambda x: torch.div(x, 2, rounding_mode="floor")],
    "copy": binary(lambda x, y: x.clone().copy_(y)),
    "fill": [lambda x: x.clone().fill_(2.0), lambda x: alike(x).fill_(x.sum())],
    "empty_like": [lambda x: x + torch.empty_like(x).zero_()],
    "masked_fill": [
        lambda x: x.masked_fill(mask(*x.shape[1:]), 0.0),
        lambda x: x.masked_fill(mask(5, 1, 1), 0.0),
        lambda x: x.masked_fill(mask(4), x.sum()),
    ],
    "view_as_real": [lambda x: torch.view_as_real(torch.complex(x, x))],
    "view_as_complex": [
        lambda x: torch.view_as_complex(x[..., :2].clone(memory_format=torch.contiguous_format))
    ],
    "where": binary(partial(torch.where, mask(4))),
    "addcmul": [
        lambda x: torch.addcmul(x, const(4), const(4)),
        lambda x: torch.addcmul(const(4), x, const(1)),
        lambda x: torch.addcmul(x, rows(x), const(4)),
    ],
    "lerp": binary(lambda x, y: torch.lerp(x, y, 0.3)),
    "dropout": [lambda x: aten.dropout(x, 0.5, False)],
    "native_dropout": [lambda x: aten.native_dropout(x, 0.5, False)[0]],
    "reshape": [lambda x: x.reshape(len(x), -1), lambda x: x.mT.reshape(-1)],
    "reshape_alias": [lambda x: aten._reshape_alias(x, [x.numel()], [1])],
    "unsafe_view": [lambda x: aten._unsafe_view(x, [len(x), -1])],
    "view": [
        lambda x: x.view(-1),
        lambda x: x.view(1, -1),
        lambda x: x.view(-1, len(x)),
        lambda x: x.view(-1, 2),
        lambda x: x.view(torch.complex64),
    ],
    **{
        name: [partial(lambda x, d, f: torch.stack([*f(x, 2, d)][:1], -1), d=d, f=f) for d in DIMS]
        for name, f in {
            "chunk": torch.chunk,
            "split": torch.split,
            "unsafe_chunk": torch.unsafe_chunk,
            "unsafe_split": torch.unsafe_split,
        }.items()
    },
    "split_with_sizes": dims(lambda x, d: aten.split_with_sizes(x, [1, x.shape[d] - 1], d)[1]),
    "unbind": dims(lambda x, d: x.unbind(d)[0]),
    "cumsum": dims(lambda x, d: x.cumsum(d)),
    "gather": dims(lambda x, d: x.gather(d, chosen(x)), lambda x: x.gather(-1, chosen(x)[:1])),
    "index_add": dims(lambda x, d: alike(x).index_add(d, torch.arange(x.shape[d]), x)),
    "index_fill": dims(lambda x, d: x.clone().index_fill_(d, torch.tensor([0, -1]), 2.0)),
    "index_copy": dims(lambda x, d: alike(x).index_copy(d, torch.arange(x.shape[d]).flip(0), x)),
    "index_select": dims(lambda x, d: x.index_select(d, torch.tensor([1, 0]))),
    "mean": dims(lambda x, d: x.mean(d), torch.mean, lambda x: x.mean((-1, -2))),
    "sum": dims(lambda x, d: x.sum(d), torch.sum, lambda x: x.sum(()), lambda x: x.sum((0, 1))),
    "narrow": dims(lambda x, d: x.narrow(d, 1, 2)),
    "scatter": dims(
        lambda x, d: alike(x).scatter(d, chosen(x), x),
        lambda x: x.scatter(1, chosen(x), 2.0),
        lambda x: x.scatter(1, chosen(x), x, reduce="multiply"),
    ),
    "scatter_add": dims(lambda x, d: alike(x).scatter_add(d, chosen(x), x)),
    "select": dims(lambda x, d: x.select(d, 1)),
    "select_scatter": dims(lambda x, d: alike(x).select_scatter(x.select(d, 0), d, 1)),
    "slice_scatter": dims(lambda x, d: alike(x).slice_scatter(x.narrow(d, 0, 1), d, 1, 2)),
    "cat": dims(lambda x, d: torch.cat([x, alike(x), x], d)),
    "stack": dims(lambda x, d: torch.stack([x, alike(x), x], d)),
    "unsqueeze": dims(lambda x, d: x.unsqueeze(d)),
    "flip": dims(lambda x, d: x.flip(d), lambda x: x.flip([]), lambda x: x.flip((-1, -2))),
    "rot90": pairs(lambda x, d, e: x.rot90(1, (d, e))),
    "einsum": [
        lambda x: aten.einsum("nd,dk->nk", [x, const(x.shape[-1], 3)]),
        lambda x: aten.einsum("kd,...d->...k", [const(3, x.shape[-1]), x]),
        lambda x: aten.einsum("nab,abk->nak", [x, const(*x.shape[1:], 3)]),
        lambda x: aten.einsum("nab->an", [x]),
        lambda x: aten.einsum("nd->d", [x]),
        lambda x: aten.einsum("nd,nk->nk", [x, alike(x, 3)]),
        lambda x: aten.einsum("nn->n", [x[:, : len(x)]]),
        lambda x: aten.einsum("...d->...", [x[0]]),
        lambda x: aten.einsum("nd,kd", [x, const(3, x.shape[-1])]),
    ],
    "roll": dims(lambda x, d: x.roll(1, d), lambda x: x.roll(1), lambda x: x.roll((1, 1), (1, 0))),
    "unfold": dims(lambda x, d: x.unfold(d, 2, 1)),
    "diagonal": pairs(lambda x, d, e: x.diagonal(0, d, e)),
    "diagonal_scatter": pairs(
        lambda x, d, e: alike(x).diagonal_scatter(x.diagonal(0, d, e), 0, d, e)
    ),
    "diag_embed": pairs(lambda x, d, e: x.diag_embed(0, d, e)),
    "movedim": pairs(lambda x, d, e: x.movedim(d, e)),
    "transpose": pairs(lambda x, d, e: x.transpose(d, e)),
    "fft_c2c": pairs(
        lambda x, d, e: torch.fft.fft2(torch.complex(x, x), dim=(d, e)),
        *dims(lambda x, d: torch.fft.fft(torch.complex(x, x), dim=d)),
    ),
    "fft_r2c": dims(lambda x, d: torch.fft.rfft(x, dim=d)),
    "fft_c2r": dims(lambda x, d: torch.fft.irfft(torch.complex(x, x), dim=d)),
    "permute": [
        lambda x: x.permute(*range(x.dim())),
        lambda x: x.permute(*range(-x.dim(), 0)),
        lambda x: x.permute(-1, *range(x.dim() - 1)),
        lambda x: x.permute(0, *range(-1, -x.dim(), -1)),
    ],
    "expand": [
        lambda x: x[..., :1].expand(*x.shape[:-1], 3),
        lambda x: x.expand(2, *x.shape),
        lambda x: x.expand(len(x), *x.shape),
    ],
    "repeat": [
        lambda x: x.repeat(*[1] * (x.dim() - 1), 2),
        lambda x: x.repeat(2, *[1] * (x.dim() - 1)),
        lambda x: x.repeat(*[1] * x.dim(), 2),
    ],
    "tile": [lambda x: x.tile(2), lambda x: x.tile(*[2] * x.dim()), lambda x: x.tile(1, 1, 2)],
    "slice": [
        lambda x: x[1:],
        lambda x: x[:, 1:],
        lambda x: x[::2],
        lambda x: x[..., 1:3],
        lambda x: aten.slice(x, -2, 0, 2),
        aten.slice,
    ],
    "index": [
        lambda x: x[[1, 0]],
        lambda x: x[:, [1, 0]],
        lambda x: x[:, [1, 0], [0, 1]],
        lambda x: x[:, [1, 0, 0], :, [0, 1, 1]],
        lambda x: x[:, [1, 0, 0]],
        lambda x: x[:, mask(*x.shape[1:])],
        lambda x: x[..., [1, 0]],
        lambda x: x[(alike(x) > 0)],
    ],
    "unsafe_index": [
        lambda x: aten._unsafe_index(x, [None, torch.tensor([1, 0, 1])]),
        lambda x: aten._unsafe_index(x, [torch.arange(len(x)).flip(0)]),
    ],
    "index_put": [
        lambda x: alike(x).index_put((torch.arange(len(x)).flip(0),), x),
        lambda x: aten.index_put(alike(x), [None, torch.tensor([1, 0])], x[:, :2]),
        lambda x: aten.index_put(x, [None, torch.tensor([1, 0])], rows(x)[:2]),
        lambda x: aten.index_put(alike(x, 3), [None, torch.arange(3)], rows(x)),
        lambda x: x.index_put((mask(*x.shape[1:]).expand_as(x),), const()),
        lambda x: x.index_put(((alike(x) > 0),), const(1).expand(int((alike(x) > 0).sum()))),
        lambda x: aten.index_put(x, [None, *[torch.tensor([1, 0])] * (x.dim() - 1)], const(2)),
    ],
    "constant_pad_nd": [
        lambda x, c=c, s=s: aten.constant_pad_nd(x, [0] * (2 * c) + s)
        for c in range(4)
        for s in ([1, 0], [0, 2], [1, 1])
    ],
    **{
        name: [lambda x, f=f, r=r: f(x, [1] * (2 * r))]
        for name, f, r in [
            (f"{kind}_pad{r}d", getattr(aten, f"{kind}_pad{r}d"), r)
            for kind in ("reflection", "replication")
            for r in (1, 2, 3)
        ]
    },
    **{f"adaptive_avg_pool{r}d": pooled(f"adaptive_avg_pool{r}d", r) for r in (1, 2, 3)},
    **{f"avg_pool{r}d": pooled(f"avg_pool{r}d", r) for r in (1, 2, 3)},
    **{
        f"upsample_{kind}": resized(f"upsample_{kind}", r)
        for r in (1, 2, 3)
        for kind in (f"nearest{r}d", f"nearest_exact{r}d")
    },
    **{
        f"upsample_{kind}": resized(f"upsample_{kind}", r, False)
        for kind, r in {
            "linear1d": 1,
            "bilinear2d": 2,
            "bilinear2d_aa": 2,
            "bicubic2d": 2,
            "bicubic2d_aa": 2,
            "trilinear3d": 3,
        }.items()
    },
    "channel_shuffle": [lambda x: torch.channel_shuffle(x, 2)],
    "native_channel_shuffle": [lambda x: torch.native_channel_shuffle(x, 2)],
    "col2im": [
        lambda x: aten.col2im(x[..., :4], [3, 3], [2, 2], [1, 1], [0, 0], [1, 1]),
        lambda x: aten.col2im(x[..., :1], [1, len(x)], [1, len(x)], [1, 1], [0, 0], [1, 1]),
    ],
    "im2col": [lambda x: aten.im2col(x, [2, 2], [1, 1], [0, 0], [1, 1])],
    "pixel_shuffle": [lambda x: torch.pixel_shuffle(x, 1), lambda x: torch.pixel_shuffle(x, 2)],
    "pixel_unshuffle": [lambda x: torch.pixel_unshuffle(x, 2)],
    "tril": [torch.tril, lambda x: x.tril(-1)],
    "triu": [torch.triu, lambda x: x.triu(1)],
    "as_strided": [lambda x: x.as_strided((len(x), 2), (1, 1))],
    "as_strided_scatter": [lambda x: alike(x).as_strided_scatter(x, x.shape, x.stride())],
    "masked_scatter": [lambda x: alike(x).masked_scatter((alike(x) > 0), x)],
    "masked_select": [lambda x: x.masked_select(alike(x) > 0)],
    "put": [lambda x: x.put(torch.tensor([0, 3]), const(2))],
    "resize": [lambda x: x.clone().resize_(len(x), 1)],
    "set": [lambda x: const(2).set_(x.clone())],
    "take": [lambda x: x.take(torch.arange(len(x)).flip(0))],
    "mm": [
        lambda x: x.mm(const(x.shape[1], 3)),
        lambda x: const(3, len(x)).mm(x),
        lambda x: x.mm(x),
    ],
    "mv": [lambda x: x.mv(const(x.shape[1])), lambda x: const(3, len(x)).mv(x)],
    "dot": [lambda x: x.dot(const(len(x)))],
    "bmm": [
        lambda x: x.bmm(alike(x, x.shape[2], 2)),
        lambda x: alike(x, 2, x.shape[1]).bmm(x),
    ],
    "matmul": [
        lambda x, other=other, first=first: aten.matmul(*((other, x) if first else (x, other)))
        for other in (
            const(4),
            const(3),
            const(4, 4),
            const(3, 3),
            const(5, 4, 4),
            const(1, 4, 4),
            const(2, 1, 4, 4),
        )
        for first in (False, True)
    ],
    "linear": [
        lambda x: aten.linear(x, const(3, x.shape[-1])),
        lambda x: aten.linear(const(3, len(x)), x.mT),
        lambda x: aten.linear(alike(x, 4), const(4, 4), x),
    ],
    "convolution": [
        lambda x: torch.conv1d(x, const(2, x.shape[1], 2)),
        lambda x: torch.conv2d(x, const(2, x.shape[1], 2, 2)),
        lambda x: torch.conv_transpose1d(x, const(x.shape[1], 2, 2)),
        lambda x: torch.conv1d(const(3, x.shape[1], 5), x),
    ],
    "addmm": [
        lambda x: torch.addmm(const(2), x, const(x.shape[1], 2)),
        lambda x: torch.addmm(x, x, const(x.shape[1], x.shape[1])),
        lambda x: torch.addmm(rows(x), x, const(x.shape[1], 3)),
        lambda x: torch.addmm(const(4), const(3, len(x)), x),
    ],
    "addmv": [
        lambda x: torch.addmv(x.sum(1), x, const(x.shape[1])),
        lambda x: torch.addmv(const(3), const(3, len(x)), x),
    ],
    "baddbmm": [
        lambda x: torch.baddbmm(const(2), x, alike(x, x.shape[2], 2)),
        lambda x: torch.baddbmm(rows(x), x, alike(x, x.shape[2], x.shape[1])),
        lambda x: torch.baddbmm(x, alike(x, x.shape[1], 2), alike(x, 2, x.shape[2])),
    ],
    "addbmm": [lambda x: torch.addbmm(const(1), x, alike(x, x.shape[2], 2))],
    "grid_sampler_2d": [lambda x: aten.grid_sampler_2d(x, grid(x, 2), 0, 0, False)],
    "grid_sampler_3d": [lambda x: aten.grid_sampler_3d(x, grid(x, 3), 0, 0, False)],
    **{name: batch_norm(name) for name in ("native_batch_norm", "native_batch_norm_legit")},
    "native_batch_norm_legit_no_training": batch_norm("native_batch_norm_legit_no_training"),
    "full_like": [lambda x: x + torch.full_like(x, 2.0)],
    "randint_like": [lambda x: torch.randint_like(x, 3)],
    "new_empty": [lambda x: x + x.new_empty(1).zero_()],
    "new_empty_strided": [lambda x: x + x.new_empty_strided((1,), (1,)).zero_()],
    "new_full": [lambda x: x + x.new_full((1,), 2.0)],
    "new_ones": [lambda x: x + x.new_ones(len(x), 1)],
    "new_zeros": [lambda x: x + x.new_zeros(x.shape)],
    "eq": binary(torch.eq),
    "ne": binary(torch.ne),
    "equal": [lambda x: x * torch.equal(x, x)],
    "local_scalar_dense": [lambda x: x * x[:1].sum().item()],
}
