"""The announcement: what the network, its input and its output are, in one line."""

from typing import Any

from torch import Tensor, nn

from lightning_effcx.network.calls import Call
from lightning_effcx.network.naming import join_words, name
from lightning_effcx.network.nested import Place, at, describe
from lightning_effcx.network.outputs import output_name
from lightning_effcx.network.views import Called, View

_SHOWN = 6  # names of arguments that are held fixed


def announced(  # noqa: PLR0913, PLR0917 all that it is about
    module: nn.Module, path: str, call: Call, network: View, x: Tensor, raw: Any
) -> str:
    """Say what is measured.

    Args:
        module: The user's module.
        path: The dotted name of the part that is measured; empty for the module itself.
        call: What that was called with.
        network: The part as a function of its input, with the place of its outputs.
        x: Its input.
        raw: What the part returned.

    Returns:
        Such as "`Net` from `x`: float32 (64, 784) to `logits`: (64, 10)".
    """
    kind = type(getattr(module, "_orig_mod", module)).__name__
    subject = f"`{kind}.{path}`" if path else f"`{kind}`"
    if not isinstance(network, Called):
        subject = f"the function network= of {subject}"
    clauses = [f"{subject} from {_inputs(call, network, x)} to {_outputs(network, raw)}"]
    if call.why:
        clauses.append(call.why)
    if held := _held(call, network):
        clauses.append(f"{held} held fixed")
    return "; ".join(clauses)


def _inputs(call: Call, network: View, x: Tensor) -> str:
    if call.origin or not isinstance(network, Called):
        place, given = next(iter(call.of_samples().items()))
        return f"{call.origin or f'`{name(network, call.given, place)}`'}: {describe(given)}"
    if network.inputs:
        tensors = call.tensors()
        return join_words(
            [f"{_name(network, call, p)}: {describe(tensors[p])}" for p in network.inputs]
        )
    if network.tokens is None:
        return f"what its embedding `{network.embedding}` returns: {describe(x)}"
    tokens = _name(network, call, network.tokens)
    return f"{tokens} embedded by `{network.embedding}`: {describe(x)}"


def _outputs(network: View, raw: Any) -> str:
    named = output_name(raw, network.place)
    shape = tuple(at(raw, network.place).shape)
    return f"{f'`{named}`' if named else 'its output'}: {shape}"


def _held(call: Call, network: View) -> str:
    """Name the tensors beside the input."""
    if not isinstance(network, Called):
        return ""
    given = {*network.inputs, network.tokens}
    held = [place for place, t in call.tensors().items() if t.numel() and place not in given]
    words = [_name(network, call, place) for place in held[:_SHOWN]]
    if len(held) > _SHOWN:
        words.append(f"{len(held) - _SHOWN} more")
    return join_words(words) if words else ""


def _name(network: Called, call: Call, place: Place) -> str:
    return f"`{name(network, call.given, place)}`"
