"""Precision: a network and its input in float64, on a device that has float64.

MPS devices have no float64. Exact measures need it, so everything that they compute there moves to
the CPU. `device_for` alone decides this; all other code calls `in_precision` and `to_precision`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_effcx.network.observe import Network, owner_of
from lightning_effcx.network.state.containers import Container
from lightning_effcx.network.state.keeping import state_of
from lightning_effcx.network.state.replacing import replacing_tensors

_WITHOUT_FLOAT64 = frozenset({"mps"})  # types of devices
_SINGLE = 1e-5  # what single precision inside of a network, as after x.float(), may cost


def device_for(dtype: torch.dtype, device: torch.device) -> torch.device:
    """Return where to compute: on the device, or on the CPU if the device has no such numbers.

    Example:
        >>> device_for(torch.float64, torch.device("mps"))
        device(type='cpu')
    """
    if dtype == torch.float64 and device.type in _WITHOUT_FLOAT64:
        return torch.device("cpu")
    return device


def to_precision(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor as another type of numbers, where there are such numbers."""
    return tensor.to(device_for(dtype, tensor.device), dtype)


@dataclass(frozen=True, eq=False)
class NetworkInPrecision:
    """A network whose tensors are replaced during each call.

    Attributes:
        original: The network.
        containers: What holds its tensors.
        values: The new value of each tensor, by the tensor's identity.
        own: The precision of the network itself.
    """

    original: Network
    containers: list[Container]
    values: dict[int, Tensor]
    own: torch.dtype

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate the network with the new values."""
        with replacing_tensors(self.containers, self.values):
            return self.original(x)


def in_precision(network: Network, dtype: torch.dtype) -> Network:
    """Return the network with all its floating-point tensors in another precision.

    They are replaced during each call only. If the device has no such precision, all tensors of the
    network are on the CPU during the call, where `x` has to be, too. A callable that is no module
    and no method of one is returned as it is.
    """
    owner = owner_of(network)
    if owner is None:
        return network
    state = state_of(owner)
    values: dict[int, Tensor] = {}
    for key, tensor in state.tensors.items():
        if tensor.is_floating_point():
            values[key] = to_precision(tensor.detach(), dtype)
        elif device_for(dtype, tensor.device) != tensor.device:
            values[key] = tensor.detach().to(device_for(dtype, tensor.device))
    return NetworkInPrecision(network, state.containers(), values, _coarsest(state.tensors))


def own_precision(network: Network) -> torch.dtype:
    """Return the coarsest precision of a network's parameters, or of its other numbers.

    A network without any takes its input as it is, and training is in single precision at least.
    """
    if isinstance(network, NetworkInPrecision):
        return network.own
    return _coarsest(state_of(owner_of(network) or network).tensors)


def to_own(network: Network, x: Tensor) -> Tensor:
    """Return an input in the precision of a network's parameters, and on their device.

    A network whose parameters are not found is taken for one in single precision.
    """
    parameters, others = _floating(state_of(owner_of(network) or network).tensors)
    for own in parameters + others:
        return x.to(own.device, own.dtype)
    return x.to(torch.float32)


def _coarsest(held: Mapping[int, Tensor]) -> torch.dtype:
    parameters, others = _floating(held)
    dtypes = [each.dtype for each in parameters or others]
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float32)


def _floating(held: Mapping[int, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the floating-point parameters among some tensors, and the other such tensors."""
    floating = [each for each in held.values() if each.is_floating_point()]
    parameters: list[Tensor] = [each for each in floating if isinstance(each, nn.Parameter)]
    return parameters, [each for each in floating if not isinstance(each, nn.Parameter)]


def rounding(*dtypes: torch.dtype) -> float:
    """Return how much outputs may differ by rounding alone, relative to the largest output.

    It is about half of the digits of the coarsest precision. Kernels for other numbers of rows
    round differently, and each layer of a network adds to that.

    Example:
        >>> f"{rounding(torch.float64):.0e}, {rounding(torch.float64, torch.float32):.0e}"
        '1e-05, 1e-03'
    """
    return max([_SINGLE, *(3 * torch.finfo(dtype).eps ** 0.5 for dtype in dtypes)])


def is_close(a: Tensor, b: Tensor, *, x: Tensor, size: float = 0.0) -> bool:
    """Return whether outputs are equal but for rounding.

    Args:
        a: The outputs.
        b: The outputs to compare with.
        x: The inputs.
        size: The size of the largest numbers on the way to the outputs, as far as it is known.
    """
    if a.shape != b.shape:
        return False
    a, b = (torch.view_as_real(each) if each.is_complex() else each for each in (a, b))
    dtypes = [each.dtype for each in (a, b, x) if each.is_floating_point()]
    relative = rounding(*dtypes)
    a, b = (to_precision(each, torch.float64) for each in (a, b))  # truth values have no size
    # Outputs may be nothing but rounding, such as the difference of two equal branches.
    eps = max((torch.finfo(dtype).eps for dtype in dtypes), default=0.0)
    least = 16 * eps * max(_largest(x), size)
    apart = max(relative * _largest(b), least)
    return torch.allclose(a, b, rtol=relative, atol=apart, equal_nan=True)


def _largest(numbers: Tensor) -> float:
    finite = numbers[numbers.isfinite()].abs()
    return float(finite.max()) if finite.numel() else 0.0
