"""Capture: what a LightningModule and its batch are, as a function of one tensor."""

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor, nn

from lightning_effcx.observe import Network

ChooseInput: TypeAlias = Callable[[Any], Tensor | tuple[Tensor, Tensor | None]]
ChooseNetwork: TypeAlias = str | Callable[[nn.Module, Tensor], Tensor]


class View(nn.Module):
    """A module seen through a function of it and the input, with the module's own parameters.

    Args:
        module: What is looked at.
        function: Maps the module and `x` to the outputs.
    """

    def __init__(self, module: nn.Module, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.module = module
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs for `x`."""
        return self.function(self.module, x)


def network_of(module: nn.Module, choice: ChooseNetwork | None = None) -> Network:
    """Return the network that `module` is, or that part or view of it which `choice` names.

    Args:
        module: The user's module.
        choice: The dotted name of a part, or a function of the module and `x`.
    """
    if choice is None:
        return module
    if isinstance(choice, str):
        try:
            return module.get_submodule(choice)
        except AttributeError:
            parts = [name for name, _ in module.named_modules() if name]
            raise ValueError(
                f"network={choice!r}: {type(module).__name__} has no such part; it has: {parts}."
            ) from None
    return View(module, choice)


def input_and_target(batch: Any, choose: ChooseInput | None = None) -> tuple[Tensor, Tensor | None]:
    """Find the input `(n, ...)` and the target in a batch: a tensor, or a sequence of tensors.

    Args:
        batch: What the validation step gets.
        choose: Maps the batch to the input, or to input and target, where the batch is different.
    """
    chosen = batch if choose is None else choose(batch)
    x, y, *_ = (*chosen, None, None) if isinstance(chosen, (tuple, list)) else (chosen, None)
    if not isinstance(x, Tensor) or not x.is_floating_point() or not x.dim():
        what = "the batch is" if choose is None else "batch=... returned"
        raise ValueError(
            f"no input was found: {what} {structure(chosen)}, expected a floating-point tensor "
            "(n, ...), or a sequence that starts with one. Say what the input is with batch=, such "
            "as ComplexityMonitor(batch=lambda batch: (batch['x'], batch['y']))."
        )
    return x, y if isinstance(y, Tensor) and y.dim() and len(y) == len(x) else None


def structure(batch: Any) -> str:
    """Describe what a batch is made of, in one line.

    Example:
        >>> import torch
        >>> structure({"image": torch.zeros(2, 3), "names": ["a", "b"]})
        "{'image': float32 (2, 3), 'names': [str, str]}"
    """
    match batch:
        case Tensor():
            return f"{str(batch.dtype).removeprefix('torch.')} {tuple(batch.shape)}"
        case dict():
            parts = (f"{key!r}: {structure(value)}" for key, value in batch.items())
            return "{" + ", ".join(parts) + "}"
        case list() | tuple():
            shown = [structure(value) for value in batch[:4]] + ["..."] * (len(batch) > 4)  # noqa: PLR2004
            return "[" + ", ".join(shown) + "]"
        case _:
            return type(batch).__name__
