"""Every argument of the package is checked, and refused in one sentence."""

import inspect
import math
import pkgutil
import types
from functools import partial
from importlib import import_module
from typing import Literal, Union, get_args, get_origin

import jaxtyping
import numpy as np
import pytest
import torch
from contracts import CONTRACTS, FUNCTIONS

import lightning_effcx
from lightning_effcx import functional, metrics, paths
from lightning_effcx.callbacks import ComplexityMonitor, Geometric
from lightning_effcx.metrics.shallow_student import ShallowStudent

X, Y = torch.zeros(4, 3), torch.arange(4)
PATH = torch.zeros(2, 2, 3)


@pytest.fixture(autouse=True)
def _as_for_a_user(monkeypatch):
    """Without the types that are checked in tests alone."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


jacobian_norm = partial(functional.jacobian_norm, torch.relu, X)
fisher_rao_norm = partial(functional.fisher_rao_norm, torch.nn.Linear(3, 2), X)
lann_complexity = partial(functional.lann_complexity, torch.tanh, X)
trajectory_length = partial(functional.trajectory_length, torch.relu, PATH)
estimated = partial(functional.estimated_linear_regions, torch.relu, PATH)
boundary_distance = partial(functional.boundary_distance, torch.relu, X)
boundary_density = partial(functional.boundary_density, torch.relu, X)
mimic_gap = partial(functional.mimic_gap, torch.relu, torch.relu, X)
fit_student = partial(functional.fit_student, torch.relu, X)

# Whatever has an option that is a word: by its name and the option, how it is told, and the words.
WORDS = {
    ("Segment", "between"): (paths.Segment, ["any", "same", "different"]),
    ("Arc", "between"): (paths.Arc, ["any", "same", "different"]),
    ("ComplexityMonitor", "every"): (ComplexityMonitor, ["end"]),
}
for contract in CONTRACTS.values():
    for (name, option), words in contract.words.items():
        is_class = name == contract.metric.__name__
        call = contract.metric if is_class else partial(FUNCTIONS[name], torch.nn.Linear(3, 2), X)
        WORDS[name, option] = (call, words)
# What the package alone makes, of words of its own.
INTERNAL = {
    ("Choice", "of"),
    ("Operation", "kind"),
    ("Schedule", "rule"),
    ("Site", "kind"),
    ("Tag", "grain"),
}

COUNTS = {  # by the least
    1: [
        *[(kind, "count") for kind in (paths.Segment, paths.Arc, paths.Ellipse)],
        *[(kind, "count") for kind in (paths.Translation, paths.OriginLine)],
        (paths.Translation, "steps"),
        (partial(paths.translation, X), "steps"),
        (partial(paths.segment, X, X), "points"),
        (lambda count: paths.pairs(Y, count, same=True), "count"),
        (metrics.JacobianNorm, "chunk"),
        (jacobian_norm, "directions"),
        (metrics.BoundaryDensity, "directions"),
        (boundary_distance, "chunk"),
        (metrics.ActivationPatterns, "chunk"),
        (metrics.LANNComplexity, "chunk"),
        (lann_complexity, "chunk"),
        (lann_complexity, "candidates"),
        (metrics.LinearRegions, "budget"),
        (estimated, "budget"),
        (metrics.MimicGap, "hidden"),
        (metrics.MimicGap, "bottleneck"),
        (metrics.MimicGap, "steps"),
        (partial(ShallowStudent, 3, 2), "hidden"),
        (partial(fit_student, hidden=2), "steps"),
        (mimic_gap, "chunk"),
        (partial(metrics.TrainingError, (X, Y)), "samples"),
        (ComplexityMonitor, "samples"),
        (ComplexityMonitor, "every"),
    ],
    0: [
        (paths.OriginLine, "decades"),
        (partial(paths.origin_line, X), "decades"),
        (ComplexityMonitor, "loader"),
    ],
    2: [(paths.Segment, "points"), (paths.Arc, "points")],
    4: [(paths.Ellipse, "points")],
    8: [(metrics.JacobianNorm, "directions")],
}
NUMBERS = [
    (paths.Arc, "turn", "a number of turns, such as 0.25", [math.inf, math.nan]),
    (
        partial(paths.arc, X, X, points=3),
        "turn",
        "a number of turns, such as 0.25",
        [math.nan],
    ),
    (metrics.BoundaryDensity, "radius", "a positive number", [0, -1.0, math.inf, math.nan]),
    (boundary_density, "radius", "a positive number", [0, math.nan]),
    (metrics.LANNComplexity, "tolerance", "a positive number", [0, math.nan]),
    (lann_complexity, "tolerance", "a positive number", [0, math.nan]),
    (
        metrics.LinearRegions,
        "share",
        "a share of more than 0 and at most 1, the whole path",
        [0, 1.5],
    ),
    (estimated, "share", "a share of more than 0 and at most 1, the whole path", [0, math.nan]),
    (metrics.MimicGap, "held_out", "a share between 0 and 1", [0, 1]),
    (
        partial(metrics.TrainingError, (X, Y)),
        "epsilon",
        "an error of at least 0 and below 1",
        [-0.1, 1],
    ),
    (
        partial(metrics.TrainingError, (X, Y)),
        "threshold",
        "a number, such as 0.5",
        [math.nan],
    ),
    (metrics.EffectiveModelComplexity, "epsilon", "an error of at least 0 and below 1", [1]),
    (
        ComplexityMonitor,
        "budget",
        "a share of the training's time between 0 and 1, such as 0.05",
        [0, 1, 5],
    ),
    (Geometric, "factor", "a number of more than 1", [1, math.inf, math.nan]),
]
SWITCHES = [
    (ComplexityMonitor, "strict"),
    (ComplexityMonitor, "detail"),
    (metrics.FisherRaoNorm, "empirical"),
    (metrics.LANNComplexity, "share_positions"),
    (lann_complexity, "share_positions"),
    (metrics.TrajectoryLength, "exact"),
    (trajectory_length, "exact"),
    (metrics.MimicGap, "centred"),
    (mimic_gap, "centred"),
]
SEEDS = [
    ComplexityMonitor,
    metrics.JacobianNorm,
    metrics.LinearRegions,
    metrics.MimicGap,
    partial(metrics.TrainingError, (X, Y)),
    partial(ShallowStudent, 3, 2, hidden=2),
    partial(fit_student, hidden=2),
]
KINDS = [
    (metrics.Transitions, {"paths": "segment"}, "what draws paths, such as Segment"),
    (metrics.Transitions, {"paths": paths.Segment}, "what draws paths, such as Segment"),
    (metrics.FisherRaoNorm, {"parameters": 3}, "a pattern of their names, such as"),
    (fisher_rao_norm, {"parameters": ["a"]}, "a pattern of their names, such as"),
]


def words_of(annotation):
    """The words of a Literal, also within a Union."""
    if get_origin(annotation) is Literal:
        return [word for word in get_args(annotation) if isinstance(word, str)]
    if get_origin(annotation) in {Union, types.UnionType}:
        return [word for part in get_args(annotation) for word in words_of(part)]
    return []


def declared():
    """All options of the package that are words: by whose they are and their name, the words."""
    for info in pkgutil.walk_packages(lightning_effcx.__path__, "lightning_effcx."):
        for name, value in vars(import_module(info.name)).items():
            if getattr(value, "__module__", None) != info.name or name.startswith("_"):
                continue
            if not inspect.isclass(value) and not inspect.isfunction(value):
                continue
            function = inspect.unwrap(value.__init__ if inspect.isclass(value) else value)
            for option, annotation in inspect.get_annotations(function).items():
                if words := words_of(annotation):
                    yield (name, option), words


def test_every_option_that_is_a_word_is_among_those_that_are_checked():
    found = dict(declared())
    assert found.keys() == WORDS.keys() | INTERNAL
    assert {option: sorted(found[option]) for option in WORDS} == {
        option: sorted(words) for option, (_, words) in WORDS.items()
    }


@pytest.mark.parametrize("option", WORDS, ids=".".join)
@pytest.mark.parametrize("given", ["sometimes", "", None, 3.5, ["end"]])
def test_an_unknown_word_is_refused_with_those_that_are_known(option, given):
    tell, words = WORDS[option]
    with pytest.raises((ValueError, TypeError)) as raised:
        tell(**{option[1]: given})
    message = str(raised.value)
    assert message.startswith(f"{option[1]}={given!r}: expected ")
    assert message.endswith(".")
    assert all(repr(word) in message for word in words)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("samee", "between='samee': expected 'same', 'any' or 'different'."),
        ("Different", "between='Different': expected 'different', 'any' or 'same'."),
        ("what", "between='what': expected 'any', 'same' or 'different'."),
        (3, "between=3: expected 'any', 'same' or 'different'."),
    ],
)
def test_the_word_that_resembles_another_is_named_first(given, expected):
    with pytest.raises(ValueError, match=f"^{expected}$"):
        paths.Segment(given)


@pytest.mark.parametrize(
    ("tell", "option", "least"),
    [(tell, option, least) for least, options in COUNTS.items() for tell, option in options],
)
@pytest.mark.parametrize("given", ["64", 2.5, True, [3]])
def test_what_is_no_whole_number_is_no_count(tell, option, least, given):
    message = rf"^{option}={given!r}: expected a whole number( of at least {least}|, a function of)"
    with pytest.raises(TypeError, match=message.replace("[3]", r"\[3\]")):
        tell(**{option: given})
    with pytest.raises(ValueError, match=f"^{option}={least - 1}: expected at least {least}"):
        tell(**{option: least - 1})


@pytest.mark.parametrize(("tell", "option", "expected", "outside"), NUMBERS)
def test_what_is_no_number_or_out_of_range_is_refused(tell, option, expected, outside):
    for given in ("5%", True):
        with pytest.raises(TypeError, match=f"^{option}={given!r}: expected {expected}"):
            tell(**{option: given})
    for given in outside:
        with pytest.raises(ValueError, match=f"^{option}={given!r}: expected {expected}"):
            tell(**{option: given})


@pytest.mark.parametrize(("tell", "option"), SWITCHES)
@pytest.mark.parametrize("given", ["yes", 1, None])
def test_what_is_neither_true_nor_false_is_no_switch(tell, option, given):
    with pytest.raises(TypeError, match=f"^{option}={given!r}: expected True or False\\.$"):
        tell(**{option: given})


@pytest.mark.parametrize("tell", SEEDS)
def test_a_seed_is_a_whole_number(tell):
    for given in ("a", 0.5, None, True):
        with pytest.raises(TypeError, match=f"^seed={given!r}: expected a whole number, such as 0"):
            tell(seed=given)
    with pytest.raises(ValueError, match=r"^seed=\d+: expected a whole number of less than 64 bit"):
        tell(seed=2**63)


@pytest.mark.parametrize(("tell", "options", "expected"), KINDS)
def test_what_is_of_another_type_is_refused(tell, options, expected):
    with pytest.raises(TypeError, match=f"expected {expected}"):
        tell(**options)


@pytest.mark.parametrize(
    "tell",
    [
        partial(jacobian_norm, directions=2),
        partial(estimated, budget=3),
        partial(boundary_density, radius=1.0),
        partial(paths.pairs, Y, 1, same=False),
    ],
)
def test_a_seed_is_no_generator(tell):
    with pytest.raises(
        TypeError, match=r"^generator=0: expected a torch\.Generator, such as torch"
    ):
        tell(generator=0)


def test_numbers_of_numpy_are_numbers():
    assert paths.Segment(count=np.int64(3)).count == 3
