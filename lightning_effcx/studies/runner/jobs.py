"""Jobs, the trainings of a study, each with a unique key; and rows, the results of jobs."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class Job:
    """One training of a study.

    Args:
        key: The name of the job, unique in its study, such as `n=64/repeat=2`.
        arguments: What distinguishes the job, as values that JSON gives back unchanged.
        seed: The seed of all randomness in the job; `Job.of` derives it from the study's seed.
    """

    key: str
    arguments: dict[str, Any]
    seed: int

    def __post_init__(self) -> None:
        check_plain(self.arguments, f"the arguments of the job {self.key!r}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(
                f"the job {self.key!r} has the seed {self.seed}, but numpy takes only seeds from 0 "
                "to 2³²-1: derive the seed from the study's with Job.of."
            )

    @classmethod
    def of(cls, key: str, arguments: Mapping[str, Any], *, seed: int = 0) -> Self:
        """Make a job whose seed is a hash of the study's `seed` and the key.

        The seed depends neither on the other jobs, nor on their order, nor on the machine.

        Example:
            >>> Job.of("n=64/repeat=2", {"n": 64}, seed=0).seed
            2202579006
        """
        digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
        return cls(key, dict(arguments), int.from_bytes(digest[:4], "big"))


@dataclass(frozen=True)
class Row:
    """The result of a job. Rows that differ only in `seconds` are equal.

    Args:
        job: The training.
        values: The numbers that the training returned; empty if it failed.
        error: Why the training failed: type and message in the first line, then the traceback.
            Empty if it succeeded.
        seconds: How long the training took; NaN if its worker was lost.
    """

    job: Job
    values: dict[str, float] = field(default_factory=dict)
    error: str = ""
    seconds: float = field(default=float("nan"), compare=False)


def check_plain(values: Mapping[str, Any], what: str) -> None:
    """Refuse values that JSON would not give back unchanged, such as a tuple."""
    try:
        kept = json.loads(json.dumps(values, allow_nan=False))
    except (TypeError, ValueError):
        kept = None
    if kept != values:
        raise ValueError(
            f"{what} are {values!r}, expected plain values: text, finite numbers, booleans, None, "
            "lists of such values, and dictionaries of them with text as keys."
        )
