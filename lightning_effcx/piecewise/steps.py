"""Steps: what a network makes of comparisons, such as masks.

A comparison jumps where one of its units passes a kink, and is constant elsewhere. What is made of
comparisons alone, such as `(x > 0) & (x < 1)`, is constant between rows, too. A call that combines
such a step with other tensors, such as `x * (x > 0)`, runs twice: with the values of the step on
the left of each row, and with those on the right. If both give the same at every row, the result is
continuous, and it is followed like any other tensor. Otherwise it keeps both sides, because a later
call may close the gap: `x * (x > 1) + (x <= 1)` has two jumps that cancel. A jump that reaches the
outputs, or an operation that is not affine, is refused.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.weak import WeakIdKeyDictionary

from lightning_effcx.piecewise.affine_calls import run_brought
from lightning_effcx.piecewise.followed import Followed
from lightning_effcx.piecewise.sides import Sides, agree
from lightning_effcx.piecewise.writes import Writes
from lightning_effcx.tracing import (
    Operation,
    OperatorCall,
    RefusedError,
    deciding,
    jumping,
    keeps_samples_apart,
    mixing,
    nonlinearity,
    operator_of,
    returns_views,
    tensors,
    writing,
)

_DECIDING = {torch.Tag.data_dependent_output, torch.Tag.nondeterministic_seeded}


class Steps:
    """The tensors of a pass that jump at rows.

    They are followed like others, but only their sides say what they are at the rows.

    Args:
        followed: The tensors that the pass follows.
        writes: The writes to these.

    Attributes:
        were_seen: Whether there were any.
        blocks: How many equal parts the rows have, of which only the first may not jump.
    """

    def __init__(self, followed: Followed, writes: Writes) -> None:
        self.followed = followed
        self.writes = writes
        self.were_seen = False
        self.blocks = 1
        self._sides = WeakIdKeyDictionary()
        self._with_views = WeakIdKeyDictionary()  # those that share their memory with others

    def are_in(self, call: OperatorCall) -> bool:
        """Tell whether a call has steps among its operands."""
        return self.have(call.operands)

    def select(self, call: OperatorCall) -> bool:
        """Tell whether steps decide how many numbers a call returns, such as in `x[x > 0]`."""
        is_dynamic = torch.Tag.dynamic_output_shape in call.func.tags
        return is_dynamic and self.have(call.args[1:], call.kwargs)

    def start(
        self, operation: Operation, site: str, left: Tensor, right: Tensor, version: int
    ) -> Tensor:
        """Register what a comparison returned on the left and on the right of each row."""
        self.were_seen = True
        is_number = right.is_floating_point()
        return self._add(Sides(left, right, version, True, is_number, site, operation.name))

    def have(self, *arguments: Any) -> bool:
        """Tell whether there are steps among some arguments."""
        return self.were_seen and any(tensor in self._sides for tensor in tensors(*arguments))

    def check(self, output: Tensor) -> None:
        """Refuse an output that jumps."""
        if output in self._sides:
            raise self._refusal([output])

    def bytes_per_row(self) -> float:
        """Return how many bytes both sides of all steps in use take at each row."""
        counts = self.followed.rows.counts
        return sum(
            (sides.left.nbytes + sides.right.nbytes) / counts[sides.version]
            for sides in self._sides.values()
        )

    def run(self, call: OperatorCall) -> Any:
        """Run a call that has steps among its operands; register what it returns.

        Raises:
            RefusedError: The result is not continuous, or cannot be known.
        """
        self._check(call)
        made_of = [self._sides[operand] for operand in call.operands if operand in self._sides]
        first = made_of[0]
        known = replace(
            first,
            version=self.followed.rows.version,
            is_flat=self._is_flat(call),
            is_number=any(sides.is_number for sides in made_of),
        )
        brought = self._bring(call, known.version)
        if all(sides.left is sides.right for sides in made_of):
            outs = [self._run(call, brought, 1, known.version)] * 2
        else:
            outs = [self._run(call, brought, side, known.version) for side in (0, 1)]
        target = call.overwritten()
        if target is not None:
            left, right = (out.detach() for out in outs)  # the call returned its own argument
            return self._write(call, target, replace(known, left=left, right=right))
        lefts = tensors(outs[0])

        def register(right: Any) -> Any:
            if not isinstance(right, Tensor):
                return right
            return self._register(call, replace(known, left=next(lefts), right=right))

        out = tree_map(register, outs[1])
        if returns_views(call.func):
            self._with_views.update(dict.fromkeys([*tensors(out), *call.operands], True))
        return out

    # -- what may be done

    def _check(self, call: OperatorCall) -> None:
        """Refuse a call that cannot be followed with steps among its operands."""
        steps = [operand for operand in call.operands if operand in self._sides]
        if self.select(call) or not _DECIDING.isdisjoint(call.func.tags):
            raise deciding(call.name)
        if not keeps_samples_apart(call):
            raise mixing(call.name)
        if self._is_flat(call):
            # The sampled measures count units of such a call, which have no knots here.
            is_counted = any(self._sides[step].is_number for step in steps)
            if is_counted and not all(map(operator_of(call.func).affine, call.one_by_one())):
                raise self._refusal(steps)
            return
        moving = replace(call, depends=self._moves)
        if nonlinearity(moving) is not None:
            raise self._refusal(steps)
        if operator_of(call.func).decides(moving):
            raise deciding(call.name)

    def _is_flat(self, call: OperatorCall) -> bool:
        """Tell whether a call's result is constant between rows."""
        return not any(map(self._moves, call.operands))

    def _moves(self, argument: Any) -> bool:
        """Tell whether an argument depends on the input, and is not constant between rows."""
        if isinstance(argument, (list, tuple)):
            return any(map(self._moves, argument))
        if not self.followed.depends(argument):
            return False
        return argument not in self._sides or not self._sides[argument].is_flat

    def _refusal(self, steps: list[Tensor]) -> RefusedError:
        sides = self._sides[steps[0]]
        return jumping(sides.site, sides.operator)

    # -- both sides

    def _bring(self, call: OperatorCall, version: int) -> OperatorCall:
        """Bring operands to the present rows; a step becomes a pair of its sides."""

        def bring(argument: Any) -> Any:
            if not isinstance(argument, Tensor) or argument not in self._sides:
                return self.followed.bring(argument, version)
            sides = self._sides[argument]
            return _Pair(self.followed.rows.bring_sides(sides.left, sides.right, sides.version))

        args, kwargs = tree_map(bring, (call.args, call.kwargs))
        return replace(call, args=args, kwargs=kwargs)

    def _run(self, call: OperatorCall, brought: OperatorCall, side: int, version: int) -> Any:
        """Run a call with the values on one side."""
        target = call.overwritten()

        def choose(original: Any, argument: Any) -> Any:
            if not self.followed.depends(original):
                return argument
            made = argument.sides[side] if isinstance(argument, _Pair) else argument
            # A new tensor, so that it is forgotten after the call. What is written to is ours.
            made = made.clone() if original is target else made.detach()
            self.followed.versions[made] = version
            return made

        args, kwargs = tree_map(choose, (call.args, call.kwargs), (brought.args, brought.kwargs))
        chosen = replace(call, args=args, kwargs=kwargs)
        return run_brought(chosen, call, self.followed, version)

    # -- results

    def _register(self, call: OperatorCall, sides: Sides) -> Tensor:
        """Follow one tensor that a call returned; return it as the network gets it."""
        out = sides.right
        rows = self.followed.rows
        if not out.numel() or (operator_of(call.func).is_fresh and len(out) != len(rows.path)):
            self.followed.constants.note(out)
            return out
        if not out.dim() or len(out) % len(rows.path):
            raise mixing(call.name)
        if out.is_floating_point():
            left, right = (side.to(self.followed.dtype) for side in (sides.left, out))
            sides = replace(sides, left=left, right=right)
        if sides.is_flat:
            return self._add(sides)
        if not out.is_floating_point():
            raise jumping(sides.site, sides.operator)
        values = agree(sides.left, sides.right, rows, self.blocks)
        if values is None:
            return self._add(sides)
        self.followed.versions[values] = sides.version
        return values

    def _write(self, call: OperatorCall, target: Any, sides: Sides) -> Any:
        """Let a tensor hold what was written to it in place."""
        is_shared = target in self._with_views or self.writes.is_shared(target)
        made = self._register(call, sides)
        if made not in self._sides and target not in self._sides:
            return self.writes.put(call, made, call.name, sides.version)
        if is_shared or not self.followed.depends(target):
            raise writing(call.name)
        target.set_(made)
        self.followed.versions[target] = sides.version
        self._sides.pop(target, None)
        if made in self._sides:
            self._sides[target] = self._sides.pop(made)
        return target

    def _add(self, sides: Sides) -> Tensor:
        values = sides.right.detach()  # another object, which lives only as long as it is used
        self.followed.versions[values] = sides.version
        self._sides[values] = sides
        return values


class _Pair:
    """The sides of a step among arguments, where a tuple would be a list of tensors."""

    def __init__(self, sides: tuple[Tensor, Tensor]) -> None:
        self.sides = sides
