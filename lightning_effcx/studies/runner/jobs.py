"""Jobs: the trainings of a study, each known by its key; and rows: what came of them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class Job:
    """One training of a study.

    Args:
        key: Its name, which no other job of the study has, such as `n=64/repeat=2`.
        arguments: What it is about, as plain values, which JSON keeps as they are.
        seed: Of everything random in it; `Job.of` derives it from the study's.
    """

    key: str
    arguments: dict[str, Any]
    seed: int

    def __post_init__(self) -> None:
        check_plain(self.arguments, f"the arguments of the job {self.key!r}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(
                f"the job {self.key!r} has the seed {self.seed}, expected 0 to 2³²-1, which numpy "
                "takes: derive it from the study's with Job.of."
            )

    @classmethod
    def of(cls, key: str, arguments: Mapping[str, Any], *, seed: int = 0) -> Self:
        """Give a job its own seed: a hash of the study's `seed` and the key.

        So it depends neither on the other jobs nor on the order or the worker, and is the same on
        every machine.

        Example:
            >>> Job.of("n=64/repeat=2", {"n": 64}, seed=0).seed
            2202579006
        """
        digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
        return cls(key, dict(arguments), int.from_bytes(digest[:4], "big"))


@dataclass(frozen=True)
class Row:
    """What came of a job.

    Args:
        job: The training.
        values: What it returned; nothing where it failed.
        error: Why it failed: type and message in the first line, then where that was; empty where
            it did not.
        seconds: How long it took; NaN where its worker was lost. Rows that differ in nothing else
            are equal.
    """

    job: Job
    values: dict[str, float] = field(default_factory=dict)
    error: str = ""
    seconds: float = field(default=float("nan"), compare=False)


def check_plain(values: Mapping[str, Any], what: str) -> None:
    """Refuse what JSON would not give back as it was."""
    try:
        kept = json.loads(json.dumps(values, allow_nan=False))
    except (TypeError, ValueError):
        kept = None
    if kept != values:
        raise ValueError(
            f"{what} are {values!r}, expected plain values: text, finite numbers, booleans, None, "
            "lists of such, and dictionaries of such with text as keys."
        )
