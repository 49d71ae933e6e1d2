"""A certificate of exact measures: second ways to find them, from the plain network alone.

The plain network runs in float64, on one sample at a time, so that no mixing of samples and no
inserted rows can mislead it. What each check proves:

- `check_pieces`: Activation regions are convex. If the codes of all units are equal at two points,
  every unit is in one piece between them: by induction over the layers, all pre-activations are
  affine there. So equal codes near both ends of a piece prove that no knot is missed inside; codes
  that differ on both sides of a knot prove that the knot is real. Both together prove the count.
  The codes come from the caller; those of `codes_of` name the kinks as the package does. The other
  check does not: at a dense grid and at interior points of every piece, the outputs of the plain
  network are collinear, and they do not jump at knots. It proves that the outputs bend nowhere
  else, as far as the grid sees.
- `check_distance`: The codes inside the ball are those of its centre along random directions, which
  refutes a distance that is too large; and just behind the nearest of the hyperplanes, which are
  found by differences of the plain network, the codes change, which refutes one that is too small.
- `check_lengths`, `check_deviation`: Between certified knots the values are affine, so sums of
  chords between them, and quadrature between them, are exact.
- `check_jacobian`: Central differences with two steps that agree.

Each check yields one sentence for each thing that is wrong.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from lightning_effcx.piecewise import Pieces
from lightning_effcx.tracing import Site, listen

_SEEN = 1e-7  # of a segment: knots that are nearer to each other are seen together
_SAME = 1e-12  # of a segment: nearer knots count as one
_GRID = 40  # points of each segment
_CLOSE = 1e-6  # relative to the largest output on the path

Codes = Callable[[Tensor], dict[str, Tensor]]
"""Maps one sample to the codes of its units, by site."""


def alone(network, x: Tensor) -> Tensor:
    """Evaluate a network at each sample by itself."""
    with torch.no_grad():
        rows = [network(sample[None].clone()).flatten(1) for sample in x]
        return torch.cat(rows) if rows else network(x.new_zeros(1, *x.shape[1:])).flatten(1)[:0]


def sites_of(network, x: Tensor) -> dict[str, Site]:
    """Return every site of a network, with copies of its units, which it may overwrite later."""

    def copied(site: Site) -> Site:
        return replace(site, z=site.z.clone(), output=site.output.clone())

    return listen(network, x, copied).sites


def codes_of(network, slack: float = 0.0) -> Codes:
    """Return the codes of one sample: how many kinks each unit is above, or what it chose.

    Args:
        network: The network.
        slack: By how much of the largest pre-activation of its site a unit has to be above a kink,
            where units lie on their kink up to rounding.
    """

    def codes(sample: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            sites = sites_of(network, sample[None].clone())
        return {name: code_of(site, slack) for name, site in sites.items()}

    return codes


def code_of(site, slack: float = 0.0) -> Tensor:
    """Return the codes of a site at one sample."""
    if site.choice is not None:
        return -1 - site.choice[0]  # negative, so that any change counts as one
    kinks = (0.0,) if site.kind == "curve" else site.kinks
    least = slack * site.z.abs().max()
    above = [(site.z[0] > kink + least).long() for kink in kinks]
    return sum(above, torch.zeros_like(site.z[0], dtype=torch.long))


def points_between(path: Tensor, position: Tensor) -> Tensor:
    """Return the points at positions on one path, `(p, ...)`."""
    before = position.long().clamp(0, len(path) - 2)
    fraction = (position - before).reshape(-1, *[1] * (path.dim() - 1))
    return torch.lerp(path[before], path[before + 1], fraction)


def check_pieces(network, path: Tensor, found: Pieces, codes: Codes | None = None) -> Iterator[str]:
    """Yield what is wrong with the pieces that were found on some paths."""
    codes = codes or codes_of(network)
    for index, one in enumerate(path):
        mine = found.path == index
        knots = found.position[mine]
        counted = 1 + int((knots.diff() > _SAME).sum()) + 1 if len(knots) else 1
        if counted != found.regions()[index]:
            yield f"path {index}: {int(found.regions()[index])} regions, but {counted} by its knots"
        for complaint in _check_path(network, one, knots, codes):
            yield f"path {index}: {complaint}"
        if "output" in found.values:
            expected = alone(network, points_between(one, knots))
            away = (expected - found.values["output"][mine]).abs().nan_to_num(0, 0, 0)
            scale = alone(network, one).abs().nan_to_num(0, 0, 0).max()
            if len(knots) and away.max() > _CLOSE * max(float(scale), 1e-9):
                yield f"path {index}: the outputs at the knots are off by {away.max():.2g}"


def _check_path(network, path, knots, codes):
    groups = _grouped(knots)
    vertices = torch.arange(len(path), dtype=path.dtype)
    starts = torch.cat([vertices, *(group[-1:] for group in groups)]).sort().values[:-1]
    ends = torch.cat([vertices, *(group[:1] for group in groups)]).sort().values[1:]
    # Where a group ends at a vertex, or spans one, nothing of the piece is left.
    wide = ends - starts > _SEEN
    starts, ends = starts[wide], ends[wide]
    if not len(starts):
        return
    inner = torch.stack([starts + share * (ends - starts) for share in (0.01, 0.37, 0.99)], 1)
    y = alone(network, points_between(path, inner.flatten())).unflatten(0, (-1, 3))
    if not y.isfinite().all():
        yield from _check_infinite(y, inner)
        return
    if not y.numel():
        return
    yield from _check_straight(network, path, y, inner)
    yield from _check_jumps(y, inner)
    yield from _check_codes(path, groups, inner, codes)


def _grouped(knots: Tensor) -> list[Tensor]:
    """Put knots together that cannot be told apart from outside."""
    if not len(knots):
        return []
    cuts = ((knots.diff() > _SEEN).nonzero()[:, 0] + 1).tolist()
    return list(torch.tensor_split(knots, cuts))


def _check_infinite(y, inner):
    """Outputs that are infinite must be so all over; NaN is no number."""
    if y.isnan().any():
        yield "the outputs are NaN, and yet a number was returned"
    for piece, (start, _, end) in zip(y, inner.tolist(), strict=True):
        if not (piece.isfinite() == piece[:1].isfinite()).all():
            yield f"infinite at some places of the piece from {start} to {end}"


def _check_straight(network, path, y, inner):
    scale = float(y.abs().max())
    middle = y[:, 0].lerp(y[:, 2], (0.37 - 0.01) / 0.98)
    away = (y[:, 1] - middle).abs().amax(1)
    for piece in (away > _CLOSE * scale).nonzero()[:, 0].tolist()[:1]:
        ends = inner[piece, [0, 2]].tolist()
        yield f"not affine from {ends[0]:.9f} to {ends[1]:.9f}: off by {away[piece]:.2g}"
    t = torch.rand(_GRID * (len(path) - 1), generator=torch.Generator().manual_seed(5)).to(path)
    t = (t * (len(path) - 1)).sort().values
    piece = torch.searchsorted(inner[:, 0].contiguous(), t) - 1
    inside = (piece >= 0) & (t < inner[piece, 2])
    t, piece = t[inside], piece[inside]
    seen = alone(network, points_between(path, t))
    share = (t - inner[piece, 0]) / (inner[piece, 2] - inner[piece, 0])
    expected = y[piece, 0].lerp(y[piece, 2], share[:, None])
    away = (seen - expected).abs().amax(1)
    for worst in (~(away <= _CLOSE * scale)).nonzero()[:, 0].tolist()[:1]:
        yield f"off the line of its piece at {t[worst]:.9f} by {away[worst]:.2g}"


def _check_jumps(y, inner):
    """Extended to their ends, neighbouring pieces meet; a knot is no jump."""
    scale = float(y.abs().max())
    for (left, right), (p, q) in zip(pairwise(y), pairwise(inner), strict=True):
        if abs(p[2] - q[0]) > 0.03 * ((p[2] - p[0]) + (q[2] - q[0])):
            continue  # pieces between them are too short to be seen
        end = p[2] + (p[2] - p[0]) / 98
        before = left[2] + (left[2] - left[0]) / 98
        share = (end - q[0]) / (q[2] - q[0])
        after = right[0] + (right[2] - right[0]) * share
        slopes = (left[2] - left[0]).abs().max() / (p[2] - p[0])
        slopes = slopes + (right[2] - right[0]).abs().max() / (q[2] - q[0])
        if ((after - before).abs() > 1e-6 * scale + 4 * _SEEN * slopes).any():
            yield f"the outputs jump at {end:.9f}"
            return


def _check_codes(path, groups, inner, codes):
    at = [[codes(x) for x in points_between(path, piece[[0, 2]])] for piece in inner]
    for piece, (first, last) in zip(inner.tolist(), at, strict=True):
        changed = _changed(first, last)
        if changed:
            yield f"a knot is missing from {piece[0]:.9f} to {piece[2]:.9f}: {changed} change"
            break
    for group in groups:
        before = (inner[:, 2] <= group[0]).nonzero()[:, 0]
        after = (inner[:, 0] >= group[-1]).nonzero()[:, 0]
        if not len(before) or not len(after):
            continue
        left, right = at[before[-1]][1], at[after[0]][0]
        distinct = 1 + int((group.diff() > _SAME).sum())
        changes = count_changes(left, right)
        if changes < distinct:
            yield (f"{distinct} knots at {group[0]:.12f}, where {changes} units change their piece")
            break


def _changed(first, second):
    """Name the sites whose codes differ."""
    if list(first) != list(second):
        return "sites"
    return ", ".join(n for n in first if not torch.equal(first[n], second[n]))


def count_changes(first: dict[str, Tensor], second: dict[str, Tensor], site: str = "") -> float:
    """Count by how much codes differ, of all sites or of one."""
    if list(first) != list(second):
        return math.inf
    total = 0
    for name in [site] if site else first:
        apart = (first[name] - second[name]).abs()
        is_choice = (first[name] < 0) | (second[name] < 0)
        total += int(torch.where(is_choice, apart.clamp(max=1), apart).sum())
    return total


def check_distance(
    network, x: Tensor, distance: Tensor, codes: Codes | None = None, directions: int = 50
) -> Iterator[str]:
    """Yield what is wrong with the distance of each sample to the boundary of its region."""
    codes = codes or codes_of(network)
    random = torch.Generator().manual_seed(7)
    for sample, radius in zip(x, distance.tolist(), strict=True):
        here = codes(sample)
        reach = radius if math.isfinite(radius) else 1e3
        u = torch.randn(directions, *sample.shape, generator=random, dtype=x.dtype)
        u = u / u.flatten(1).norm(dim=1).reshape(-1, *[1] * sample.dim())
        if math.isnan(radius):
            yield "the distance is NaN"
            continue
        inside = sample + 0.999 * reach * u
        if radius > 0 and any(_changed(here, codes(each)) for each in inside):
            yield f"the pattern changes inside the distance of {radius:.9g}"
            continue
        if math.isfinite(radius) and radius > 0:
            nearest, normal = _nearest(network, sample, radius)
            if not math.isclose(nearest, radius, rel_tol=1e-5, abs_tol=1e-12):
                yield f"no boundary is at the distance of {radius:.9g}, but at {nearest:.9g}"
            elif not any(
                _changed(here, codes(sample + s * 1.0001 * radius * normal)) for s in (1, -1)
            ):
                yield f"nothing changes behind the distance of {radius:.9g}"


def _nearest(network, sample, radius):
    """Return the distance of the hyperplane that is nearest to lie at a radius, and its normal.

    Inside the ball all pre-activations are affine, so that differences are their derivatives.
    """
    eye = torch.eye(sample.numel(), dtype=sample.dtype).reshape(-1, *sample.shape)
    step = 0.9 * radius
    with torch.no_grad():
        here = sites_of(network, sample[None].clone())
        moved = [sites_of(network, (sample + step * e)[None].clone()) for e in eye]
        back = [sites_of(network, (sample - step * e)[None].clone()) for e in eye]
    best = (math.inf, math.inf, eye[0])
    for name, site in here.items():
        z = site.z[0]
        rows = [
            (m[name].z[0] - b[name].z[0]) / (2 * step) for m, b in zip(moved, back, strict=True)
        ]
        gradient = torch.stack(rows)  # (d, u)
        gaps = [(z - kink, gradient) for kink in site.kinks if math.isfinite(kink)]
        if site.choice is not None:
            chosen = [site.choice[0].unique()] if len(z) > 300 else [torch.arange(len(z))]
            gaps = [
                (z - z[i], gradient - gradient[:, i, None])
                for i in chosen[0].tolist()
                if i < len(z)
            ]
        for gap, slope in gaps:
            norm = slope.norm(dim=0)
            away = torch.where(norm > 0, gap.abs() / norm, math.inf).nan_to_num(nan=math.inf)
            for unit in ((away - radius).abs()).argmin()[None].tolist():
                off = abs(float(away[unit]) - radius)
                if off < best[0]:
                    normal = slope[:, unit] / norm[unit]
                    best = (off, float(away[unit]), normal.reshape(sample.shape))
    return best[1], best[2]


def check_lengths(
    network, path: Tensor, found: Pieces, lengths: dict[str, Tensor]
) -> Iterator[str]:
    """Yield what is wrong with the exact lengths of the images of paths whose pieces are right."""
    for index, one in enumerate(path):
        ends = torch.cat(
            [torch.arange(len(one), dtype=one.dtype), found.position[found.path == index]]
        )
        x = points_between(one, ends.sort().values)
        expected = {"input": x.flatten(1), "output": alone(network, x)}
        with torch.no_grad():
            sites = [sites_of(network, each[None].clone()) for each in x]
        expected |= {name: torch.cat([s[name].value for s in sites]) for name in sites[0]}
        jumping = {name for name, site in sites[0].items() if site.operation in {"sgn", "sign"}}
        for name, values in expected.items():
            if name in jumping or not values.is_floating_point():
                continue  # a step has no length
            length, given = float(values.diff(dim=0).norm(dim=1).sum()), float(lengths[name][index])
            smallest = 1e-7 * (1 + float(values.abs().max()))
            if not math.isclose(length, given, rel_tol=1e-5, abs_tol=smallest):
                yield f"path {index}: the length at {name} is {given:.9g} [{length:.9g}]"


def check_deviation(network, path: Tensor, found: Pieces, deviation: Tensor) -> Iterator[str]:
    """Yield what is wrong with the deviation from the chord on segments whose pieces are right."""
    nodes, weights = _gauss(16)
    for index, one in enumerate(path):
        total = measure = 0.0
        for first in range(len(one) - 1):
            knots = found.position[found.path == index]
            knots = knots[(knots > first) & (knots < first + 1)]
            ends = torch.cat([knots.new_tensor([first]), knots, knots.new_tensor([first + 1])])
            a, b = alone(network, one[first : first + 2])
            y = alone(network, points_between(one, ends))
            away = y - torch.lerp(a, b, (ends - first)[:, None])
            steps = away[:-1, None].lerp(away[1:, None], nodes[None, :, None]).norm(dim=2)
            length = float((one[first + 1] - one[first]).norm())
            total += length * float((steps * weights).sum(1) @ ends.diff())
            measure += length
        expected = total / measure if measure else 0.0
        if not math.isclose(
            expected,
            float(deviation[index]),
            rel_tol=1e-2,
            abs_tol=1e-7 * (1 + float(y.abs().max())),
        ):
            yield f"path {index}: the deviation is {float(deviation[index]):.9g} [{expected:.9g}]"


def _gauss(points: int) -> tuple[Tensor, Tensor]:
    """Return the nodes and weights of a quadrature on [0, 1], by the midpoints of many parts."""
    nodes = (torch.arange(64 * points, dtype=torch.float64) + 0.5) / (64 * points)
    return nodes, torch.full_like(nodes, 1 / len(nodes))


def check_jacobian(network, x: Tensor, norm: Tensor) -> Iterator[str]:
    """Yield what is wrong with the norm of the Jacobian at samples.

    Where the network rounds, or detaches some of its outputs, its gradient is another one than that
    of its differences, and autograd at one sample decides.
    """
    for sample, given in zip(x, norm.tolist(), strict=True):
        steps = [_differences(network, sample, step) for step in (1e-3, 1e-5, 3e-6)]
        if any(math.isclose(by, given, rel_tol=1e-3, abs_tol=1e-5) for by in steps[1:]):
            continue
        steady = all(math.isclose(by, steps[1], rel_tol=1e-4, abs_tol=1e-7) for by in steps)
        if steady and not math.isclose(_gradient(network, sample), given, rel_tol=1e-6):
            yield f"the Jacobian has the norm {given:.9g} [{steps[1]:.9g}]"


def _gradient(network, sample):
    def outputs(sample):
        return network(sample[None].clone())[0]

    return float(torch.autograd.functional.jacobian(outputs, sample).norm())


def _differences(network, sample, step):
    eye = torch.eye(sample.numel(), dtype=sample.dtype).reshape(-1, *sample.shape)
    rows = alone(network, sample + step * eye) - alone(network, sample - step * eye)
    return float(rows.norm() / (2 * step))
