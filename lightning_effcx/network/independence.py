"""Independence: a test at run time that the outputs for a sample depend on this sample alone.

Every measure needs a function of one sample. A network may mix the samples of a batch in a way
that no measure can see: it divides by the batch size, or subtracts the mean of the batch. So a few
samples are evaluated together, and then each of them without the others.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lightning_effcx.network.nested import Place, at, describe, leaves
from lightning_effcx.network.observe import (
    Network,
    differentiating,
    keeping_random_states,
    observing,
    owner_of,
)
from lightning_effcx.network.outputs import find_output, say_random
from lightning_effcx.network.precision import is_close, to_own
from lightning_effcx.network.state.keeping import is_kept, keeping_state, state_of
from lightning_effcx.network.state.unrestorable import UnrestorableError
from lightning_effcx.network.views import FunctionView, View, matrix, select_samples

_TOGETHER = 3  # samples that are evaluated in one batch

_checked: "WeakKeyDictionary[Any, dict[Any, int]]" = WeakKeyDictionary()
"""For each network: how many samples were compared, by the kind of call and the shape of inputs."""


def check_samples_independent(network: Network, x: Tensor) -> None:
    """Raise if the output for a sample depends on the other samples of its batch, or on chance.

    The network is evaluated in eval mode, and everything is restored. At most nine rows are
    evaluated, in four calls. The same network is not checked again at inputs of the same shape. A
    function that is made anew for each call is another network each time.

    Args:
        network: The network.
        x: The samples.
    """
    if _known(network).get(_kind(network, x), 0) >= min(len(x), _TOGETHER):
        return
    # Metrics raise this error themselves. Functions may be given such a network.
    with suppress(UnrestorableError), _observing_all(network, x.device):
        compare_samples(network, x)


def compare_samples(network: Network, x: Tensor) -> None:
    """Check as `check_samples_independent` does, each time. Enter `observing` before."""
    index = torch.linspace(0, len(x) - 1, _TOGETHER).long()
    some = x[index]
    if len(x) == 1:  # a sample beside itself is alone, so one is the other way round
        some = torch.cat([some[:1].flip([*range(1, x.dim())]), some[1:]])
    raw, some = _evaluate_some(network, x, index, some)
    place = _find_place(network, raw, len(index))
    outputs = matrix(at(raw, place))
    for i, sample, output in zip(index, some, outputs, strict=True):
        # Alone, but twice: many networks drop the dimension of a batch of one.
        alone = _evaluate_alone(network, i.repeat(2), torch.stack([sample] * 2), place, len(x))
        if not is_close(alone, torch.stack([output] * 2), x=some):
            again = _evaluate(network, index, some)
            if not is_close(matrix(at(again, place)), outputs, x=some):
                raise ValueError(say_random(place, raw, again, some))
            raise ValueError(
                "the network's outputs for a sample change with the other samples in its batch, "
                "but measures need a function of one sample: choose such a part with network="
            )
    _known(network)[_kind(network, x)] = min(len(x), _TOGETHER)


def first_line(error: Exception) -> str:
    """Return the type of an error and the first line of its message."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _known(network: Network) -> dict[Any, int]:
    """Return what was checked for a network, or an empty dictionary if nobody can remember it."""
    module = network._orig_mod if isinstance(network, View) else owner_of(network)  # noqa: SLF001 ours
    try:
        return _checked.setdefault(network if module is None else module, {})
    except TypeError:  # it has no hash, or takes no weak references
        return {}


def _kind(network: Network, x: Tensor) -> tuple[Any, ...]:
    """Return what is to be checked anew for the same module: another method, or other inputs."""
    call = type(network) if isinstance(network, FunctionView) else getattr(network, "__name__", "")
    return call, x.shape[1:], x.dtype


@contextmanager
def _observing_all(network: Network, device: torch.device) -> Iterator[None]:
    """Observe a network. Of a function, observe the modules that it uses, as far as is known."""
    with ExitStack() as stack:
        stack.enter_context(keeping_random_states([device]))
        # A network that is observed already is in eval mode, and whole on every process. Observing
        # it once more would wait for the other processes, which may do something else.
        if not is_kept(network):
            stack.enter_context(observing(network))
            if owner_of(network) is None and state_of(network).modules:
                stack.enter_context(keeping_state(network))
        stack.enter_context(torch.no_grad())
        stack.enter_context(differentiating())
        yield


def _evaluate(network: Network, index: Tensor, x: Tensor) -> Any:
    """Return everything that the network returns for some samples, given their indices."""
    chosen = select_samples(network, index)
    return chosen.all_outputs(x) if isinstance(chosen, View) else chosen(x)


def _evaluate_some(network: Network, x: Tensor, index: Tensor, some: Tensor) -> tuple[Any, Tensor]:
    """Evaluate the network at some of the samples, in their precision or else in its own.

    Exact measures take samples of any precision.
    """
    with suppress(Exception):
        return _evaluate(network, index, some), some
    if some.is_floating_point():
        some = to_own(network, some)
    try:
        return _evaluate(network, index, some), some
    except Exception as error:
        try:
            _evaluate(network, torch.arange(len(x)), x.to(some.dtype, copy=True))
        except Exception as own:
            raise ValueError(
                f"the network cannot be evaluated at {describe(x)} ({first_line(own)})"
            ) from own
        raise _not_alone(len(index), len(x), error) from error


def _evaluate_alone(network: Network, index: Tensor, x: Tensor, place: Place, of: int) -> Tensor:
    try:
        raw = _evaluate(network, index, x)
        output = at(raw, place)
    except Exception as error:
        raise _not_alone(1, of, error) from error
    if len(output) != len(x):
        find_output(raw, len(x), None)  # raises, as no
    return matrix(output)


def _not_alone(some: int, of: int, error: Exception) -> ValueError:
    others = f"{some} of the {of} samples alone" if some <= of else f"more samples than {of}"
    return ValueError(
        f"the network cannot be evaluated at {others} ({first_line(error)}), but measures need a "
        "function of one sample: choose such a part with network="
    )


def _find_place(network: Network, raw: Any, samples: int) -> Place:
    """Return the place of the output: as the view knows it, else the first with enough rows."""
    if isinstance(network, View):
        return network.place
    try:
        return find_output(raw, samples, None)
    except ValueError:
        for place, output in leaves(raw):  # perhaps whole numbers, such as classes
            if output.numel() and output.dim() and len(output) == samples:
                return place
        raise
