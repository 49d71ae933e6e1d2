"""Results: find the outputs in what a network returned to a pass."""

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from lightning_effcx.network import describe
from lightning_effcx.piecewise.followed import Followed
from lightning_effcx.tracing import Lineage, tensors


def find_result(returned: Any, followed: Followed, lineage: Lineage) -> tuple[int, Tensor]:
    """Return the first tensor that depends on the input, and its number among all tensors.

    If there is none, the first constant with equal rows is taken: a network that is constant has
    one region. It is followed from then on.
    """
    made = list(tensors(tree_leaves(returned)))
    for number, tensor in enumerate(made):
        if followed.depends(tensor) or lineage.of(tensor):
            return number, tensor
    for number, tensor in enumerate(made):
        if followed.has_equal_rows(tensor):
            constant = followed.cast(tensor)
            followed.versions[constant] = followed.rows.counts.index(len(constant))
            return number, constant
    raise ValueError(
        "the network returned no tensor that depends on its input, and no constant one with equal "
        "numbers for each sample: return one tensor of shape (n, k), or use Transitions."
    )


def no_numbers(output: Tensor) -> ValueError:
    """Return the error of outputs that are whole numbers, or no numbers at all."""
    return ValueError(
        f"the network returned {describe(output)}, expected floating-point numbers for each "
        "sample, so it has no exact regions: return such numbers, or use Transitions."
    )
