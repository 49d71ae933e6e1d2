"""The description of what is measured, in one line: the network, its input and its output."""

from typing import Any

from torch import Tensor, nn

from lightning_effcx.network.calls import Call
from lightning_effcx.network.naming import argument_name, join_words
from lightning_effcx.network.nested import Place, at, describe
from lightning_effcx.network.outputs import output_name
from lightning_effcx.network.views import CallView, View

_SHOWN = 6  # names of arguments that are held fixed


def describe_network(  # noqa: PLR0913, PLR0917 all that the line is about
    module: nn.Module, path: str, call: Call, network: View, x: Tensor, raw: Any
) -> str:
    """Say what is measured.

    Args:
        module: The user's module.
        path: The dotted name of the part that is measured; empty for the module itself.
        call: The arguments of that part.
        network: The part as a function of its input.
        x: The input.
        raw: Everything that the part returned.

    Returns:
        Such as "`Net` from `x`: float32 (64, 784) to `logits`: (64, 10)".
    """
    kind = type(getattr(module, "_orig_mod", module)).__name__
    subject = f"`{kind}.{path}`" if path else f"`{kind}`"
    if not isinstance(network, CallView):
        subject = f"the function network= of {subject}"
    clauses = [f"{subject} from {_inputs(call, network, x)} to {_outputs(network, raw)}"]
    if call.why:
        clauses.append(call.why)
    if held := _held(call, network):
        clauses.append(f"{held} held fixed")
    return "; ".join(clauses)


def _inputs(call: Call, network: View, x: Tensor) -> str:
    if call.origin or not isinstance(network, CallView):
        place, given = next(iter(call.of_samples().items()))
        origin = call.origin or f"`{argument_name(network, call.given, place)}`"
        return f"{origin}: {describe(given)}"
    if network.inputs:
        tensors = call.tensors()
        return join_words(
            [f"{_name(network, call, p)}: {describe(tensors[p])}" for p in network.inputs]
        )
    if network.tokens is None:
        return f"the output of its embedding `{network.embedding}`: {describe(x)}"
    tokens = _name(network, call, network.tokens)
    return f"{tokens} embedded by `{network.embedding}`: {describe(x)}"


def _outputs(network: View, raw: Any) -> str:
    named = output_name(raw, network.place)
    shape = tuple(at(raw, network.place).shape)
    return f"{f'`{named}`' if named else 'its output'}: {shape}"


def _held(call: Call, network: View) -> str:
    """Name the tensors among the arguments that are held fixed."""
    if not isinstance(network, CallView):
        return ""
    given = {*network.inputs, network.tokens}
    held = [place for place, t in call.tensors().items() if t.numel() and place not in given]
    words = [_name(network, call, place) for place in held[:_SHOWN]]
    if len(held) > _SHOWN:
        words.append(f"{len(held) - _SHOWN} more")
    return join_words(words) if words else ""


def _name(network: CallView, call: Call, place: Place) -> str:
    return f"`{argument_name(network, call.given, place)}`"
