"""Names of sites: each operation is named by the path of the module that calls it."""

from collections import Counter
from typing import Any, Self

from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook


def without_wrappers(name: str) -> str:
    """Return a dotted name without the wrappers of modules, such as the one of `torch.compile`.

    Example:
        >>> without_wrappers("encoder._orig_mod.0")
        'encoder.0'
    """
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


class SiteNames:
    """Follows which modules are running, while it is open, and names the operations in them.

    Its hooks are global, because those leave the modules themselves alone.
    """

    def __init__(self) -> None:
        self._names: dict[nn.Module, str] = {}
        self._path: list[tuple[str, nn.Module]] = []
        # The ends of the network have these names, so the first such site is `input_2`.
        self._executions: Counter[str] = Counter(input=1, output=1)
        self._given: list[str] = []

    def __enter__(self) -> Self:
        self._handles = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def name(self, operation: str) -> str:
        """Name the next execution: an activation module's path, or its caller's and the operation.

        A name that was given before gets `_2`, `_3`, and so on.
        """
        path, module = self._path[-1] if self._path else ("", None)
        is_activation = type(module).__module__.startswith("torch.nn.") and not list(
            module.children() if module else ()
        )
        stem = path if is_activation and path else f"{path}.{operation}".lstrip(".")
        self._executions[stem] += 1
        self._given.append(stem)
        return stem if self._executions[stem] == 1 else f"{stem}_{self._executions[stem]}"

    def count(self) -> int:
        """Return how many names were given."""
        return len(self._given)

    def take_back(self, count: int) -> None:
        """Forget all names but the first `count`, since what they stand for runs once more."""
        self._executions.subtract(self._given[count:])
        del self._given[count:]

    def _enter(self, module: nn.Module, _: Any) -> None:
        if module not in self._names:  # a root: the network, or a module that a function calls
            for name, part in module.named_modules():
                self._names.setdefault(part, without_wrappers(name))
        self._path.append((self._names[module], module))

    def _leave(self, module: nn.Module, _: Any, __: Any) -> None:
        if self._path and self._path[-1][1] is module:
            self._path.pop()
