"""Batches: which affine operations move, join or part the samples of a batch."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

# Which argument says along which dimensions an operation works, and its default.
_ALONG: dict[str, tuple[int, Any]] = {
    **dict.fromkeys(("cat", "stack", "unbind"), (1, 0)),
    **dict.fromkeys(("chunk", "split", "split_with_sizes", "unsafe_split"), (2, 0)),
    **dict.fromkeys(("cumsum", "flip", "gather", "index_add", "index_copy"), (1, None)),
    **dict.fromkeys(("index_select", "mean", "scatter", "scatter_add", "select"), (1, None)),
    **dict.fromkeys(("sum", "unfold", "unsqueeze"), (1, None)),
    "roll": (2, None),
}
_WEIGHTED = {"addmm": 2, "addmv": 2, "convolution": 1, "linear": 1, "mm": 1, "mv": 1}
_WHOLE = 2**62  # more rows than there are: the end of a slice that takes all


def mixes_samples(func: Any, args: tuple[Any, ...], depends: Callable[[Any], bool]) -> bool:
    """Tell whether an affine call works across the samples, which are the first dimension."""
    name = func.overloadpacket.__name__.strip("_")
    if name in _WEIGHTED:
        return depends(args[_WEIGHTED[name]])
    if name in _ALONG:
        return _works_along(name, args)
    match name:
        case "t":
            mixes = True
        case "permute":
            mixes = args[1][0] != 0
        case "transpose":
            mixes = 0 in _counted(args[1:3], args[0].dim())
        case "repeat" | "tile":
            mixes = len(args[1]) > args[0].dim() or args[1][0] != 1
        case "expand":
            mixes = len(args[1]) > args[0].dim()
        case "index":
            mixes = args[1][0] is not None
        case "slice":
            mixes = _parts(*args)
        case _:
            mixes = False
    return mixes


def _parts(
    x: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> bool:
    """Tell whether a slice takes a part of the samples."""
    takes_all = not start and (end is None or end >= _WHOLE) and step == 1
    return 0 in _counted([dim], x.dim()) and not takes_all


def _works_along(name: str, args: tuple[Any, ...]) -> bool:
    place, default = _ALONG[name]
    along = args[place] if len(args) > place else default
    if along is None or along == []:
        return True  # over all dimensions
    first = args[0] if isinstance(args[0], Tensor) else args[0][0]
    return 0 in _counted(along, first.dim() + (name in {"stack", "unsqueeze"}))


def _counted(dims: Any, count: int) -> set[int]:
    """Count dimensions from the front."""
    return {dim % count for dim in (dims if isinstance(dims, (list, tuple)) else [dims])}
