"""Sample places: follow the samples of a batch through the calls of a network.

Views need no rule, since a layout holds for a whole memory. Every other call makes new memory or
writes into memory. Its result is located by the places in its operands:

* a call on every entry alone keeps the dimension of the samples, counted from the end;
* a call by an index along the dimension of the samples runs on labels (`sample_labels.py`);
* a call that removes, adds or joins dimensions names them in its arguments;
* any other call keeps the dimension if its length stays the same.

If the operands disagree, the call mixes samples. What no rule locates is not known.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from lightning_effcx.tracing.operators import TABLE, OperatorCall, operator_of, tensors
from lightning_effcx.tracing.operators.batch_rules import elementwise
from lightning_effcx.tracing.places import (
    MemoryLayout,
    SamplePlace,
    lay_out,
    locate,
    locate_reordered,
    memory_of,
)
from lightning_effcx.tracing.sample_labels import locate_by_labels


class SamplePlaces:
    """The memory that depends on the input of a network, and where the samples lie in it.

    Views and in-place results share their storage, so both are noted for each storage. A weak
    reference keeps the address of a dead storage from being given to another.

    Args:
        x: The input, `(n, ...)`.

    Attributes:
        n: How many samples there are.
    """

    def __init__(self, x: Tensor) -> None:
        self.n = len(x)
        self._layouts: dict[int, tuple[StorageWeakRef, MemoryLayout | None]] = {}
        if x.is_floating_point() or x.is_complex():
            self._set(x, lay_out(x, SamplePlace(-x.dim()), self.n))

    def depends(self, argument: Any) -> bool:
        """Tell whether an argument has numbers that depend on the input, also in a list."""
        if not isinstance(argument, Tensor):
            return isinstance(argument, (list, tuple)) and any(map(self.depends, argument))
        return memory_of(argument) in self._layouts

    def of(self, tensor: Tensor) -> SamplePlace | None:
        """Return where the samples lie in a tensor; `None` if that is not known."""
        _, layout = self._layouts.get(memory_of(tensor), (None, None))
        return locate(tensor, layout, self.n)

    def of_operand(self, call: OperatorCall, z: Tensor) -> SamplePlace | None:
        """Return where the samples lie in an operand, or in the difference of two operands."""
        # Nothing is noted of a difference, since no call of the network made it.
        return self.of(z) if self.depends(z) else self.of_result(call, z)

    def note(self, call: OperatorCall, out: Any) -> None:
        """Note what a call returned and what it wrote to."""
        # Some operators return nothing, but write. A buffer beside the result is no number of x.
        written = [*tensors(call.written() if out is None else call.overwritten())]
        for tensor in tensors(out, written):
            # What is no number, such as a comparison, is constant between the kinks.
            if not (tensor.is_floating_point() or tensor.is_complex()):
                continue
            is_known = memory_of(tensor) in self._layouts
            if is_known and not written:
                continue  # a view
            place = self.of_result(call, tensor)
            if is_known and place == self.of(tensor):
                continue
            # Where a part of a memory disagrees with the rest, nothing is known of either.
            is_lost = is_known and tensor.nbytes < tensor.untyped_storage().nbytes()
            self._set(tensor, None if is_lost else lay_out(tensor, place, self.n))

    def _set(self, tensor: Tensor, layout: MemoryLayout | None) -> None:
        storage = StorageWeakRef(tensor.untyped_storage())
        self._layouts[storage.cdata] = storage, layout

    def of_result(self, call: OperatorCall, out: Tensor) -> SamplePlace | None:
        """Return where the samples lie in a result of a call, or in what it wrote to."""
        if self.n == 1:
            return None  # everything belongs to the only sample
        if "tensors" in call.given:
            found = {self._in_list(call, out)}
        else:
            found = {self._moved(call, operand, out) for operand in call.operands}
        place = found.pop()
        if found or place is None or -place.dim > out.dim():
            return None
        return place if out.shape[place.dim] == place.length(self.n) else None

    def _moved(self, call: OperatorCall, operand: Tensor, out: Tensor) -> SamplePlace | None:
        """Return where the samples of an operand lie in a result; its length is checked later."""
        place = self.of(operand)
        if place is None or _keeps_entries(call.func):
            return place
        if operator_of(call.func).keeps_order:
            return locate_reordered(operand.shape, place, out.shape, self.n)
        if "groups" in call.given and "weight" in call.given:
            return self._in_groups(call, operand, place, out)
        if _is_along_samples(call, operand, place):
            return locate_by_labels(call, operand, place, out, self.n)
        if "dim" in call.given or "dims" in call.given:
            return _beside_named(call, operand, place, out)
        return _kept(call, operand, place, out)

    def _in_list(self, call: OperatorCall, out: Tensor) -> SamplePlace | None:
        """Return where samples lie after a list of tensors was stacked or concatenated."""
        parts = [part for part in tensors(call.given["tensors"]) if part.numel()]
        found = [self.of(part) for part in parts if call.depends(part)]
        places = [place for place in found if place is not None]
        if not places or len(places) < len(found):
            return None
        (place, *_), named = places, call.given["dim"] % out.dim()
        dim = parts[0].dim() + place.dim
        if out.dim() > parts[0].dim():
            joined = place._replace(dim=place.dim - (named > dim))
        elif named == dim and len(places) == len(parts):
            joined = place._replace(before=sum(each.before for each in places))
            places = [each._replace(before=place.before) for each in places]
        else:
            joined = place
        return joined if len(set(places)) == 1 else None

    def _in_groups(
        self, call: OperatorCall, operand: Tensor, place: SamplePlace, out: Tensor
    ) -> SamplePlace | None:
        """Return where samples lie after a convolution, whose groups may be the samples.

        A kernel of its own for each sample is written as one image, `(1, n * c, h, w)`, with `n`
        groups.
        """
        dim, is_input = operand.dim() + place.dim, operand is call.given["input"]
        if is_input and dim == 0:
            return place
        groups = place.before * self.n
        if dim != int(is_input) or call.given["groups"] % groups:
            return None  # it sums over samples
        return SamplePlace(1 - out.dim(), place.before, out.shape[1] // groups)


def _is_along_samples(call: OperatorCall, operand: Tensor, place: SamplePlace) -> bool:
    """Tell whether a call takes or puts entries by an index along the dimension of the samples."""
    dim = operand.dim() + place.dim
    if "index" in call.given and isinstance(call.given.get("dim"), int):
        return bool(call.given["dim"] % operand.dim() == dim)
    indices = call.given.get("indices")
    if not isinstance(indices, (list, tuple)):  # such as the one tensor of an embedding
        return False
    return len(indices) > dim and indices[dim] is not None


def _beside_named(
    call: OperatorCall, operand: Tensor, place: SamplePlace, out: Tensor
) -> SamplePlace | None:
    """Return where samples lie after a call along dimensions that it names, such as a sum."""
    dims = call.given.get("dim", call.given.get("dims"))
    listed = [dims] if isinstance(dims, int) else dims or range(operand.dim())
    named = {each % operand.dim() for each in listed}
    dim = operand.dim() + place.dim
    if dim in named:
        return None  # it computes across samples
    if out.dim() == operand.dim():
        return place
    return place._replace(dim=place.dim + sum(each > dim for each in named))


def _kept(
    call: OperatorCall, operand: Tensor, place: SamplePlace, out: Tensor
) -> SamplePlace | None:
    """Return where samples lie after a call that keeps their dimension."""
    if "repeats" in call.given:
        return place._replace(before=place.before * call.given["repeats"][place.dim])
    if call.name not in TABLE and not call.depends(next(tensors(call.args))):
        return None  # such as the distances of given points from the samples
    if out.dim() == operand.dim():
        return place
    # Other dimensions come or go, either only after the samples or only before them.
    dim = operand.dim() + place.dim
    found = set()
    if operand.shape[: dim + 1] == out.shape[: dim + 1]:
        found.add(place._replace(dim=dim - out.dim()))
    if -place.dim <= out.dim() and operand.shape[dim:] == out.shape[place.dim :]:
        found.add(place)
    return found.pop() if len(found) == 1 else None


@cache  # every call of a network asks for it
def _keeps_entries(func: Any) -> bool:
    """Tell whether an operator maps every entry alone, or entries in the same places."""
    return torch.Tag.pointwise in func.tags or operator_of(func).samples is elementwise
