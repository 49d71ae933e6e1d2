"""Verdicts: what the measures say of a network, judged by the certificate."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from certificate import (
    Codes,
    alone,
    check_deviation,
    check_distance,
    check_jacobian,
    check_lengths,
    check_pieces,
    code_of,
    count_changes,
    sites_of,
)
from torch import Tensor

from lightning_effcx.functional import (
    boundary_distance,
    jacobian_norm,
    linear_deviation,
    linear_regions,
    trajectory_length,
    transitions_per_site,
)
from lightning_effcx.piecewise import Pieces, pieces

EXACT = ("regions", "distance", "lengths", "deviation")
"""The measures that are exact."""
BAD = ("wrong", "traceback")
"""The kinds of verdicts that must not be."""


@dataclass(frozen=True)
class Verdict:
    """What one measure said: `equal`, `refused`, `wrong` or `traceback`, and why."""

    measure: str
    kind: str
    why: str = ""


def judge(network, path: Tensor, x: Tensor, **options) -> Iterator[Verdict]:
    """Yield the verdict of each measure of a network; the options are those of `_Judge`."""
    court = _Judge(network, path, x, **options)
    for name in (*EXACT, "jacobian", "transitions"):
        yield _verdict(name, court)


@dataclass
class _Judge:
    """Measures a network, and asks the certificate.

    Attributes:
        plain: The network in float64.
        path: The paths.
        x: The samples.
        measured: The network as it is measured; by default that in float64.
        codes: The codes of one sample; by default those of `certificate.codes_of`.
        directions: In how many directions a ball is searched.
        points: On how many points of each first segment transitions are counted.
    """

    plain: Callable[[Tensor], Tensor]
    path: Tensor
    x: Tensor
    measured: Callable[[Tensor], Tensor] | None = None
    codes: Codes | None = None
    directions: int = 50
    points: int = 9

    def __post_init__(self):
        self.measured = self.measured or self.plain
        self.is_function = is_function_of_samples(self.plain, self.path.flatten(0, 1)[:5])
        self.found: Pieces | None = None

    def regions(self):
        counts = linear_regions(self.measured, self.path)
        self.found = pieces(self.measured, self.path, keep=["output"])
        if counts.tolist() != self.found.regions().tolist():
            yield "linear_regions and pieces differ"
        if self.is_function is False:
            return  # so that any number is wrong
        yield from check_pieces(self.plain, self.path, self.found, self.codes)
        single = [int(linear_regions(self.measured, one[None])) for one in self.path]
        if single != counts.tolist():
            yield f"jointly {counts.tolist()}, alone {single}"

    def distance(self):
        given = boundary_distance(self.measured, self.x)
        if self.is_function is False:
            return
        yield from check_distance(self.plain, self.x, given, self.codes, self.directions)
        single = torch.cat([boundary_distance(self.measured, each[None]) for each in self.x])
        if not torch.allclose(single, given, rtol=1e-6, atol=1e-12):
            yield f"jointly {given.tolist()}, alone {single.tolist()}"

    def lengths(self):
        given = trajectory_length(self.measured, self.path, exact=True)
        if self.found is not None and self.is_function is not False:
            yield from check_lengths(self.plain, self.path, self.found, given)

    def deviation(self):
        given = linear_deviation(self.measured, self.path)
        if self.found is not None and self.is_function is not False:
            yield from check_deviation(self.plain, self.path, self.found, given)

    def jacobian(self):
        given = jacobian_norm(self.plain, self.x)
        if self.is_function is not False:
            yield from check_jacobian(self.plain, self.x, given)

    def transitions(self):
        first, second = self.path[:, 0], self.path[:, 1]
        steps = torch.linspace(0, 1, self.points, dtype=self.path.dtype).tolist()
        dense = torch.stack([torch.lerp(first, second, step) for step in steps], 1)
        given = transitions_per_site(self.plain, dense)
        if self.is_function is False:
            return
        single = [transitions_alone(self.plain, one) for one in dense]
        for site, counts in given.items():
            expected = [by_site.get(site, -1) for by_site in single]
            pairs = zip(expected, counts.tolist(), strict=True)
            if any(count is not None and count != by for count, by in pairs):
                yield f"{site}: {counts.tolist()} transitions [{expected}]"
                return


def is_function_of_samples(network, x: Tensor) -> bool | None:
    """Tell whether a network treats samples independently; None if it returns no matrix of them."""
    try:
        with torch.no_grad():
            joint = network(x.clone())
            twice = network(x.clone())
            first = network(x[:1].clone())
        single = alone(network, x)
    except Exception:  # noqa: BLE001 whatever goes wrong, it is no network
        return None
    if joint.dim() != 2 or len(joint) != len(x) or first.dim() != 2 or len(first) != 1:
        return None
    if joint.shape != single.shape:
        return False
    scale = float(single.abs().nan_to_num(0, 0, 0).max()) if single.numel() else 0.0
    return all(
        torch.allclose(joint, other, rtol=1e-6, atol=1e-9 * scale, equal_nan=True)
        for other in (single, twice)
    )


def transitions_alone(network, points: Tensor) -> dict[str, float | None]:
    """Count the transitions of each site on points, one by one; None where it cannot be told.

    Where a unit lies on its kink, kernels for other numbers of samples may round to another side.
    """
    with torch.no_grad():
        by_point = [sites_of(network, x[None].clone()) for x in points]
    total: dict[str, float | None] = {}
    for name, site in by_point[0].items():
        z = torch.cat([sites[name].z for sites in by_point])
        margin = min(float((z - kink).abs().amin()) for kink in site.kinks or (0.0,))
        if site.choice is not None:
            apart = z.sort(1).values.diff(dim=1)
            margin = float(apart.amin()) if apart.numel() else margin
        codes = [{name: code_of(sites[name])} for sites in by_point]
        count = sum(count_changes(first, second) for first, second in pairwise(codes))
        total[name] = count if margin > 1e-9 * float(z.abs().max()) else None
    return total


def _verdict(name: str, court: _Judge) -> Verdict:
    try:
        complaints = list(getattr(court, name)())
    except (ValueError, TypeError) as error:
        kind = "refused" if is_advice(str(error)) else "traceback"
        return Verdict(name, kind, f"{type(error).__name__}: {error}")
    except Exception as error:  # noqa: BLE001 the subject
        return Verdict(name, "traceback", f"{type(error).__name__}: {error}"[:400])
    if court.is_function is False:
        return Verdict(name, "wrong", "mixes samples or is random, but has a number")
    return Verdict(name, "wrong" if complaints else "equal", "; ".join(complaints)[:400])


def is_advice(message: str) -> bool:
    """Tell whether a message is one sentence in our words, and not one of torch's."""
    return bool(re.fullmatch(r"[^\n]+[:,;] [^\n]+(\.|network=)|[^\n]+, expected [^\n]+", message))
