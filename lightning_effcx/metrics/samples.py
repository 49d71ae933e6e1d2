"""Checks of what a measure is given: a network, and samples or paths."""

from typing import Any

from torch import Tensor

from lightning_effcx.network import check_samples_independent, describe


def check_samples(network: Any, x: Any, y: Any = None, *, moves: bool = False) -> None:
    """Refuse anything but a network, samples `(n, ...)` and a target for each sample.

    Args:
        network: The argument that should be the network.
        x: The argument that should be the samples.
        y: The argument that should be their targets; `None` if there are none.
        moves: Whether the measure moves the input, or differentiates by it. Integers do not allow
            this.
    """
    _check_network(network, x)
    _check_tensor("x", x)
    if not x.dim():
        raise ValueError(f"x is {describe(x)}: expected samples of shape (n, ...).")
    if not len(x):
        raise ValueError("x has no samples, expected at least one sample.")
    if not x[:1].numel():
        raise ValueError(f"x is {describe(x)}, so a sample has no entries: expected some.")
    if moves and not x.is_floating_point():
        raise TypeError(
            f"x is {describe(x)}, but this measure moves the input: expected floating-point "
            "samples, such as x.float(), or for tokens the output of their embedding."
        )
    if moves and x.dim() == 1:
        raise ValueError(
            f"x is {describe(x)}: expected samples of shape (n, ...), such as x.unsqueeze(1) if "
            "each sample is one number."
        )
    _check_finite("x", x, "samples")
    if y is not None:
        _check_targets(x, y)
    check_samples_independent(network, x)


def check_paths(network: Any, path: Any) -> None:
    """Refuse anything but a network and floating-point paths `(s, p, ...)`."""
    _check_network(network, path)
    _check_tensor("path", path)
    if path.dim() < 3 or not path.numel() or not path.is_floating_point():  # noqa: PLR2004 (s, p, ...)
        raise ValueError(
            f"path is {describe(path)}: expected one or more floating-point paths, of shape "
            "(s, p, ...), such as paths.segment(a, b, points=2)."
        )
    _check_finite("path", path, "paths")
    check_samples_independent(network, path.flatten(0, 1))


def _check_finite(name: str, given: Tensor, what: str) -> None:
    """Refuse NaN and infinity, of which a network makes numbers that mean nothing."""
    finite = given.isfinite().flatten(1).all(1) if given.dim() > 1 else given.isfinite()
    if not finite.all():
        kind = "NaN" if given.isnan().any() else "infinity"
        raise ValueError(
            f"{name} has {kind} in {int((~finite).sum())} of its {len(given)} {what}, expected "
            f"finite numbers: leave these {what} out."
        )


def _check_network(network: Any, x: Any) -> None:
    if isinstance(network, Tensor) and callable(x):
        raise TypeError(
            f"the network is {describe(network)} and the samples are a {type(x).__name__}: "
            "expected the network first, then the samples."
        )
    if isinstance(network, type):
        raise TypeError(
            f"the network is the class {network.__name__}, expected an instance: "
            f"write {network.__name__}(...)."
        )
    if not callable(network):
        raise TypeError(
            f"the network is {describe(network)}: expected a callable that maps (n, ...) to "
            "(n, k), such as a torch.nn.Module."
        )


def _check_targets(x: Tensor, y: Any) -> None:
    _check_tensor("y", y)
    if not y.dim() or len(y) != len(x):
        raise ValueError(
            f"x is {describe(x)} and y is {describe(y)}: expected a target for each of the "
            f"{len(x)} samples."
        )


def _check_tensor(name: str, given: Any) -> None:
    """Refuse what is not a tensor, and say how to make one of it."""
    if isinstance(given, Tensor):
        return
    kind = type(given).__name__
    if hasattr(given, "to_numpy"):
        way = f": torch.as_tensor({name}.to_numpy()) makes one"
    elif hasattr(given, "__array__"):
        way = f": torch.from_numpy({name}) makes one"
    elif isinstance(given, (list, tuple)):
        are_tensors = given and all(isinstance(part, Tensor) for part in given)
        way = f": torch.{'stack' if are_tensors else 'as_tensor'}({name}) makes one"
    else:
        way = ""
    raise TypeError(f"{name} is of the type {kind}, expected a tensor{way}.")
