"""Rows of the table: what can be said of one of torch's operators."""

from dataclasses import dataclass
from typing import Literal

from lightning_effcx.tracing.operators import batch_rules
from lightning_effcx.tracing.operators.affine_rules import is_pointwise
from lightning_effcx.tracing.operators.calls import OperatorCall, Rule, never


@dataclass(frozen=True)
class Choice:
    """How an operator picks among the elements of its operand.

    Attributes:
        of: Which element it picks: `nothing` if it does not pick, `order` if it picks by rank,
            such as a median or a whole sorted row, and `chance` if it draws windows at random.
        window: The number of last dimensions that a window has; 0 if the operator has no windows.
        is_running: Whether it picks, at each element, among this element and those before it.
        dims: For one call without windows, the dimensions over which it picks; empty means all.
        elements: For one call, the number of elements that it picks from, at most.
    """

    of: Literal["nothing", "maximum", "minimum", "order", "chance"] = "nothing"
    window: int = 0
    is_running: bool = False
    dims: tuple[int, ...] = ()
    elements: int = 0

    def __bool__(self) -> bool:
        return self.of != "nothing"


NO_CHOICE = Choice()


@dataclass(frozen=True)
class Operator:
    """What one of torch's operators does. Where it is a rule, it depends on the arguments.

    Attributes:
        affine: For which calls it is affine in the tensors that depend on the input.
        samples: For which calls it keeps the samples of a batch apart.
        kinks: Where it bends, if it is piecewise linear: each kink is a number, or the name of an
            argument that holds it, with a minus sign if it is the negative.
        choice: How it picks among elements.
        jumps: For which calls it is not continuous, unless it is flat.
        is_flat: Whether its result is constant between its kinks, and jumps there.
        curve: For which calls it maps every entry by the same smooth function.
        decides: For which calls the network can decide by its result what it does, or for which the
            result is drawn by chance. Whatever is affine almost everywhere may do so.
        is_fresh: Whether its result takes only the shape from its operand.
        is_uninitialized: Whether its result is fresh and has no values yet.
        is_sized: Whether its second argument is a size, which begins with the number of samples.
        has_index: Whether its argument `index` has entries for each sample. Torch takes fewer, too.
        is_masked: Whether the size of its result depends on a mask alone.
        casts: Whether it copies its operand to another type.
        unfolds: Whether it takes many times the memory of its operand while it runs.
    """

    affine: Rule = never
    samples: Rule = never
    kinks: tuple[float | str, ...] = ()
    choice: Choice = NO_CHOICE
    jumps: Rule = never
    is_flat: bool = False
    curve: Rule = is_pointwise
    decides: Rule = never
    is_fresh: bool = False
    is_uninitialized: bool = False
    is_sized: bool = False
    has_index: bool = False
    is_masked: bool = False
    casts: bool = False
    unfolds: bool = False

    @property
    def is_elementwise(self) -> bool:
        """Whether it takes entries of its operands in the same places."""
        return self.samples is batch_rules.elementwise

    @property
    def keeps_order(self) -> bool:
        """Whether its result has the numbers of its operand in the same order."""
        return self.samples is batch_rules.in_order

    @property
    def reshapes(self) -> bool:
        """Whether it gives its operand another size, and nothing else."""
        return self.is_sized and self.keeps_order

    def makes_constant(self, call: OperatorCall) -> bool:
        """Tell whether the numbers of a call's result have nothing to do with its operand."""
        return self.is_fresh and not self.decides(call)
