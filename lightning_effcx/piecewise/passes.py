"""Passes: run a network at the dispatcher, and follow each tensor that depends on its input.

Affine operations run as they are, at the latest rows of their operands. What happens at a
nonlinearity is for subclasses. An operation that is not piecewise linear, or that mixes samples, is
refused if the outputs depend on it. Whether they do is known at the end only. Until then it runs
unfollowed, and so does all that follows from it (`unfollowed.py`).

This mode is not a `Follower`, whose calls run as the network makes them: there it is enough to know
which memory depends on the input. Here rows are inserted while the network runs, so that each
tensor, views among them, has rows of its own, and every call runs on other arguments.
"""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_effcx.network import Network, differentiating, own_precision
from lightning_effcx.piecewise.affine_calls import run_affine
from lightning_effcx.piecewise.failures import Failures, StoppedError
from lightning_effcx.piecewise.followed import Followed
from lightning_effcx.piecewise.python_calls import PythonCalls
from lightning_effcx.piecewise.results import find_result, no_numbers
from lightning_effcx.piecewise.rows import Rows
from lightning_effcx.piecewise.steps import Steps
from lightning_effcx.piecewise.unfollowed import Unfollowed
from lightning_effcx.piecewise.writes import Writes
from lightning_effcx.tracing import (
    Leaving,
    Lineage,
    Operation,
    OperatorCall,
    RefusedError,
    SiteNames,
    check_continuous,
    choose_refusal,
    deciding,
    jumping,
    keeps_samples_apart,
    losing_digits,
    mixing,
    nonlinearity,
    operator_of,
    returns_views,
    tensors,
    writing,
)


class Pass(TorchDispatchMode, ABC):
    """One pass of a network over rows, which may be refined on the way.

    Args:
        rows: The rows.
        x: The inputs there, in the precision of the pass.
        idle: Sites that the outputs are known not to depend on.

    Attributes:
        rows: The rows as they are refined.
        followed: The tensors that depend on `x`, and at which rows each of them is.
        steps: The tensors among them that jump at rows, such as comparisons.
        needed: After the pass, the sites that the outputs depend on, among other origins.
        output: After the pass, which of the tensors that the network returned are the outputs.
    """

    def __init__(self, rows: Rows, x: Tensor, idle: frozenset[str] = frozenset()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows = Rows(rows.path, rows.position)
        with torch.inference_mode(False):  # else the network could not write in place
            self.x = x.clone()
        self.names = SiteNames()
        self.followed = Followed(self.rows, self.x)
        self.idle = idle
        self.needed: frozenset[Any] = frozenset()
        self.output = 0
        self.lineage = Lineage()
        self.lineage.add(frozenset({"input"}), self.x)
        self._writes = Writes(self.followed)
        self.steps = Steps(self.followed, self._writes)
        self._unfollowed = Unfollowed(self.followed, self.lineage)
        self._failures = Failures(self.followed, x)
        self._refused = self._failures.refused
        self._raised: Exception | None = None  # by the pass itself, not by an operator
        self._origins: frozenset[Any] = frozenset()  # of what runs now

    def run(self, network: Network) -> Tensor:
        """Pass all rows through the network; return its outputs at the rows of the end."""
        self._network = network
        try:
            with (
                torch.no_grad(),
                differentiating(),
                self.names,
                self._python_calls(),
                Leaving(self._read_by_network),
                self,
            ):
                y = network(self.x)
        except (RefusedError, StoppedError):
            raise
        except Exception as error:
            # TorchScript makes a RuntimeError of every error.
            reason = self._raised or self._failures.explain(error, network)
            if reason is error:
                raise
            raise reason from error
        finally:
            self._raised = None  # whose traceback holds on to the tensors of this pass
        self.output, output = find_result(y, self.followed, self.lineage)
        return self._outputs(output)

    def _python_calls(self) -> PythonCalls:
        return PythonCalls(
            self._unfollowed,
            self._writes,
            self._failures,
            self.__torch_dispatch__,
            self.names,
        )

    def _outputs(self, output: Tensor) -> Tensor:
        """Return the outputs at the last rows; raise the error of a site that they depend on."""
        self.needed = self.lineage.needed(output)
        refused = [refusal for refusal in self._refused if refusal in self.needed]
        if refused:
            raise choose_refusal(refused)
        self.steps.check(output)
        if not self.followed.depends(output):
            raise no_numbers(output)
        y = self.rows.bring(output, self.followed.versions[output])
        return torch.view_as_real(y.resolve_conj()) if y.is_complex() else y

    # -- for subclasses

    @abstractmethod
    def _bend(self, call: OperatorCall, name: str) -> Tensor:
        """Run units with kinks on all rows, and return their outputs. It may insert rows."""

    @abstractmethod
    def _split(self, call: OperatorCall, name: str) -> tuple[Tensor, Tensor]:
        """Run a comparison on all rows. It may insert rows.

        Return what it is on the left and on the right of each row.
        """

    @abstractmethod
    def _choose(self, call: OperatorCall, name: str) -> Any:
        """Run a maximum on all rows, and return its outputs. It may insert rows."""

    def _enter(self, name: str) -> None:
        """Prepare for the nonlinearity of this site."""

    def _leave(self, name: str, values: Tensor) -> None:
        """Take note of what the nonlinearity of this site returned."""

    def _read(self, call: OperatorCall) -> Operation:
        """Return the operation of a call that is known not to be affine."""
        operation = nonlinearity(call)
        assert operation is not None  # noqa: S101 it was one before its operands were brought here
        return operation

    def _by_row(self, values: Tensor) -> Tensor:
        return values.reshape(len(self.rows.path), -1)

    # -- calls

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        call = OperatorCall(func, args, kwargs or {}, self.followed.depends)
        self._origins = self.lineage.of(args, kwargs)
        if not self._origins and not call.operands:
            return self.followed.constants.run(call)
        try:
            out = self._run(call)
        except (RefusedError, StoppedError) as raised:
            self._raised = raised
            raise
        except Exception:
            self._failures.note(args, kwargs)
            raise
        self.lineage.add_call(call, out, self._origins)
        if self._is_unfollowed():
            self.lineage.add(self._origins, out)  # also of noise that has only the shape of x
        return out

    def _run(self, call: OperatorCall) -> Any:
        """Run a call; follow its result, if that can be."""
        if self._is_unfollowed():
            if operator_of(call.func).makes_constant(call):
                self._origins = frozenset()  # its numbers come from no site
            self._name(call)
        else:
            try:
                return self._follow(call)
            except RefusedError as refusal:
                self._refuse(refusal)
                if self.steps.select(call):  # the network may read how many there are
                    self.lineage.asked |= {refusal}
        out = self._unfollowed.run(call)
        if not any(True for _ in tensors(out)):  # a number, by which the network may decide
            refused = [refusal for refusal in self._refused if refusal in self._origins]
            raise choose_refusal(refused or [deciding(call.name)])
        return out

    def _is_unfollowed(self) -> bool:
        """Tell whether what runs now comes from an idle site, or from what was refused."""
        return not (self._origins.isdisjoint(self.idle) and self._origins.isdisjoint(self._refused))

    def _refuse(self, refusal: RefusedError) -> None:
        self._refused.append(refusal)
        self._origins |= {refusal}

    def _follow(self, call: OperatorCall) -> Any:
        operands = list(tensors(call.args, call.kwargs))
        if any(operand in self.followed.indices for operand in operands):
            return self._rearrange_indices(call)
        if any(map(self._unfollowed.is_lost, operands)):
            raise deciding(call.name)
        if not call.operands:
            return call.run()
        self._check_digits(call)
        if call.outs():
            return self._follow_outs(call)
        call = self._writes.adopt_written(call)
        call = self.followed.one_row_for_all(call)
        if self.steps.are_in(call):
            return self.steps.run(call)
        operator = operator_of(call.func)
        if operator.decides(call):
            raise deciding(call.name)
        if operator.affine(call):
            return run_affine(call, self._writes)
        return self._run_site(call)

    def _run_site(self, call: OperatorCall) -> Any:
        """Run a nonlinear call; follow its result."""
        brought = self.followed.bring_call(call.beside(), self.rows.version)
        operation = self._read(brought)
        name = self.names.name(operation.name)
        self._origins |= {name}
        if name in self.idle:
            return self._unfollowed.run(call)
        check_continuous(name, operation)
        if not keeps_samples_apart(call):
            raise mixing(name)
        if operation.is_flat and call.is_in_place():
            raise jumping(name, operation.name)
        self._enter(name)
        if operation.is_flat:
            left, right = self._split(call, name)
            return self.steps.start(operation, name, left, right, self.rows.version)
        run = self._choose if operation.choice else self._bend
        out = self._writes.put(call, run(brought, name), name, self.rows.version)
        self._leave(name, out if isinstance(out, Tensor) else out[0])
        return out

    def _made(self, call: OperatorCall, out: Any) -> list[Tensor]:
        """Return the followed tensors whose numbers a call computed, which rounding may change."""
        if returns_views(call.func) and call.overwritten() is None:
            return []
        followed = filter(self.followed.depends, tensors(out))
        return [tensor for tensor in followed if not self.steps.have(tensor)]

    def _check_digits(self, call: OperatorCall) -> None:
        """Refuse a call that rounds its result to fewer digits than the network itself has.

        The pass keeps its own precision, so it would take the rounding for the identity.
        """
        dtype = call.type_made()
        if dtype is None or operator_of(call.func).is_fresh:
            return
        if all(map(self.steps.have, call.operands)):
            return  # truth values are whole numbers
        eps = torch.finfo(dtype).eps
        if eps > torch.finfo(self.x.dtype).eps:
            own = own_precision(self._network)
            if eps > torch.finfo(own).eps:
                raise losing_digits(call.name, dtype, own)

    def _follow_outs(self, call: OperatorCall) -> Any:
        """Run a call that was given a place for its result, such as `out`."""
        made = self._follow(call.beside())
        if self._is_unfollowed():
            return self._unfollowed.run(call)
        if self.steps.have(made, call.outs()):
            raise writing(call.name)
        return self._writes.write_outs(call, made)

    def _rearrange_indices(self, call: OperatorCall) -> Any:
        """Run a call on indices that a choice returned; refuse it if it computes with them."""
        out = None if call.operands else call.run()
        made = list(tensors(out))
        if not made or any(tensor.is_floating_point() for tensor in made):
            raise deciding(call.name)
        self.followed.indices.update(dict.fromkeys(made, True))
        return out

    def _name(self, call: OperatorCall) -> None:
        """Name a nonlinearity that is not followed as it would be named if it were."""
        call = replace(call, depends=self._unfollowed.depends)
        operation = nonlinearity(call) if call.operands else None
        if operation is None:
            return
        name = self.names.name(operation.name)
        self._origins |= {name}
        try:
            check_continuous(name, operation)
        except RefusedError as refusal:
            self._refuse(refusal)

    # -- what happens above the dispatcher

    def _read_by_network(self, argument: Any, reader: str) -> None:
        """Note that the network itself reads numbers, so that nobody can follow them."""
        if any(map(self.followed.depends, tensors(argument))):
            refusal = deciding(reader)
            self._refused.append(refusal)
            self.lineage.asked |= {refusal}
        self.lineage.read(argument, reader)
