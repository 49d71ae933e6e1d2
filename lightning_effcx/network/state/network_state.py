"""The state of a network: all that a forward of it may change, as far as it can be known."""

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, NamedTuple

from torch import Tensor, nn

from lightning_effcx.network.state.containers import Container, State
from lightning_effcx.network.state.ownership import is_of_this_package


class StateKind(Enum):
    """What a state is."""

    CONTAINER = auto()
    PARAMETER_NAMES = auto()  # which parameters a module has, by name
    HOOKS = auto()
    PARAMETER_DATA = auto()
    OTHER_DATA = auto()


class Found(NamedTuple):
    """A state, the name under which it was found, and its kind."""

    name: str
    state: State
    kind: StateKind


@dataclass(frozen=True, eq=False)
class NetworkState:
    """All that a forward may change.

    Attributes:
        modules: The network and every module that it reaches, each once.
        states: All that can be read and restored.
        tensors: Every tensor that is held anywhere, by identity.
        unrestorable: Objects that cannot be put back, with their names, by identity.
        seen: Every object that was looked at, by identity. Being held here, none of them is
            deleted, so that no new object gets the identity of an old one.
    """

    modules: list[nn.Module] = field(default_factory=list)
    states: list[Found] = field(default_factory=list)
    tensors: dict[int, Tensor] = field(default_factory=dict)
    unrestorable: dict[int, tuple[str, Any]] = field(default_factory=dict)
    seen: dict[int, Any] = field(default_factory=dict)

    def covers(self, root: Any) -> bool:
        """Return whether this is the state of another network, too.

        It is if it has all modules of that network, apart from wrappers of this package. They must
        also hold the same parameters: sharded parameters are gathered anew by each `observing`.
        """
        if not isinstance(root, nn.Module):
            return id(root) in self.seen
        return all(
            id(part) in self.seen or is_of_this_package(part) for part in root.modules()
        ) and all(id(parameter) in self.tensors for parameter in root.parameters())

    def containers(self) -> list[Container]:
        """Return the containers that may hold tensors."""
        return [
            found.state
            for found in self.states
            if found.kind in {StateKind.CONTAINER, StateKind.PARAMETER_NAMES}
            and isinstance(found.state, Container)
        ]
