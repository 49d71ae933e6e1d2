"""Paths: polylines in input space, of shape `(s, p, ...)`: s paths of p vertices.

Each function draws one kind of path through given points. A metric holds an instance of the class
of the same name, which chooses the points among the samples: equal generators give equal paths.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, get_args, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from typing_extensions import override

from lightning_effcx.options import check_count, check_number, check_word, refusal
from lightning_effcx.targets import classes_of

_CANDIDATES = 16  # pairs to draw for each that is needed, so that most of them share no sample


def segment(
    a: Float[Tensor, "s ..."], b: Float[Tensor, "s ..."], *, points: int
) -> Float[Tensor, "s {points} ..."]:
    """Draw straight segments from `a` to `b`, both included, with `points` equidistant vertices.

    Example:
        >>> segment(torch.zeros(1, 1), torch.ones(1, 1), points=3).flatten()
        tensor([0.0000, 0.5000, 1.0000])
    """
    t = _along(a, points)
    return (1 - t) * a[:, None] + t * b[:, None]


def arc(
    a: Float[Tensor, "s ..."], b: Float[Tensor, "s ..."], *, points: int, turn: float
) -> Float[Tensor, "s {points} ..."]:
    """Draw `cos(τ) a + sin(τ) b` for `τ` from 0 to `2π turn`.

    Raghu et al., "On the Expressive Power of Deep Neural Networks", ICML 2017: the circular
    trajectory between two inputs.

    Args:
        a: Where the arcs start.
        b: Where they are after a quarter turn.
        points: How many equidistant vertices each arc has.
        turn: How far the arcs go: 0.25 ends at `b`, 0.5 at `-a`, and 1 is the whole circle.
    """
    _check_turn(turn)
    tau = 2 * math.pi * turn * _along(a, points)
    return torch.cos(tau) * a[:, None] + torch.sin(tau) * b[:, None]


def ellipse(
    a: Float[Tensor, "s ..."],
    b: Float[Tensor, "s ..."],
    c: Float[Tensor, "s ..."],
    *,
    points: int,
) -> Float[Tensor, "s {points} ..."]:
    """Draw closed ellipses that pass through `a` at 1/6, `b` at 1/2 and `c` at 5/6 of their turn.

    The last vertex is the first one again. Novak et al., "Sensitivity and Generalization in Neural
    Networks", ICLR 2018: the ellipse through three inputs.
    """
    centre, cosine, sine = (a + b + c) / 3, (a + c - 2 * b) / 3, (a - c) / math.sqrt(3)
    tau = 2 * math.pi * _along(a, points)
    return centre[:, None] + torch.cos(tau) * cosine[:, None] + torch.sin(tau) * sine[:, None]


def translation(x: Float[Tensor, "s ..."], *, steps: int = 1) -> Float[Tensor, "s p ..."]:
    """Move images along their last dimension, once around.

    Pixels that leave at one side enter at the other. Between whole shifts the path is straight.
    Novak et al., "Sensitivity and Generalization in Neural Networks", ICLR 2018.

    Args:
        x: Images, `(s, ..., width)`.
        steps: Vertices per pixel, so that there are `p = width * steps + 1` of them.
    """
    check_count("steps", steps)
    width = x.shape[-1]
    shifts = torch.stack([x.roll(shift, -1) for shift in range(width)], 1)  # (s, width, ...)
    t = (torch.arange(steps, dtype=x.dtype, device=x.device) / steps).reshape(
        1, 1, -1, *[1] * (x.dim() - 1)
    )
    between = (1 - t) * shifts[:, :, None] + t * shifts.roll(-1, 1)[:, :, None]
    return torch.cat([between.flatten(1, 2), x[:, None]], 1)


def origin_line(x: Float[Tensor, "s ..."], *, decades: int = 3) -> Float[Tensor, "s p ..."]:
    """Draw the line through the origin and `x`, from `-10^decades x` to `10^decades x`.

    Its `p = 2 decades + 2` vertices are at powers of ten, so that places near the origin are
    resolved as well as places far away. Use it for exact measures; sampled measures need more
    vertices. Hanin and Rolnick, "Complexity of Linear Regions in Deep Networks", ICML 2019, count
    the regions on this line.
    """
    check_count("decades", decades, least=0)
    out = 10.0 ** torch.arange(decades + 1, dtype=x.dtype, device=x.device)
    t = torch.cat([-out.flip(0), out])
    return t.reshape(1, -1, *[1] * (x.dim() - 1)) * x[:, None]


def pairs(
    y: Int[Tensor, " n"], count: int, *, same: bool, generator: Generator | None = None
) -> Int[Tensor, "c 2"]:
    """Pick `count` different pairs of samples, by index. All pairs have the same probability.

    Fewer pairs are returned if there are no more. Pairs are drawn, not listed, so the memory grows
    with the number of samples and of pairs only.

    Args:
        y: The class of each sample.
        count: How many pairs.
        same: Whether the two samples of a pair are of the same class, or of different classes.
        generator: Source of the choice.

    Example:
        >>> pairs(torch.tensor([0, 1, 0]), 5, same=True)
        tensor([[0, 2]])
    """
    check_count("count", count)
    check_generator(generator)
    if len(y) < 2:  # noqa: PLR2004 a pair
        raise ValueError(f"a pair takes two samples, but there is {len(y)}: use more samples.")
    classes, order = y.cpu().sort(stable=True)
    place = torch.arange(len(classes))
    start = torch.searchsorted(classes, classes)  # the first place of each sample's class
    # Each pair belongs to the later of its two places, which has so many partners before it.
    partners = place - start if same else start
    through = partners.cumsum(0)  # the number of pairs up to each place
    total = int(through[-1])
    if not total:
        which = "the same class" if same else "different classes"
        raise ValueError(
            f"no two of the {len(y)} samples are of {which}: use more samples, or between='any'."
        )
    number = _draw_different(total, count, generator)
    later = torch.searchsorted(through, number, right=True)
    earlier = number - (through - partners)[later] + (start[later] if same else 0)
    return order[torch.stack([earlier, later], 1)].sort(1).values


def _draw_different(total: int, count: int, generator: Generator | None) -> Tensor:
    """Draw `count` different numbers below `total`, or all of them, in random order."""
    if total <= 4 * count:
        return torch.randperm(total, generator=generator)[:count]
    drawn = torch.empty(0, dtype=torch.long)
    while len(drawn) < count:
        drawn = torch.cat([drawn, torch.randint(total, (count,), generator=generator)])
        # The first of equal numbers stays. Sorted numbers would favour pairs of early samples.
        order = drawn.argsort(stable=True)
        repeats = torch.nn.functional.pad(drawn[order].diff() == 0, (1, 0))
        drawn = drawn[order[~repeats].sort().values]
    return drawn[:count]


def check_generator(given: Any) -> None:
    """Raise if a value is no generator of random numbers, but a seed, for instance."""
    if not (given is None or isinstance(given, Generator)):
        expected = "a torch.Generator, such as torch.Generator().manual_seed(0)"
        raise refusal(TypeError, "generator", given, expected)


@runtime_checkable
class Paths(Protocol):
    """How a metric draws its paths. Any callable with this signature and a name will do."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the paths in the metric's tag: letters, digits and underscores."""

    # The return type is Any, because LightningCLI takes a callable that returns a class for a way
    # to make an instance of that class.
    @abstractmethod
    def __call__(self, x: Tensor, y: Tensor | None, generator: Generator) -> Any:
        """Draw paths, a tensor `(s, p, ...)`, through the samples `x` with targets `y`."""


def origins(
    paths: Paths, samples: int, y: Tensor | None, generator: Generator
) -> Int[Tensor, " s"]:
    """Return the sample at which each path starts, or the one with the most weight there.

    Paths combine samples linearly, so paths through unit vectors show the weights of the samples.

    Args:
        paths: How the paths are drawn.
        samples: How many samples there are.
        y: Their targets.
        generator: Source of the draws. Its state is restored.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> origins(OriginLine(count=2), 5, None, generator)
        tensor([0, 1])
    """
    state = generator.get_state()
    drawn: Tensor = paths(torch.eye(samples)[:, None], y, generator)
    generator.set_state(state)
    return drawn[:, 0].flatten(1).abs().argmax(1)


Between: TypeAlias = Literal["any", "same", "different"]


class ChosenPaths(Paths):
    """Abstract: paths through samples that are chosen first, some for each path.

    Paths have no sample in common, as far as there are enough samples. Such paths are independent
    if the samples are.
    """

    @abstractmethod
    def choose(self, samples: int, y: Tensor | None, generator: Generator) -> Int[Tensor, "s k"]:
        """Return the samples of each path, by their indices."""

    @abstractmethod
    def join(self, *points: Tensor) -> Tensor:
        """Draw paths through their samples: the first of each path, the second of each, ..."""

    def through(self, x: Tensor, chosen: Int[Tensor, "s k"]) -> Tensor:
        """Draw the paths through the samples that were chosen."""
        return self.join(*(x[index] for index in chosen.T.to(x.device)))

    @override
    def __call__(self, x: Tensor, y: Tensor | None, generator: Generator) -> Tensor:
        return self.through(x, self.choose(len(x), y, generator))


def _disjoint_first(groups: Int[Tensor, "c k"], count: int) -> Int[Tensor, "s k"]:
    """Return `count` groups of samples: first groups that have no sample in common, then others."""
    used: set[int] = set()
    disjoint: list[int] = []
    others: list[int] = []
    for place, group in enumerate(groups.tolist()):
        if used.isdisjoint(group):
            used.update(group)
            disjoint.append(place)
        else:
            others.append(place)
    return groups[(disjoint + others)[:count]]


@dataclass(frozen=True)
class _PathsOfPairs(ChosenPaths):
    """Abstract: paths that each lead from one sample to another.

    Args:
        between: Pairs of `any` two samples, of the `same` class, or of `different` classes.
        count: How many paths. There are fewer if the samples have fewer pairs.
        points: How many vertices each path has.
    """

    between: Between = "any"
    count: int = 32
    points: int = 64
    shape: ClassVar[str]

    def __post_init__(self) -> None:
        check_word("between", self.between, *get_args(Between))
        check_count("count", self.count)
        check_count("points", self.points, least=2)

    @property
    @override
    def name(self) -> str:
        return self.shape if self.between == "any" else f"{self.shape}_{self.between}"

    @override
    def choose(self, samples: int, y: Tensor | None, generator: Generator) -> Tensor:
        if self.between == "any":
            classes, same = torch.arange(samples), False
        else:
            classes, same = classes_of(y), self.between == "same"
        drawn = pairs(classes, _CANDIDATES * self.count, same=same, generator=generator)
        return _disjoint_first(drawn, self.count)


@dataclass(frozen=True)
class Segment(_PathsOfPairs):
    """Segments between pairs of samples.

    Args:
        between: Pairs of `any` two samples, of the `same` class, or of `different` classes.
        count: How many paths. There are fewer if the samples have fewer pairs.
        points: How many vertices each path has.
    """

    shape: ClassVar[str] = "segment"

    @override
    def join(self, *points: Tensor) -> Tensor:
        a, b = points
        return segment(a, b, points=self.points)


@dataclass(frozen=True)
class Arc(_PathsOfPairs):
    """Arcs that start at one sample and reach another after a quarter turn.

    Args:
        between: As in `Segment`.
        count: As in `Segment`.
        points: As in `Segment`.
        turn: As in `arc`.
    """

    turn: float = 0.25
    shape: ClassVar[str] = "arc"

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        _check_turn(self.turn)

    @override
    def join(self, *points: Tensor) -> Tensor:
        a, b = points
        return arc(a, b, points=self.points, turn=self.turn)


@dataclass(frozen=True)
class Ellipse(ChosenPaths):
    """Closed ellipses through three samples.

    Args:
        count: How many paths.
        points: How many vertices each path has. The last is the first again.
    """

    count: int = 32
    points: int = 129
    name: ClassVar[str] = "ellipse"

    def __post_init__(self) -> None:
        check_count("count", self.count)
        check_count("points", self.points, least=4)

    @override
    def choose(self, samples: int, y: Tensor | None, generator: Generator) -> Tensor:
        if samples < 3:  # noqa: PLR2004 a, b and c
            raise ValueError(
                f"an ellipse passes through three samples, but there are {samples}: "
                "use more samples, or Segment()."
            )
        at_once = samples // 3  # so many ellipses of one random order have no sample in common
        orders = torch.rand(-(-self.count // at_once), samples, generator=generator).argsort(1)
        return orders[:, : 3 * at_once].reshape(-1, 3)[: self.count]

    @override
    def join(self, *points: Tensor) -> Tensor:
        a, b, c = points
        return ellipse(a, b, c, points=self.points)


@dataclass(frozen=True)
class Translation(ChosenPaths):
    """Horizontal translations of the first samples, which are images.

    Args:
        count: How many images.
        steps: As in `translation`.
    """

    count: int = 8
    steps: int = 4
    name: ClassVar[str] = "translation"

    def __post_init__(self) -> None:
        check_count("count", self.count)
        check_count("steps", self.steps)

    @override
    def choose(self, samples: int, y: Tensor | None, generator: Generator) -> Tensor:
        return torch.arange(min(self.count, samples))[:, None]

    @override
    def join(self, *points: Tensor) -> Tensor:
        (x,) = points
        if x.dim() < 3:  # noqa: PLR2004 samples, height, width
            raise ValueError(
                f"a translation moves images (n, ..., height, width), got {tuple(x.shape)}: "
                "use Segment() for samples that are vectors."
            )
        return translation(x, steps=self.steps)


@dataclass(frozen=True)
class OriginLine(ChosenPaths):
    """Lines through the origin and each of the first samples.

    Args:
        count: How many lines.
        decades: As in `origin_line`.
    """

    count: int = 32
    decades: int = 3
    name: ClassVar[str] = "origin_line"

    def __post_init__(self) -> None:
        check_count("count", self.count)
        check_count("decades", self.decades, least=0)

    @override
    def choose(self, samples: int, y: Tensor | None, generator: Generator) -> Tensor:
        return torch.arange(min(self.count, samples))[:, None]

    @override
    def join(self, *points: Tensor) -> Tensor:
        (x,) = points
        return origin_line(x, decades=self.decades)


def _along(like: Tensor, points: int) -> Tensor:
    """Return `points` numbers from 0 to 1, of shape `(1, p, 1, ...)`, to broadcast with paths."""
    check_count("points", points)
    t = torch.linspace(0, 1, points, dtype=like.dtype, device=like.device)
    return t.reshape(1, -1, *[1] * (like.dim() - 1))


def _check_turn(turn: float) -> None:
    check_number("turn", turn, math.isfinite, "a number of turns, such as 0.25")
