"""Capture: the user's module as a function of one tensor.

The network is the user's module, or a part or a function of it that they name. Its input comes from
the first call of the module in its own step (see `recorder.py`): all floating-point tensors among
the arguments that have a row for each sample, joined. The other arguments are held fixed. If no
argument is floating-point, the input is the output of the first embedding of the tokens.

The output is flattened to `(n, k)`. Of several outputs the first floating-point tensor `(n, ...)`
is taken. The whole call is evaluated, but measures look only at what this output depends on, not
at a loss, for instance, that the call computes as well.
"""

from difflib import get_close_matches
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_effcx.network.calls import Call, call_of_part
from lightning_effcx.network.description import describe_network
from lightning_effcx.network.embeddings import find_embedding
from lightning_effcx.network.independence import compare_samples, first_line
from lightning_effcx.network.inputs import ChooseNetwork
from lightning_effcx.network.naming import argument_name, join_words
from lightning_effcx.network.nested import Place, describe
from lightning_effcx.network.observe import Network
from lightning_effcx.network.outputs import ChooseOutput, find_output
from lightning_effcx.network.state.unrestorable import UnrestorableError
from lightning_effcx.network.views import CallView, FunctionView, View, matrix

_SHOWN = 12  # names of parts in a message, the most similar ones


class Captured(NamedTuple):
    """A captured network.

    Attributes:
        network: Maps the input to the outputs.
        x: The input, `(n, ...)`.
        outputs: The outputs there, `(n, k)`.
        words: What the network, its input and its outputs are, in one line.
    """

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
    """Return the network that the user means, as a function of one tensor.

    Args:
        module: The user's module. Enter `observing` before.
        call: The arguments with which the module, or a part of it, was called.
        choice: The user's `network=`: the name of a part that is called within that call, or a
            function of the module and `x` that returns the outputs.
        output: The user's `output=`: the name or index of the output, where there are several.
    """
    path = choice if isinstance(choice, str) else call.part
    part = _find_part(module, path)
    for tensor in call.of_samples().values():
        _check_real(tensor)
    call, view, x, raw = _evaluate(module, part, call, choice)
    view = view.changed(place=find_output(raw, len(x), output))
    outputs = view.matrix(raw)
    compare_samples(view, x)
    words = describe_network(module, path, call, view, x, raw)
    alone = isinstance(view, CallView) and view.inputs and call.is_of_one_argument()
    if alone and not view.writes and isinstance(raw, Tensor) and raw.dim() == 2:  # noqa: PLR2004 a matrix
        return Captured(part, x, outputs, words)  # no view is needed
    return Captured(view, x, outputs, words)


def _evaluate(
    module: nn.Module, part: nn.Module, call: Call, choice: ChooseNetwork | None
) -> tuple[Call, View, Tensor, Any]:
    """Return the call of the part, its view, its input, and everything that it returns."""
    try:
        if isinstance(choice, str) and call.part != choice:
            call = _inner_call(module, call, choice)
        return call, *_evaluate_once(part, call, choice)
    except NotImplementedError as error:
        raise ValueError(
            f"no network was found: {type(part).__name__} has no forward, or an unfinished one, "
            "and no call of an only child with parameters was seen: name the part to measure with "
            "network='...'"
        ) from error
    except (UnrestorableError, _UnclearInputError):
        raise
    except Exception as error:
        shapes = ", ".join(describe(t) for t in call.tensors().values())
        origin = f"{call.origin}: " if call.origin else ""
        taken = f"; {call.why}" if call.why else ""
        raise ValueError(
            f"the network cannot be evaluated at {origin}{shapes} ({first_line(error)}){taken}"
        ) from error


def _evaluate_once(
    part: nn.Module, call: Call, choice: ChooseNetwork | None, *, writes: bool = False
) -> tuple[View, Tensor, Any]:
    """Return the view of the part, its input, and everything that it returns."""
    own = call.copied()
    view: View
    if callable(choice):
        x = next(iter(own.of_samples().values())).to(_precision(part))
        view = FunctionView(part, choice, writes=writes)
    else:
        found, x = _view_of_call(part, own)
        view = found.changed(writes=writes)
    given = (x, *own.tensors().values())
    versions = [tensor._version for tensor in given]  # noqa: SLF001
    raw = view.all_outputs(x)
    if not writes and versions != [tensor._version for tensor in given]:  # noqa: SLF001
        return _evaluate_once(part, call, choice, writes=True)
    return view, x, raw


def _find_part(module: nn.Module, path: str) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError:
        names = [name for name, _ in module.named_modules() if name]
        if len(names) > _SHOWN:
            names = get_close_matches(path, names, _SHOWN, 0.0)
        raise ValueError(
            f"network={path!r}: {type(module).__name__} has no such part; it has: {names}"
        ) from None


def _inner_call(module: nn.Module, call: Call, part: str) -> Call:
    """Return the call of a part within a call of the module, with the weights of now."""
    found = call_of_part(_find_part(module, call.part), call.copied(), part)
    if found is None:
        raise LookupError(f"network={part!r} was not called with tensors")
    return found


def _view_of_call(part: nn.Module, call: Call) -> tuple[CallView, Tensor]:
    """Find the inputs in a call. Return the part as a function of them, and their value."""
    tensors = call.of_samples()
    inputs = tuple(place for place, t in tensors.items() if t.is_floating_point() and t.numel())
    if inputs:
        several = [tensors[place].to(_precision(part)) for place in inputs]
        x = several[0] if len(several) == 1 else torch.cat([matrix(t) for t in several], 1)
        view = CallView(part, call, inputs)
    elif (found := find_embedding(part, call)) is not None:
        x = found.x
        view = CallView(part, call, (), embedding=found.embedding, tokens=found.tokens)
    else:  # images of bytes, for instance
        numbers = _place_of_numbers(part, call)
        x = tensors[numbers].to(_precision(part))
        view = CallView(part, call, (numbers,))
    held = [tensors[place] for place in view.held]
    if held and all(torch.equal(t, t[:1].expand_as(t)) for t in held):
        view = view.changed(call=call.rows(slice(1)))  # the same for any number of samples
    return view, x


class _UnclearInputError(ValueError):
    """Several arguments may be the input, or none."""


def _place_of_numbers(part: nn.Module, call: Call) -> Place:
    """Return the place of the only whole numbers that may be an input, such as pixels."""
    full = {place: t for place, t in call.tensors().items() if t.numel() and t.dim()}
    pixels = [place for place, t in full.items() if t.dtype == torch.uint8]
    numbers = [place for place, t in full.items() if t.dtype not in {torch.uint8, torch.bool}]
    found = pixels or numbers or [*full]
    if len(found) > 1 or found[0] not in call.varying:
        shown = join_words([f"`{argument_name(part, call.given, place)}`" for place in full])
        raise _UnclearInputError(
            f"no input was found: among {shown} there is no floating-point tensor with a row for "
            f"each of the {call.total} samples, and no embedding that returns one: choose the "
            "input with batch= and network="
        )
    return found[0]


def _check_real(x: Tensor) -> None:
    if x.is_complex():
        raise ValueError(
            f"the input is {describe(x)}, expected real numbers: return them with batch=, as by "
            "torch.view_as_real, and join them with network=, as by torch.view_as_complex"
        )


def _precision(part: nn.Module) -> torch.dtype:
    """Return the precision of the parameters, which autocast hides during training."""
    own = (p.dtype for p in part.parameters() if p.is_floating_point())
    return next(own, torch.get_default_dtype())
