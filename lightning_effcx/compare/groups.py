"""Groups: runs that differ only in their seed, labelled by what distinguishes the groups."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations, islice
from pathlib import PurePosixPath

from lightning_effcx.compare.runs import HParam, HParams, Run

_SEED_KEY = re.compile(r"seed|.*_seed|seed_.*")
_VERSION_PART = re.compile(r"version_\d+")
_SEED_TOKEN = re.compile(r"(?:^|[^a-z0-9])seed[_=-]?\d+(?![a-z0-9])", re.IGNORECASE)
_NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)")
_FEW = 3  # hyperparameters in a label, unless all that differ are needed
_TRIES = 1000  # labels that are tried: all choices of up to three hyperparameters among 18


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed.

    Args:
        label: A unique label, made of what distinguishes this group from the others.
        path: The path of the runs without versions and seeds, which is the same for all.
        hparams: The hyperparameters of the runs without seeds, which are the same for all.
        runs: The runs, at least one.
    """

    label: str
    path: str
    hparams: HParams
    runs: tuple[Run, ...]


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Group runs that differ only in their seed; sort the groups by label, with studies last.

    Their paths must be the same, too, except for parts such as `version_3` and `seed_3`.
    """
    kinds: defaultdict[str, list[Run]] = defaultdict(list)
    for run in runs:
        kinds[run.study].append(run)
    # Each kind of study is labelled separately, because nearly all hyperparameters of a study
    # differ from those of a training.
    groups = [group for kind in sorted(kinds) for group in _alike(kinds[kind])]
    labels = _numbered([group.label for group in groups])
    return [replace(group, label=label) for group, label in zip(groups, labels, strict=True)]


def _alike(runs: Sequence[Run]) -> list[Group]:
    alike: defaultdict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        # As text, because NaN is unequal to itself, and True equals 1.
        alike[_seedless_path(run.path), repr(sorted(_seedless(run.hparams).items()))].append(run)
    paths = [path for path, _ in alike]
    hparams = [_seedless(members[0].hparams) for members in alike.values()]
    groups = map(Group, _labels(paths, hparams), paths, hparams, map(tuple, alike.values()))
    return sorted(groups, key=lambda group: _natural(group.label))


def _seedless(hparams: HParams) -> HParams:
    return {
        key: value
        for key, value in sorted(hparams.items())
        if not _SEED_KEY.fullmatch(key.rpartition("/")[2])
    }


def _seedless_path(path: str) -> str:
    parts = [part for part in path.split("/") if not _VERSION_PART.fullmatch(part)]
    return PurePosixPath(*(_SEED_TOKEN.sub("", part).strip("_-") for part in parts)).as_posix()


def _labels(paths: list[str], hparams: list[HParams]) -> list[str]:
    """Label groups by a few hyperparameters that distinguish them, or else by their paths."""
    keys = _differing(hparams)
    choices = chain.from_iterable(combinations(keys, count) for count in range(1, _FEW + 1))
    for chosen in islice(choices, _TRIES):
        labels = [_label(each, chosen) for each in hparams]
        if all(labels) and _unique(labels):
            return labels
    labels = [_label(each, keys) for each in hparams]
    if not _unique(labels):
        both = zip(paths, labels, strict=True)
        labels = [f"{path} ({label})" if label else path for path, label in both]
    return _numbered([label or path for path, label in zip(paths, labels, strict=True)])


def _differing(hparams: list[HParams]) -> list[str]:
    """Return the keys whose values differ. Those with text come first, because it says more."""
    values = {
        key: [each.get(key) for each in hparams]
        for key in {key for each in hparams for key in each}
    }
    return sorted(
        (key for key in values if len(set(map(repr, values[key]))) > 1),
        key=lambda key: (not any(isinstance(value, str) for value in values[key]), key),
    )


def _label(hparams: HParams, keys: Sequence[str]) -> str:
    return ", ".join(f"{key}={_plain(hparams[key])}" for key in keys if key in hparams)


def _unique(labels: list[str]) -> bool:
    return len(set(labels)) == len(labels)


def _numbered(labels: list[str]) -> list[str]:
    """Number equal labels, such as from the number 1 and the text "1"."""
    earlier: Counter[str] = Counter()
    unique = []
    for label in labels:
        earlier[label] += 1
        unique.append(label if earlier[label] == 1 else f"{label} #{earlier[label]}")
    return unique


def _plain(value: HParam) -> str:
    """Return a hyperparameter as the user wrote it; TensorBoard stores all numbers as floats."""
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _natural(label: str) -> list[str | float]:
    """Return a sort key that puts 9 before 10."""
    return [float(part) if place % 2 else part for place, part in enumerate(_NUMBER.split(label))]
