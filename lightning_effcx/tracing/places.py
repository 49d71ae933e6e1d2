"""Places: where the samples of a batch lie in a tensor.

A network may put its samples along any dimension, such as `(T, n, d)` with the time first. It may
also flatten them together with other dimensions, such as `(T * n, d)`. A length alone does not tell
where they are, since `T` may equal `n`. So each tensor is located by its memory: a *layout* says
which address belongs to which sample. It holds for every view of the memory, such as a transposed,
sliced or reshaped one.
"""

from functools import lru_cache
from typing import NamedTuple, Self

import torch
from torch import Tensor


class SamplePlace(NamedTuple):
    """Where the samples lie in the dimensions of a tensor.

    The dimension has `before * n * after` entries, in the order of `(before, n, after)`. It holds
    only the samples if `before` and `after` are 1.

    Attributes:
        dim: The dimension, counted from the end: -1 is the last one.
        before: How many times all samples lie in it, one time after the other.
        after: How many neighbouring entries each sample has in it.
    """

    dim: int
    before: int = 1
    after: int = 1

    def length(self, n: int) -> int:
        """Return the length of the dimension for `n` samples."""
        return self.before * n * self.after


class _View(NamedTuple):
    """How a tensor lies in its memory, in bytes."""

    shape: torch.Size
    strides: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, tensor: Tensor) -> Self:
        size = tensor.element_size()
        strides = tuple([size * stride for stride in tensor.stride()])
        return cls(tensor.shape, strides, size * int(tensor.storage_offset()))


class MemoryLayout(NamedTuple):
    """Which sample each address of a memory belongs to: `(address - base) // step % n`, in bytes.

    Attributes:
        base: An address at which the first sample begins.
        step: The distance between neighbouring samples.
    """

    base: int
    step: int


def memory_of(tensor: Tensor) -> int:
    """Return the address of a tensor's storage, which a `StorageWeakRef` has as `cdata`."""
    # Every call asks for several, and a weak reference takes five times as long to make.
    return int(tensor.untyped_storage()._cdata)  # noqa: SLF001 torch's own name for the address


def locate(tensor: Tensor, layout: MemoryLayout | None, n: int) -> SamplePlace | None:
    """Return where `n` samples lie in a tensor; `None` if they do not lie in one dimension.

    Args:
        tensor: The tensor, which may be any view.
        layout: The layout of its memory; `None` if it is not known.
        n: How many samples there are.
    """
    return None if layout is None else _locate(_View.of(tensor), layout, n)


def lay_out(tensor: Tensor, place: SamplePlace | None, n: int) -> MemoryLayout | None:
    """Return the layout of a tensor's memory, if `n` samples lie at `place` in it."""
    if place is None or -place.dim > tensor.dim():
        return None
    return _lay_out(_View.of(tensor), place, n)


def by_sample(values: Tensor, place: SamplePlace | None, n: int) -> Tensor | None:
    """Return values as `(n, u)`; `None` if it is not known where the samples lie.

    The values of each sample stay in the order in which they are without the other samples.
    """
    if n == 1:
        return values.reshape(1, -1)
    if place is None:
        return None
    if place == SamplePlace(-values.dim()):
        return values.reshape(n, -1)
    shape, dim = values.shape, values.dim() + place.dim
    parts = values.reshape(*shape[:dim], place.before, n, place.after, *shape[dim + 1 :])
    return parts.movedim(dim + 1, 0).reshape(n, -1)


def separate_samples(x: Tensor) -> Tensor:
    """Return samples `(n, ...)` of which no two share their memory; `x` itself if possible."""
    is_apart = len(x) == 1 or lay_out(x, SamplePlace(-x.dim()), len(x)) is not None
    return x if is_apart else x.contiguous()


def join_samples(units: Tensor, shape: torch.Size, place: SamplePlace | None, n: int) -> Tensor:
    """Put units `(n, u)` back to where `by_sample` took them from, in a tensor of some shape."""
    if n == 1 or place is None or place == SamplePlace(-len(shape)):
        return units.reshape(shape)
    dim = len(shape) + place.dim
    parts = units.reshape(n, *shape[:dim], place.before, place.after, *shape[dim + 1 :])
    return parts.movedim(0, dim + 1).reshape(shape)


def locate_reordered(
    shape: torch.Size, place: SamplePlace, size: torch.Size, n: int
) -> SamplePlace | None:
    """Return the place in a tensor of another size that has the same numbers in the same order."""
    step = place.after * shape[len(shape) + place.dim + 1 :].numel()
    strides = tuple(size[dim + 1 :].numel() for dim in range(len(size)))
    return _locate(_View(size, strides, 0), MemoryLayout(0, step), n)


@lru_cache(maxsize=2**14)  # a network asks for the same views at every call
def _locate(view: _View, layout: MemoryLayout, n: int) -> SamplePlace | None:
    step = layout.step
    # How far the entries of one sample reach. They must not reach into the next sample.
    reach = (view.offset - layout.base) % (n * step)
    found = None
    for dim, (length, stride) in enumerate(zip(view.shape, view.strides, strict=True)):
        if length == 1 or stride % (n * step) == 0:
            continue  # along it the sample stays the same
        if stride * (length - 1) < step:
            reach += stride * (length - 1)
            continue
        if found is not None:
            return None
        found = dim, length, stride
    if found is None:
        return None
    dim, length, stride = found
    after = max(1, step // stride)
    before = length // (n * after)
    is_whole = after * stride == step and before * n * after == length and reach < stride
    return SamplePlace(dim - len(view.shape), before, after) if is_whole else None


@lru_cache(maxsize=2**14)
def _lay_out(view: _View, place: SamplePlace, n: int) -> MemoryLayout | None:
    step = view.strides[place.dim] * place.after
    if step == 0:
        return None  # all samples share their memory
    start = view.offset % (n * step)
    # The tensor may be a slice within each sample, which begins behind the start of the memory.
    layouts = (MemoryLayout(start - start % step, step), MemoryLayout(start, step))
    return next((each for each in layouts if _locate(view, each, n) == place), None)
