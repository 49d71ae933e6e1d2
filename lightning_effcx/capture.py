"""Capture: what a LightningModule and its batch are, as a function of one tensor.

The network is the user's module, or the part or the function of it that they name. Its input is
what the module was really called with while its step ran (`calls.py`): all floating-point tensors
among the arguments that have one row for each sample, jointly; the other arguments are held fixed.
Of a call with tokens, which are whole numbers, the input is what the first embedding makes of them.
Where no call was heard, the input is the first floating-point tensor of the batch.

The outputs are flattened to `(n, k)`: of a structure, the first floating-point tensor `(n, ...)`.
All that happens in the call counts as the network's, also a loss that it computes beside these.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from difflib import get_close_matches
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from lightning_effcx.calls import Call, within
from lightning_effcx.observe import Network
from lightning_effcx.standins import SpentError
from lightning_effcx.structures import Place, at, leaves, parts, structure
from lightning_effcx.views import Called, View, at_samples, matrix

ChooseInput: TypeAlias = Callable[[Any], Tensor | tuple[Tensor, Tensor | None]]
ChooseNetwork: TypeAlias = str | Callable[[nn.Module, Tensor], Any]
ChooseOutput: TypeAlias = str | int

# What targets are called in batches whose parts have names.
_TARGETS = ("y", "label", "labels", "target", "targets")
_FIRST: Place = (0, 0)  # of the arguments: the first positional one
_SHOWN = 12  # names of parts: the nearest to that which is not there
_CLOSE = 1e-3  # relative: kernels differ with the number of rows, by less than this


class Captured(NamedTuple):
    """A network, its input `(n, ...)`, and its outputs there, `(n, k)`."""

    network: Network
    x: Tensor
    outputs: Tensor


def heard(
    batch: Any, call: Call | None, choice: ChooseNetwork | None
) -> tuple[Call, Tensor | None]:
    """Return input and target, from a batch and from what the module was called with in its step.

    Args:
        batch: What the step gets.
        call: The call that was heard. A network of the user's own choice is about the batch, and
            where no call was heard there is nothing else: then the first floating-point tensor of
            the batch is the input.
        choice: The part, or the function, that the user chose.
    """
    if call is None or callable(choice):
        found = [x for _, x in leaves(batch) if x.is_floating_point() and x.dim() and len(x)]
        if not found:
            raise ValueError(
                "no input was found: no call with tensors was heard, nor does the "
                "batch have a floating-point tensor (n, ...)"
            )
        call = _of_one(found[0], choice)
    return call, _target(batch, call.total)


def chosen(
    batch: Any, choose: ChooseInput, choice: ChooseNetwork | None
) -> tuple[Call, Tensor | None]:
    """Return input and target as the user's function finds them in a batch."""
    try:
        found: Any = choose(batch)
    except Exception as error:
        raise ValueError(
            f"no input was found: batch=... raised {type(error).__name__}: {error}"
        ) from error
    x, y = found if isinstance(found, (tuple, list)) and len(found) == 2 else (found, None)  # noqa: PLR2004
    if not isinstance(x, Tensor) or not x.dim() or not len(x):
        raise ValueError(
            f"no input was found: batch=... returned {structure(found)}, expected a tensor "
            "(n, ...), or that and the target"
        )
    return _of_one(x, choice), y if _is_target(y, len(x)) else None


def _of_one(x: Tensor, choice: ChooseNetwork | None) -> Call:
    part = choice if isinstance(choice, str) else ""
    return Call(part, ((x,), {}), len(x), len(x), (_FIRST,))


def _target(batch: Any, samples: int) -> Tensor | None:
    """Find the target in a batch: by its name, or else as the second part."""
    inside = parts(batch)
    named = [inside[name] for name in _TARGETS if name in inside]
    second = [] if isinstance(batch, Mapping) else list(inside.values())[1:2]
    return next((y for y in (*named, *second) if _is_target(y, samples)), None)


def _is_target(y: Any, samples: int) -> bool:
    return isinstance(y, Tensor) and bool(y.dim()) and len(y) == samples


def captured(
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
    part = _part(module, choice if isinstance(choice, str) else call.part)
    _check_real(next(iter(call.of_samples().values())))
    try:
        if isinstance(choice, str) and call.part != choice:
            call = _inner(module, call, choice)
        network, x, raw = _evaluated(part, call, choice)
    except NotImplementedError as error:
        raise ValueError(
            f"no network was found: {type(part).__name__} has no forward, or an unfinished one, "
            "and no call of an only child with parameters was heard"
        ) from error
    except SpentError:
        raise
    except Exception as error:
        shapes = ", ".join(structure(t) for t in call.tensors().values())
        raise ValueError(
            f"the network cannot be evaluated at {shapes} ({type(error).__name__}: "
            f"{str(error).strip().partition(chr(10))[0]})"
        ) from error
    network.place = _output(raw, len(x), output)
    outputs = network.matrix(raw)
    _check_apart(network, x, outputs)
    alone = isinstance(network, Called) and network.inputs and call.is_of_one_argument()
    if alone and not network.writes and isinstance(raw, Tensor) and raw.dim() == 2:  # noqa: PLR2004 a matrix
        return Captured(part, x, outputs)  # the module by itself
    return Captured(network, x, outputs)


def _evaluated(
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
        return _evaluated(part, call, choice, writes=True)
    return network, x, raw


def _part(module: nn.Module, name: str) -> nn.Module:
    try:
        return module.get_submodule(name)
    except AttributeError:
        names = [name for name, _ in module.named_modules() if name]
        if len(names) > _SHOWN:
            names = get_close_matches(name, names, _SHOWN, 0.0)
        raise ValueError(
            f"network={name!r}: {type(module).__name__} has no such part; it has: {names}"
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
    first, *_ = tensors
    inputs = tuple(place for place, tensor in tensors.items() if tensor.is_floating_point())
    if first in inputs:
        several = [tensors[place].to(_precision(part)) for place in inputs]
        x = several[0] if len(several) == 1 else torch.cat([matrix(t) for t in several], 1)
        network = Called(part, call, inputs)
    elif (embedded := _embedded(part, call)) is not None:
        name, x = embedded
        network = Called(part, call, (), name)
    else:  # images of bytes, for instance
        x = tensors[first].to(_precision(part))
        network = Called(part, call, (first,))
    held = [tensors[place] for place in network.held]
    if held and all(torch.equal(t, t[:1].expand_as(t)) for t in held):
        network = network.with_call(call.rows(slice(1)), network.embedding)
    return network, x


def _check_real(x: Tensor) -> None:
    if x.is_complex():
        raise ValueError(
            f"the input is {structure(x)}, expected real numbers: return them with batch=, as by "
            "torch.view_as_real, and join them with network=, as by torch.view_as_complex"
        )


def _precision(part: nn.Module) -> torch.dtype:
    """Return the parameters' own precision, which training in mixed precision hides."""
    own = (p.dtype for p in part.parameters() if p.is_floating_point())
    return next(own, torch.get_default_dtype())


def _embedded(part: nn.Module, call: Call) -> tuple[str, Tensor] | None:
    """Find the first embedding of the samples' tokens, by its name, with what it makes of them."""
    found: list[tuple[str, Tensor]] = []

    def listen(name: str) -> Callable[..., None]:
        def hear(_: nn.Module, __: Any, out: Tensor) -> None:
            if len(out) == call.samples:
                found.append((name, out.detach().clone()))

        return hear

    with ExitStack() as stack:
        for name, module in part.named_modules():
            if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
                stack.callback(module.register_forward_hook(listen(name)).remove)
        args, kwargs = call.given
        part(*args, **kwargs)
    return found[0] if found else None


def _output(raw: Any, samples: int, choice: ChooseOutput | None) -> Place:
    """Find the place of the outputs in what the network returned."""
    if isinstance(choice, int) and choice < 0:
        choice += len(parts(raw))
    start: Place = () if choice is None else (choice,)
    if choice is not None and choice not in parts(raw):
        raise ValueError(
            f"output={choice!r}: the network returned {structure(raw)}, which has no such part"
        )
    for place, y in leaves(at(raw, start), start):
        if y.is_floating_point() and y.dim() and len(y) == samples:
            return place
    raise ValueError(
        f"the network returned {structure(raw)} for {samples} samples, expected a floating-point "
        f"tensor ({samples}, ...), or a structure with one"
    )


def _check_apart(network: Network, x: Tensor, outputs: Tensor) -> None:
    """Raise where the outputs for a sample depend on the other samples beside it."""
    half = torch.arange(len(x) // 2, device=x.device)
    if not len(half):
        return
    if _close(at_samples(network, half)(x[half]), outputs[half]):
        return
    if not _close(network(x), outputs):
        raise ValueError(
            "the network's outputs are random: evaluated twice at the same samples, they differ"
        )
    raise ValueError(
        "the network's outputs for a sample change with the other samples in its batch, but the "
        "measures are about functions of one sample"
    )


def _close(a: Tensor, b: Tensor) -> bool:
    scale = float(b.abs().nan_to_num().max()) if b.numel() else 0.0
    return torch.allclose(a, b, rtol=_CLOSE, atol=_CLOSE * scale, equal_nan=True)
