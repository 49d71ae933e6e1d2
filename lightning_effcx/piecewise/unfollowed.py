"""Unfollowed calls: what an exact pass does not follow runs at the rows that the pass started with.

The outputs may not depend on it, such as on a loss beside them. Then nothing has to be known of it
at the rows that are inserted. It runs as in a plain forward pass, so that the network goes on.
"""

from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map

from lightning_effcx.piecewise.affine_calls import cast
from lightning_effcx.piecewise.followed import Followed
from lightning_effcx.tracing import Lineage, OperatorCall, operator_of, returns_views


class Unfollowed:
    """Runs calls at the rows of the start.

    Args:
        followed: The tensors that the pass follows.
        lineage: The lineage of the tensors of the pass.
    """

    def __init__(self, followed: Followed, lineage: Lineage) -> None:
        self.followed = followed
        self.lineage = lineage

    def depends(self, argument: Any) -> bool:
        """Tell whether an argument has numbers that depend on the input, followed or not."""
        if isinstance(argument, (list, tuple)):
            return any(map(self.depends, argument))
        if not isinstance(argument, Tensor) or self.followed.depends(argument):
            return isinstance(argument, Tensor)
        is_number = argument.is_floating_point() or argument.is_complex()
        return is_number and bool(self.lineage.of(argument))

    def is_lost(self, argument: Tensor) -> bool:
        """Tell whether an argument has numbers that depend on the input, but at unknown rows."""
        depends = bool(argument.numel()) and self.depends(argument)
        return depends and not self.followed.depends(argument)

    def run(self, call: OperatorCall) -> Any:
        """Run a call; a tensor that the pass follows is left as it is if the call writes to it."""
        targets = {id(target) for target in call.written()}
        originals: dict[int, Tensor] = {}
        is_view = returns_views(call.func)

        def at_start(argument: Any) -> Any:
            if not isinstance(argument, Tensor):
                return argument
            if not self.followed.depends(argument):
                is_read = argument.is_floating_point() and id(argument) not in targets
                return argument.to(self.followed.dtype) if is_read else argument
            if id(argument) in targets:
                first = self.followed.first(argument).clone()
                originals[id(first)] = argument
                return first
            return self.copy(argument) if is_view else self.followed.first(argument)

        given, named = tree_map(at_start, (call.args, call.kwargs))
        out = self._run(replace(call, args=given, kwargs=named))
        return tree_map(lambda made: originals.get(id(made), made), out)

    def copy_all(self, arguments: Any, origin: Any, *, with_constants: bool = False) -> Any:
        """Return arguments with a copy of each tensor that the pass follows, at the first rows.

        Args:
            arguments: The arguments of a call.
            origin: An origin to add to the origins of each copy.
            with_constants: Whether to cut constants to as many rows, if they may have one for each
                sample, such as labels.
        """
        has_rows = self.followed.has_rows

        def copy(argument: Any) -> Any:
            if self.followed.depends(argument):
                made = self.copy(argument)
            elif with_constants and isinstance(argument, Tensor) and has_rows(argument):
                made = argument[: self.followed.rows.counts[0]].clone()
            else:
                return argument
            self.lineage.add(self.lineage.of(argument) | {origin}, made)
            return made

        return tree_map(copy, arguments)

    def copy(self, tensor: Tensor) -> Tensor:
        """Copy a tensor that the pass follows, at the rows of the start.

        A view of the tensor itself would share its memory, so that it would share its origins.
        """
        copy = self.followed.first(tensor).clone()
        self.lineage.copied(copy, tensor)
        return copy

    def _run(self, call: OperatorCall) -> Any:
        operator, (first, *rest) = operator_of(call.func), call.args or (None,)
        if operator.is_sized:
            size = self.followed.resized(rest[0], 0)  # the rows of the start
            if operator.reshapes and isinstance(size, (list, tuple)):
                return first.reshape(size)
            call = replace(call, args=(first, size, *rest[1:]))
        if operator.makes_constant(call):
            return self.followed.constants.run(call)
        if operator.casts and not operator.decides(call):
            return cast(call, first, self.followed)
        return call.run()
