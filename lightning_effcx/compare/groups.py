HEAD
_SEED_KEY = re.compile(r"seed|.*_seed|seed_.*")
_VERSION_PART = re.compile(r"version_\d+")
_SEED_TOKEN = re.compile(r"(?:^|[^a-z0-9])seed[_=-]?\d+(?![a-z0-9])", re.IGNORECASE)
_NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)")

@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed.

    Args:
        label: What tells this group from the others; unique among them.
        path: The path that the runs share once versions and seeds are taken out.
        hparams: The hyperparameters of every run, without its seeds.
        runs: At least one.
    """

    label: str
    path: str
    hparams: HParams
    runs: tuple[Run, ...]


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Bring runs together that differ only in their seed, ordered by label.

    The paths must agree too, but for `version_3`, `seed_3` and the like.
    """
    alike: defaultdict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        # As text, because NaN equals nothing, and True equals 1.
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
    """Name groups by the hyperparameters that tell them apart, by path where these do not."""
    keys = [
        key
        for key in sorted({key for each in hparams for key in each})
        if len({repr(each.get(key)) for each in hparams}) > 1
    ]
    labels = [
        ", ".join(f"{key}={_plain(each[key])}" for key in keys if key in each) for each in hparams
    ]
    if len(set(labels)) < len(labels):
        labels = [
            f"{path} ({label})" if label else path
            for path, label in zip(paths, labels, strict=True)
        ]
    return _numbered([label or path for path, label in zip(paths, labels, strict=True)])


def _numbered(labels: list[str]) -> list[str]:
    """Tell equal labels apart, as of the number 1 and the text "1"."""
    earlier: Counter[str] = Counter()
    unique = []
    for label in labels:
        earlier[label] += 1
        unique.append(label if earlier[label] == 1 else f"{label} #{earlier[label]}")
    return unique


def _plain(value: str | float | bool) -> str:  # noqa: FBT001 - a value, not a switch
    """Write a hyperparameter as the user did; TensorBoard keeps every number as a float."""
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _natural(label: str) -> list[str | float]:
    """Sort key under which 9 comes before 10."""
    return [float(part) if place % 2 else part for place, part in enumerate(_NUMBER.split(label))]
