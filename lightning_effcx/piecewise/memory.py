"""Memory: tensors that share it, such as a tensor and its views, and how they get more rows.

The rows of a tensor lie in its memory one after the other, each in a block of equal size. A view
takes the same part of each block. So with more rows, in another memory, the view has the same
strides and the same offset as before.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def sharing(tensor: Tensor, others: Iterable[Any]) -> list[Tensor]:
    """Return the tensor itself and those of the others that share its memory."""
    memory = tensor.untyped_storage().data_ptr()
    found = [t for t in others if t.numel() and t.untyped_storage().data_ptr() == memory]
    return [tensor, *(t for t in found if t is not tensor)]


def fills_its_memory(tensor: Tensor) -> bool:
    """Tell whether nothing else lies in the memory of a tensor."""
    return tensor.nbytes == tensor.untyped_storage().nbytes()


def lies_by_row(tensor: Tensor, rows: int) -> bool:
    """Tell whether each row of a tensor lies in a block of its own, one block after the other."""
    block, rest = divmod(tensor.untyped_storage().nbytes(), rows * tensor.itemsize)
    parts = len(tensor) // rows  # entries of dimension 0 that each row has
    first, *strides = tensor.stride()
    inner = [parts - 1, *(size - 1 for size in tensor.shape[1:])]
    end = tensor.storage_offset() + sum(map(int.__mul__, inner, [first, *strides]))
    return not rest and (rows == 1 or first * parts == block) and end < block


def has_equal_blocks(by_row: Tensor) -> bool:
    """Tell whether all rows of a tensor have the same numbers."""
    return torch.equal(by_row, by_row[:1].expand_as(by_row))


def blocks(tensor: Tensor, rows: int) -> Tensor:
    """Return the whole memory of a tensor, `(rows, b)`."""
    size = tensor.untyped_storage().nbytes() // tensor.itemsize // rows
    return tensor.new_empty(0).set_(tensor.untyped_storage(), 0, (rows, size), (size, 1))


def place(tensor: Tensor, memory: Tensor, source: Tensor, rows: int, now: int) -> Tensor:
    """Let a tensor be the part of some memory with `now` rows that another was of one with `rows`.

    Args:
        tensor: The tensor, which may be the other one.
        memory: A tensor in the new memory.
        source: The other tensor.
        rows: How many rows the old memory has.
        now: How many rows the new memory has.
    """
    size = (len(source) // rows * now, *source.shape[1:])
    storage = memory.untyped_storage()
    return tensor.set_(storage, source.storage_offset(), size, source.stride())
