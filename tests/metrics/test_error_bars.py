"""Does a 95 % error bar hold the value of the population in 95 % of all cases?

Each case measures many random probes of a population with the same network, and counts how often
the stated interval holds the value of the population. That value is found from thousands of samples
or paths, exactly where the measure allows it. CONTRIBUTING tells how to run it with 400 probes.
"""

import logging
import os
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace

import pytest
import torch
from networks import mlp
from scipy import stats
from torch import nn

from lightning_effcx.callbacks.defaults import choose_metrics
from lightning_effcx.metrics import (
    BoundaryDensity,
    BoundaryDistance,
    CapacityGap,
    EffectiveModelComplexity,
    FisherRaoNorm,
    JacobianNorm,
    LinearDeviation,
    LinearRegions,
    MimicGap,
    TrainingError,
    TrajectoryGrowth,
    TrajectoryLength,
    Transitions,
)
from lightning_effcx.metrics.error_bars import BAR, joint_standard_error, standard_error
from lightning_effcx.metrics.mimic import mimic_gap
from lightning_effcx.metrics.student_fit import fit_student, split_samples
from lightning_effcx.network import observing
from lightning_effcx.paths import Arc, Ellipse, OriginLine, Segment, Translation

pytestmark = pytest.mark.slow

PROBES = int(os.environ.get("EFFCX_PROBES", "100"))
FEATURES, CLASSES = 8, 4
CENTRES = 1.5 * torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(0))
TABLE = logging.getLogger("coverage")


def population(n, seed):
    """Random samples: a Gaussian around the centre of each class."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (n,), generator=generator)
    return CENTRES[y] + torch.randn(n, FEATURES, generator=generator), y


def probes(n=64):
    return (population(n, 10_000 + number) for number in range(PROBES))


def trained(*widths, steps=200, wrong=0.2):
    """A classifier that has fitted some wrong labels."""
    torch.manual_seed(0)
    network = mlp(FEATURES, *widths, activation=nn.ReLU)
    (x, y), generator = population(400, seed=1), torch.Generator().manual_seed(2)
    y = torch.where(torch.rand(400, generator=generator) < wrong, y.roll(1), y)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    return network.eval().requires_grad_(requires_grad=False)


def with_gradients(network):
    return deepcopy(network).requires_grad_()


NETWORK = with_gradients(trained(32, 32, CLASSES))
INITIAL = with_gradients(trained(32, 32, CLASSES, steps=0))
WIDE = with_gradients(trained(300, 300, CLASSES, steps=20))
MANY_OUTPUTS = nn.Sequential(trained(32, 32, CLASSES), nn.Linear(CLASSES, 200)).requires_grad_()
RANK_ONE = nn.Sequential(trained(16, 1, steps=0), nn.Linear(1, 200)).requires_grad_()
IMAGES = nn.Sequential(nn.Flatten(), NETWORK)


def check(name, held):
    """Demand that the coverage is between 92 and 98 %, up to chance for fewer than 400 probes."""
    share = sum(held) / len(held)
    TABLE.info("%-58s %5.1f %%", name, 100 * share)
    low, high = 0.92, 0.98
    if len(held) < 400:
        low = stats.binom.ppf(0.001, len(held), low) / len(held)
        high = stats.binom.ppf(0.999, len(held), high) / len(held)
    assert low <= share <= high, f"{name}: the bar holds the value in {share:.1%} of all cases"


def holds(measurement, value):
    low, high = measurement.interval
    return bool(low <= value <= high)


def measured(metric, network, x, y):
    metric.reset()
    metric.update(network, x, y)
    return metric.measurement()


def exhaustive(metric):
    """The same measure of the population: exact where it can be, else with many more draws."""
    metric = deepcopy(metric)
    if isinstance(metric, JacobianNorm):
        metric.directions = None
    if isinstance(metric, LinearRegions):
        metric.estimates, metric.budget, metric.share = False, None, None
    if hasattr(metric, "paths"):
        metric.paths = replace(metric.paths, count=LARGE // 4)
    return metric


LARGE = 8000


def check_metric(name, network, metric, samples=64, shape=(FEATURES,)):
    """Check the bar of a metric, and the bars of its variants."""
    x, y = population(LARGE, seed=3)
    true = measured(exhaustive(metric), network, x.reshape(-1, *shape), y)
    values = {"": true.value} | {e: v.value for e, v in true.variants.items()}
    held = {ending: [] for ending in values}
    for seed, (x, y) in enumerate(probes(samples)):
        metric.seed = seed
        found = measured(metric, network, x.reshape(-1, *shape), y)
        for ending, value in values.items():
            held[ending].append(holds(found.variants[ending] if ending else found, value))
    for ending in values:
        check(f"{name}{ending}", held[ending])


# The default set of the monitor


def defaults(network, y):
    x, _ = population(64, seed=4)
    with observing(network):
        found = choose_metrics(0, network, x, y, network(x))
    return {name: m for name, m in found.metrics.items() if name != "lann_complexity"}


DEFAULTS = {
    f"{kind}: {name}": (network, metric)
    for kind, network, y in (
        ("default", NETWORK, torch.arange(64) % CLASSES),
        ("default, initial weights", INITIAL, torch.arange(64) % CLASSES),
        ("default, many units", WIDE, torch.arange(64) % CLASSES),
        ("default, many outputs", MANY_OUTPUTS, torch.arange(64) % CLASSES),
        ("default, rank one", RANK_ONE, torch.arange(64) % CLASSES),
        ("default, no classes", NETWORK, torch.zeros(64, 2)),
    )
    for name, metric in defaults(network, y).items()
    if kind in {"default", "default, initial weights"}
    or {"estimated", "sampled"} & {*name.replace(".", "_").split("_")}
    or (kind == "default, no classes" and name == "fisher_rao_norm")
}


@pytest.mark.parametrize("case", DEFAULTS)
def test_the_error_bars_of_the_default_set(case):
    check_metric(case, *DEFAULTS[case])


# All other bars


@dataclass(frozen=True)
class Case:
    metric: Callable[[], object]
    samples: int = 64
    network: nn.Module = NETWORK
    shape: tuple[int, ...] = (FEATURES,)


CASES = {
    "jacobian_norm, 8 directions": Case(lambda: JacobianNorm(directions=8), network=MANY_OUTPUTS),
    "jacobian_norm, 8 directions, rank one": Case(
        lambda: JacobianNorm(directions=8), network=RANK_ONE
    ),
    "jacobian_norm, 16 directions, 1000 samples": Case(
        lambda: JacobianNorm(directions=16), network=RANK_ONE, samples=1000
    ),
    # Where the network has learnt by heart, a few wrong predictions outweigh all other samples, and
    # no bar of 64 samples holds the value: it covers 75 % for the network of the other cases.
    "fisher_rao_norm.empirical": Case(
        lambda: FisherRaoNorm(empirical=True), network=with_gradients(trained(32, CLASSES, steps=9))
    ),
    "transitions.segment, 32 paths": Case(Transitions),
    "transitions.segment, 32 paths, 16 samples": Case(Transitions, samples=16),
    "transitions.arc": Case(lambda: Transitions(Arc(count=16))),
    "transitions.ellipse, 16 paths": Case(lambda: Transitions(Ellipse(count=16))),
    "transitions.ellipse, 32 paths": Case(lambda: Transitions(Ellipse())),
    "transitions.translation": Case(
        lambda: Transitions(Translation()), network=IMAGES, shape=(1, FEATURES)
    ),
    "trajectory_length.segment, exact": Case(lambda: TrajectoryLength(exact=True)),
    "trajectory_growth.segment": Case(TrajectoryGrowth),
    "trajectory_growth.origin_line": Case(lambda: TrajectoryGrowth(OriginLine(count=8))),
    "linear_regions.segment, 3 paths": Case(lambda: LinearRegions(Segment(count=3, points=2))),
    "linear_regions.origin_line, 2 paths": Case(lambda: LinearRegions(OriginLine(count=2))),
    "linear_regions.segment_same, 32 paths": Case(lambda: LinearRegions(Segment("same"))),
    "linear_regions.segment_same, 16 samples": Case(
        lambda: LinearRegions(Segment("same", points=2)), samples=16
    ),
    "linear_regions.segment_estimated, budget": Case(
        lambda: LinearRegions(Segment(count=16, points=2), budget=10)
    ),
    "linear_deviation.segment": Case(LinearDeviation),
    "capacity_gap.segment": Case(CapacityGap),
    "boundary_density": Case(BoundaryDensity),
    "boundary_density, radius 0.3": Case(lambda: BoundaryDensity(radius=0.3)),
    "boundary_distance": Case(BoundaryDistance),
}


@pytest.mark.parametrize("case", CASES)
def test_the_error_bars_of_metrics(case):
    it = CASES[case]
    check_metric(case, it.network, it.metric(), it.samples, it.shape)


@pytest.mark.parametrize(("wrong", "samples"), [(0.01, 64), (0.2, 64), (0.2, 100), (0.05, 1000)])
def test_the_error_bar_of_a_training_error(wrong, samples):
    held = []
    for x, _ in probes(samples):  # a network that is wrong with the given probability
        place = stats.norm.ppf(wrong)
        y = ((x - CENTRES[0]).sum(1) > 0).long()  # any label
        z = torch.randn(samples, generator=torch.Generator().manual_seed(len(held)))
        metric = TrainingError((torch.stack([z, y], 1), y))
        wrong_there = lambda both: (2 * both[:, 1:] - 1) * torch.where(both[:, :1] < place, -1, 1)  # noqa: E731, B023
        held.append(holds(measured(metric, wrong_there, torch.zeros(1, 2), None), wrong))
    check(f"training_error of {wrong:g}, {samples} samples", held)


def test_the_error_bars_of_a_mimic_gap():
    held = {"mimic_gap": [], "mimic_gap.agreement": []}
    everything, _ = population(LARGE, seed=3)
    options = {"hidden": 8, "steps": 30}
    for x, _ in probes(128):
        found = measured(MimicGap(**options), NETWORK, x, None)
        _, seen = split_samples(len(x), 0.25, 0)
        student = fit_student(NETWORK, x[seen], **options)
        true = mimic_gap(student, NETWORK, everything)
        z = NETWORK(everything).detach().double()
        spread = (z - NETWORK(x[seen]).double().mean(0)).square().sum().detach()
        held["mimic_gap"].append(holds(found, float(true.squared_errors.sum() / spread)))
        agreement = found.variants[".agreement"]
        held["mimic_gap.agreement"].append(holds(agreement, true.agreement))
    for name, each in held.items():
        check(name, each)


def errors_of_trainings(mean, repeats, generator):
    """Training errors of 1000 samples that differ between trainings."""
    rates = mean + 0.03 * torch.randn(repeats, generator=generator)
    return torch.binomial(torch.full((repeats,), 1000.0), rates, generator=generator) / 1000


@pytest.mark.parametrize("repeats", [2, 3, 10])
def test_the_error_bar_of_the_training_error_of_a_study(repeats):
    held, generator = [], torch.Generator().manual_seed(0)
    for _ in range(PROBES):
        metric = EffectiveModelComplexity(epsilon=0.5)
        metric.update([1000] * repeats, errors_of_trainings(0.2, repeats, generator))
        held.append(holds(metric.measurement().variants[".train_error"], 0.2))
    check(f"emc.train_error, {repeats} repeats", held)


@pytest.mark.parametrize("repeats", [3, 10])
def test_the_error_bar_of_a_difference_of_two_studies(repeats):
    held, generator = [], torch.Generator().manual_seed(0)
    for _ in range(PROBES):
        low, high = (errors_of_trainings(mean, repeats, generator) for mean in (0.2, 0.3))
        bars = [(float(standard_error(errors)), repeats) for errors in (low, high)]
        held.append(abs(high.mean() - low.mean() - 0.1) <= BAR * joint_standard_error(bars))
    check(f"rise of the test error, {repeats} repeats", held)
