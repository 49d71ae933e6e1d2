"""Networks whose forward, or whose structure, invites whoever measures them to leave a trace.

Each is a module of users: it maps `(n, 4)` to `(n, 3)`.
"""

import collections
import copy
import itertools
import random
import tempfile
import types
import warnings
from array import array
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from lightning.fabric import Fabric
from networks import mlp
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 as everybody calls it
from torch.nn.utils import parametrizations, parametrize
from torch.utils.data import DataLoader

# --- structures: where parameters are


class Shared(nn.Module):
    """One submodule under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = mlp(4, 6, 6)
        self.net = nn.Sequential(self.encoder, nn.ReLU(), nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def twice() -> nn.Module:
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(4, 3))


class Loss(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


class WithLoss(nn.Module):
    """A loss beside the network holds the network."""

    def __init__(self) -> None:
        super().__init__()
        self.network = mlp(4, 6, 3)
        self.loss = Loss(self.network)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


class Itself(nn.Module):
    """Two parts that hold each other."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = mlp(4, 6, 6), nn.Linear(6, 3)
        self.body.parent = [self]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu())


class Hidden(nn.Module):
    """Modules that are not registered."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(4, 6), nn.Linear(6, 6)]
        self.by_name = {"drop": nn.Dropout(0.5), "norm": nn.BatchNorm1d(6)}
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(self.by_name["norm"](self.by_name["drop"](x)))


class Aliased(nn.Module):
    """Tied parameters, and one more way to them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.weights = [self.first.weight]
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(self.first(x).relu())
        return self.head(F.linear(h, self.weights[0]).relu())


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).T


def parametrized() -> nn.Module:
    layer = nn.Linear(4, 4)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return nn.Sequential(layer, nn.ReLU(), nn.Linear(4, 3))


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings(action="ignore"):  # it is deprecated
        layer = nn.utils.weight_norm(nn.Linear(4, 6))
    return nn.Sequential(layer, nn.ReLU(), nn.Linear(6, 3))


def old_spectral_norm() -> nn.Module:
    layer = nn.utils.spectral_norm(nn.Linear(4, 6))
    return nn.Sequential(layer, nn.ReLU(), nn.Linear(6, 3))


class LowRank(nn.Module):
    """A frozen layer, and what is learned beside it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(2, layer.in_features))
        self.b = nn.Parameter(torch.zeros(layer.out_features, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + x @ self.a.T @ self.b.T


def fabric() -> nn.Module:
    return Fabric(accelerator="cpu").setup_module(mlp(4, 6, 3))


def compiled_in_place() -> nn.Module:
    network = mlp(4, 6, 3)
    network.compile(backend="eager")
    return network


STRUCTURES: dict[str, Callable[[], nn.Module]] = {
    "under two names": Shared,
    "twice in a sequence": twice,
    "held by a loss": WithLoss,
    "parts hold each other": Itself,
    "not registered": Hidden,
    "aliased": Aliased,
    "parametrized": parametrized,
    "weight norm": lambda: nn.Sequential(
        parametrizations.weight_norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 3)
    ),
    "weight norm, old": old_weight_norm,
    "spectral norm": lambda: nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 3)
    ),
    "spectral norm, old": old_spectral_norm,
    "low rank": lambda: nn.Sequential(LowRank(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 3)),
    "fabric": fabric,
    "compiled": lambda: torch.compile(mlp(4, 6, 3), backend="eager"),
    "compiled in place": compiled_in_place,
    "scripted": lambda: torch.jit.script(mlp(4, 6, 3)),
    "a part is scripted": lambda: nn.Sequential(torch.jit.script(mlp(4, 6, 6)), nn.Linear(6, 3)),
}

# --- states: what a forward changes, and what a training then depends on


class Stateful(nn.Module):
    """Changes something at each forward, and in training scales its outputs by what it finds."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp(4, 6, 3)
        self.begin()


class OfClass(Stateful):
    """Counts for all that are of its class."""

    calls = 0
    lengths: list[int] = []  # noqa: RUF012 shared on purpose

    def begin(self) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        type(self).calls += 1
        self.lengths.append(len(x))
        return self.layers(x) * (1 + self.calls % 7 / 10 if self.training else 1)

    def seen(self) -> object:
        return self.calls, list(self.lengths)


class Box:
    """A plain object."""

    made = 0
    boxes: list[int] = []  # noqa: RUF012 shared on purpose

    def __init__(self, value: object = 0) -> None:
        self.value = value

    def __iadd__(self, other: int):
        Box.made += other
        return self


class Slotted:
    __slots__ = ("__private", "value")

    def __init__(self) -> None:
        self.value = 0
        self.__private = 0

    def step(self) -> int:
        self.value += 1
        self.__private += 1
        return self.value + self.__private


class Ids:
    """An iterator of the user's own."""

    def __init__(self) -> None:
        self.value = 0

    def __iter__(self):
        return self

    def __next__(self) -> int:
        self.value += 1
        return self.value


calls = 0
kept_here: list[int] = []
space = types.SimpleNamespace(calls=0)


def count_globally() -> int:
    global calls  # noqa: PLW0603 the subject
    calls += 1
    return calls


def with_default(seen: list[int] = []) -> int:  # noqa: B006 the subject
    seen.append(1)
    return len(seen)


def with_attribute() -> int:
    with_attribute.calls = getattr(with_attribute, "calls", 0) + 1
    return with_attribute.calls


def closure():
    total = 0

    def advance() -> int:
        nonlocal total
        total += 1
        return total

    return advance


def stateful(
    name: str,
    begin: Callable[[], object],
    advance: Callable[[object, nn.Module], float],
    seen: Callable[[object], object] = copy.deepcopy,
) -> Callable[[], nn.Module]:
    """A class of its own, whose attribute `held` is what changes."""

    def forward(self, x):
        value = advance(self.held, self)
        return self.layers(x) * (1 + value % 7 / 10 if self.training else 1)

    def begin_(self) -> None:
        self.held = begin()

    members = {
        "begin": begin_,
        "forward": forward,
        "seen": lambda self: seen(self.held),
    }
    return type(name, (Stateful,), members)


def added(value, _=None) -> float:
    """Write to a tensor in place."""
    value.add_(1)
    return value.item()


def written(value) -> float:
    value.data += 1  # which counts no version
    return value.item()


def appended(value) -> float:
    value.append(len(value))
    return len(value)


def incremented(value, key="value") -> float:
    if isinstance(value, (dict, list, np.ndarray, bytearray, array)):
        value[key] += 1
        return float(value[key])
    setattr(value, key, getattr(value, key) + 1)
    return getattr(value, key)


def of_other_class(held, _) -> float:
    held += 1
    Box.boxes.append(1)
    return Box.made + len(Box.boxes)


def of_globals(_, __) -> float:
    kept_here.append(1)
    space.calls += 1
    return count_globally() + len(kept_here) + space.calls


def seen_globals(_) -> object:
    return calls, list(kept_here), space.calls, Box.made, list(Box.boxes)


def in_hook() -> nn.Module:
    """A hook that counts, in a variable of the function that made it."""
    network, count = mlp(4, 6, 3), closure()

    def scale(module, _, out):
        value = count()
        return out * (1 + value % 7 / 10 if module.training else 1)

    network[0].register_forward_hook(scale)
    network.seen = lambda: count.__closure__[0].cell_contents
    return network


def ahead(iterator) -> list[int]:
    """What comes next, without taking it."""
    return list(itertools.islice(copy.deepcopy(iterator), 3))


def zero() -> Tensor:
    return torch.zeros(())


STATES: dict[str, Callable[[], nn.Module]] = {
    "tensor in a list": stateful("A", lambda: [zero()], lambda h, _: added(h[0])),
    "tensor written through data": stateful("B", lambda: [zero()], lambda h, _: written(h[0])),
    "tensor in a dict": stateful(
        "C", lambda: {"a": {"b": zero()}}, lambda h, _: added(h["a"]["b"])
    ),
    "tensor in a tuple": stateful("D", lambda: (zero(), 1), lambda h, _: added(h[0])),
    "tensor in an object": stateful(
        "E", lambda: Box(zero()), lambda h, _: added(h.value), lambda h: h.value.clone()
    ),
    "array": stateful("F", lambda: np.zeros(2), lambda h, _: incremented(h, 1)),
    "array in an object": stateful(
        "G",
        lambda: Box(np.zeros(2)),
        lambda h, _: incremented(h.value, 0),
        lambda h: h.value.copy(),
    ),
    "bytes": stateful("H", lambda: bytearray(2), lambda h, _: incremented(h, 1)),
    "array of Python's": stateful("I", lambda: array("l", [0]), lambda h, _: incremented(h, 0)),
    "object": stateful("J", Box, lambda h, _: incremented(h), lambda h: h.value),
    "object with slots": stateful(
        "K", Slotted, lambda h, _: h.step(), lambda h: (h.value, h._Slotted__private)
    ),
    "objects in objects": stateful(
        "L", lambda: [Box(Box())], lambda h, _: incremented(h[0].value), lambda h: h[0].value.value
    ),
    "namespace": stateful("M", lambda: types.SimpleNamespace(value=0), lambda h, _: incremented(h)),
    "counter": stateful("N", collections.Counter, lambda h, _: incremented(h, "x")),
    "deque": stateful("O", lambda: collections.deque([1], 5), lambda h, _: appended(h)),
    "set": stateful("P", set, lambda h, _: h.add(len(h)) or len(h)),
    "ordered": stateful(
        "Q",
        lambda: collections.OrderedDict(a=1, b=2),
        lambda h, _: h.move_to_end(next(iter(h))) or h[next(iter(h))],
        list,
    ),
    "default": stateful(
        "R", lambda: collections.defaultdict(int), lambda h, _: incremented(h, "k")
    ),
    "class": OfClass,
    "other class": stateful("T", Box, of_other_class, seen_globals),
    "globals": stateful("U", int, of_globals, seen_globals),
    "default argument": stateful(
        "V", int, lambda _, __: with_default(), lambda _: list(with_default.__defaults__[0])
    ),
    "attribute of a function": stateful(
        "W", int, lambda _, __: with_attribute(), lambda _: dict(vars(with_attribute))
    ),
    "variable of a function": stateful(
        "X", closure, lambda h, _: h(), lambda h: h.__closure__[0].cell_contents
    ),
    "partial": stateful(
        "Y",
        lambda: partial(incremented, {"k": 0}, key="k"),
        lambda h, _: h(),
        lambda h: dict(h.args[0]),
    ),
    "hook": in_hook,
    "generator of torch": stateful(
        "Z",
        torch.Generator,
        lambda h, _: torch.rand((), generator=h).item(),
        lambda h: h.get_state(),
    ),
    "generator of Python": stateful(
        "Aa",
        lambda: random.Random(1),  # noqa: S311 the subject
        lambda h, _: h.random(),
        lambda h: h.getstate(),
    ),
    "generator of numpy": stateful(
        "Ab",
        lambda: np.random.default_rng(1),
        lambda h, _: h.random(),
        lambda h: str(h.bit_generator.state),
    ),
    "random state of numpy": stateful(
        "Ac",
        lambda: np.random.RandomState(1),
        lambda h, _: h.rand(),
        lambda h: str(h.get_state()),
    ),
    "iterator that counts": stateful("Ad", itertools.count, lambda h, _: next(h), repr),
    "iterator of a list": stateful("Ae", lambda: iter([*range(9999)]), lambda h, _: next(h), ahead),
    "iterator in a list": stateful(
        "Af", lambda: [itertools.cycle([1, 2, 3])], lambda h, _: next(h[0]), lambda h: ahead(h[0])
    ),
    "iterator of the user": stateful("Ag", Ids, lambda h, _: next(h), lambda h: h.value),
}


# --- what no forward should do: it is put back, and said


class Teacher(Stateful):
    """Follows its student at every forward, whether it is trained or not."""

    def begin(self) -> None:
        self.teacher = copy.deepcopy(self.layers).requires_grad_(False)

    @torch.no_grad()
    def follow(self) -> None:
        pairs = zip(self.teacher.parameters(), self.layers.parameters(), strict=True)
        for teacher, student in pairs:
            teacher.lerp_(student + 0.1, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        self.follow()
        return self.layers(x) + (0.1 * self.teacher(x) if self.training else 0)


def changing(name: str, change: Callable[[nn.Module], object]) -> Callable[[], nn.Module]:
    """A class whose forward changes its first layer, or itself."""

    def forward(self, x):
        out = self.layers(x)
        change(self)
        return out

    members = {"begin": lambda _: None, "forward": forward}
    return type(name, (Stateful,), members)


def shrink(module: nn.Module) -> None:
    module.layers[0].weight.data *= 0.9


def replace(module: nn.Module) -> None:
    module.layers[0].weight = nn.Parameter(module.layers[0].weight.detach() * 0.9)


def move(module: nn.Module) -> None:
    module.layers[0].weight.data = module.layers[0].weight.data.clone()


def add(module: nn.Module) -> None:
    module.scale = nn.Parameter(torch.ones(3))


def freeze(module: nn.Module) -> None:
    module.layers[0].weight.requires_grad_(False)


def leave_hook(module: nn.Module) -> None:
    module.layers[0].register_forward_hook(lambda *_: None)


FORBIDDEN: dict[str, Callable[[], nn.Module]] = {
    "EMA teacher": Teacher,
    "shrinks a weight": changing("Shrinks", shrink),
    "replaces a weight": changing("Replaces", replace),
    "moves a weight": changing("Moves", move),
    "adds a weight": changing("Adds", add),
    "freezes a weight": changing("Freezes", freeze),
    "leaves a hook": changing("Leaves", leave_hook),
}

# --- what cannot be put back: it is refused


def numbers():
    value = 0
    while True:
        value += 1
        yield value


files = []  # so that Python does not warn that they were never closed


def lines():
    file = tempfile.TemporaryFile("w+")  # noqa: SIM115 it stays open, which is the subject
    file.write("1\n" * 1000)
    file.seek(0)
    files.append(file)
    return file


REFUSED: dict[str, Callable[[], nn.Module]] = {
    "generator": stateful("Ah", numbers, lambda h, _: next(h)),
    "generator in a list": stateful("Ai", lambda: [numbers()], lambda h, _: next(h[0])),
    "file": stateful("Aj", lines, lambda h, _: float(h.readline())),
    "loader": stateful(
        "Ak",
        lambda: iter(DataLoader([torch.ones(()) * i for i in range(99)])),
        lambda h, _: next(h).item(),
    ),
}


def reset() -> None:
    """Set back what is nobody's own, as in a new process."""
    global calls  # noqa: PLW0603 the subject
    calls = space.calls = Box.made = OfClass.calls = 0
    for shared in (kept_here, Box.boxes, OfClass.lengths, with_default.__defaults__[0]):
        shared.clear()
    vars(with_attribute).clear()
