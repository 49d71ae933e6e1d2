"""Capture: what a LightningModule is, as a function of one tensor.

The network is the user's module, or the part or the function of it that they name. Its input is
what the module was really called with while its step ran (`recorder.py`): all floating-point
tensors among the arguments that have one row for each sample, jointly, in whatever order the
arguments stand; the other arguments are held fixed. If there are none, the input is what the first
embedding makes of the tokens, which are whole numbers. Tensors without elements are never an input.

The outputs are flattened to `(n, k)`: of a structure, the first floating-point tensor `(n, ...)`.
The whole call is evaluated, but measures follow only what these outputs depend on, and leave out,
for instance, a loss that the call computes beside them.
"""

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_effcx.network.calls import Call, within
from lightning_effcx.network.description import announced
from lightning_effcx.network.embeddings import embedded
from lightning_effcx.network.inputs import ChooseNetwork
from lightning_effcx.network.naming import join_words, name
from lightning_effcx.network.nested import Place, describe
from lightning_effcx.network.observe import Network
from lightning_effcx.network.outputs import ChooseOutput, check_apart, output_place
from lightning_effcx.network.state.unrestorable import UnrestorableError
from lightning_effcx.network.views import Called, View, matrix

_SHOWN = 12  # names of parts: the nearest to that which is not there


class Captured(NamedTuple):
    """A network, its input `(n, ...)`, its outputs there, `(n, k)`, and what is what, in words."""

    network: Network
    x: Tensor
    outputs: Tensor
    words: str


def capture_network(
    module: nn.Module,
    call: Call,
    choice: ChooseNetwork | None = None,
    output: ChooseOutput | None = None,
) -> Captured:
    """Return the network that the user means, as a function of what it was called with.

    Args:
        module: The user's module; enter `observing` before.
        call: What the module, or a part of it, was called with.
        choice: A part that is called within that call, or a function of the module and `x` that
            returns the outputs, in place of it.
        output: Which of the outputs to take, by name or index, where there are several.
    """
    path = choice if isinstance(choice, str) else call.part
    part = _part(module, path)
    for tensor in call.of_samples().values():
        _check_real(tensor)
    call, network, x, raw = _evaluated(module, part, call, choice)
    network.place = output_place(raw, len(x), output)
    outputs = network.matrix(raw)
    check_apart(network, x, raw)
    words = announced(module, path, call, network, x, raw)
    alone = isinstance(network, Called) and network.inputs and call.is_of_one_argument()
    if alone and not network.writes and isinstance(raw, Tensor) and raw.dim() == 2:  # noqa: PLR2004 a matrix
        return Captured(part, x, outputs, words)  # the module by itself
    return Captured(network, x, outputs, words)


def _evaluated(
    module: nn.Module, part: nn.Module, call: Call, choice: ChooseNetwork | None
) -> tuple[Call, View, Tensor, Any]:
    """Return the call of the part, the network, its input, and all that it returns for it."""
    try:
        if isinstance(choice, str) and call.part != choice:
            call = _inner(module, call, choice)
        return call, *_called_once(part, call, choice)
    except NotImplementedError as error:
        raise ValueError(
            f"no network was found: {type(part).__name__} has no forward, or an unfinished one, "
            "and no call of an only child with parameters was heard"
        ) from error
    except (UnrestorableError, _UnclearError):
        raise
    except Exception as error:
        shapes = ", ".join(describe(t) for t in call.tensors().values())
        why = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        origin = f"{call.origin}: " if call.origin else ""
        taken = f"; {call.why}" if call.why else ""
        raise ValueError(
            f"the network cannot be evaluated at {origin}{shapes} ({why}){taken}"
        ) from error


def _called_once(
    part: nn.Module, call: Call, choice: ChooseNetwork | None, *, writes: bool = False
) -> tuple[View, Tensor, Any]:
    """Return the network, its input, and all that it returns for it."""
    copied = call.copied()
    network: View
    network, x = _viewed(part, copied, choice) if callable(choice) else _called(part, copied)
    network.writes = writes
    given = (x, *copied.tensors().values())
    versions = [tensor._version for tensor in given]  # noqa: SLF001
    raw = network.all_outputs(x)
    if not writes and versions != [tensor._version for tensor in given]:  # noqa: SLF001
        return _called_once(part, call, choice, writes=True)
    return network, x, raw


def _part(module: nn.Module, path: str) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError:
        names = [name for name, _ in module.named_modules() if name]
        if len(names) > _SHOWN:
            names = get_close_matches(path, names, _SHOWN, 0.0)
        raise ValueError(
            f"network={path!r}: {type(module).__name__} has no such part; it has: {names}"
        ) from None


def _inner(module: nn.Module, call: Call, part: str) -> Call:
    """Return what a part is called with within a call of the module, as the weights are now."""
    found = within(_part(module, call.part), call.copied(), part)
    if found is None:
        raise LookupError(f"network={part!r} was not called with tensors")
    return found


def _viewed(
    part: nn.Module, call: Call, function: Callable[[nn.Module, Tensor], Any]
) -> tuple[View, Tensor]:
    x = next(iter(call.of_samples().values()))
    return View(part, function), x.to(_precision(part))


def _called(part: nn.Module, call: Call) -> tuple[Called, Tensor]:
    """Find the inputs in a call, and what the network is as a function of them."""
    tensors = call.of_samples()
    inputs = tuple(place for place, t in tensors.items() if t.is_floating_point() and t.numel())
    if inputs:
        several = [tensors[place].to(_precision(part)) for place in inputs]
        x = several[0] if len(several) == 1 else torch.cat([matrix(t) for t in several], 1)
        network = Called(part, call, inputs)
    elif (found := embedded(part, call)) is not None:
        x = found.x
        network = Called(part, call, (), found.embedding)
        network.tokens = found.tokens
    else:  # images of bytes, for instance
        whole = _whole_numbers(part, call)
        x = tensors[whole].to(_precision(part))
        network = Called(part, call, (whole,))
    held = [tensors[place] for place in network.held]
    if held and all(torch.equal(t, t[:1].expand_as(t)) for t in held):
        network = network.with_call(call.rows(slice(1)), network.embedding)
    return network, x


class _UnclearError(ValueError):
    """There are several things that may be the input, or none."""


def _whole_numbers(part: nn.Module, call: Call) -> Place:
    """Return the place of whole numbers that are taken for numbers: those which alone may be so."""
    full = {place: t for place, t in call.tensors().items() if t.numel() and t.dim()}
    pixels = [place for place, t in full.items() if t.dtype == torch.uint8]
    numbers = [place for place, t in full.items() if t.dtype not in {torch.uint8, torch.bool}]
    found = pixels or numbers or [*full]
    if len(found) > 1 or found[0] not in call.varying:
        shown = join_words([f"`{name(part, call.given, place)}`" for place in full])
        raise _UnclearError(
            f"no input was found: among {shown} there is no floating-point tensor with a row for "
            f"each of the {call.total} samples, and no embedding that returns one"
        )
    return found[0]


def _check_real(x: Tensor) -> None:
    if x.is_complex():
        raise ValueError(
            f"the input is {describe(x)}, expected real numbers: return them with batch=, as by "
            "torch.view_as_real, and join them with network=, as by torch.view_as_complex"
        )


def _precision(part: nn.Module) -> torch.dtype:
    """Return the parameters' own precision, which training in mixed precision hides."""
    own = (p.dtype for p in part.parameters() if p.is_floating_point())
    return next(own, torch.get_default_dtype())
