"""Peaks: what studies along a width found, as a table, as JSON and as a figure."""

import json
from dataclasses import asdict, dataclass
from itertools import combinations
from math import hypot
from typing import TYPE_CHECKING

from rich.table import Table

from lightning_effcx.studies.emc_result import EMCRow, EMCStudy, draw_errors, shown

if TYPE_CHECKING:
    from lightning_effcx.plotting import Figure


@dataclass(frozen=True)
class DescentStudy:
    """The complexities of several procedures, and their errors with the samples at hand.

    Attributes:
        along: What differs between the procedures, such as `width`.
        samples: How many samples are at hand.
        studies: The study of each procedure, by its value of what differs, ascending.
    """

    along: str
    samples: int
    studies: dict[float, EMCStudy]

    @property
    def table(self) -> dict[float, EMCRow]:
        """What came of the trainings on the samples at hand, by value, unless all failed."""
        rows = {value: study.at(self.samples) for value, study in self.studies.items()}
        return {value: row for value, row in rows.items() if row}

    @property
    def errors(self) -> dict[float, float]:
        """Their test errors."""
        known = {value: row.test_error for value, row in self.table.items()}
        return {value: error for value, error in known.items() if error is not None}

    @property
    def rise(self) -> tuple[float, float] | None:
        """The values from which and to which the test error rises most; `None` if it never does."""
        errors = self.errors
        rises = {(low, high): errors[high] - errors[low] for low, high in combinations(errors, 2)}
        most = max(rises, key=rises.__getitem__, default=None)
        return most if most and rises[most] > 0 else None

    @property
    def peak(self) -> float | None:
        """The value at which that rise ends, and the second descent starts.

        The test error may well be larger at the smallest values, which fit too little.
        """
        return self.rise[1] if self.rise else None

    @property
    def ratio(self) -> float | None:
        """The complexity at the peak, in samples at hand; about 1 where it explains the peak."""
        return None if self.peak is None else self.studies[self.peak].emc / self.samples

    @property
    def epsilon(self) -> float:
        """Up to which error samples count as fitted, in all studies."""
        return next(iter(self.studies.values())).epsilon

    @property
    def failures(self) -> dict[str, str]:
        """Why trainings failed, by value and key."""
        return {
            f"{self.along}={value:g}/{key}": error
            for value, study in self.studies.items()
            for key, error in study.failures.items()
        }

    def summary(self) -> str:
        """Say in one sentence what was found."""
        if not self.rise:
            return f"with {self.samples} samples the test error never rises along {self.along}"
        low, peak = self.rise
        height = shown(self.errors[peak] - self.errors[low], self._stderr(low, peak))
        place = "a peak at" if peak < max(self.studies) else "the largest"
        return (
            f"with {self.samples} samples the test error rises by {height} to {place} {self.along} "
            f"{peak:g}, where the EMC at error {self.epsilon:g} is {self._times(peak)} times that "
            "many"
        )

    def _times(self, value: float) -> str:
        """Write the complexity at a value, in samples at hand, as what is known of it."""
        study = self.studies[value]
        return f"{'≥ ' if study.censored else ''}{study.emc / self.samples:.2f}"

    def _stderr(self, *values: float) -> float | None:
        """Return the standard error of a difference of test errors; `None` without repeats."""
        stderrs = [self.table[value].test_stderr for value in values]
        known = [stderr for stderr in stderrs if stderr is not None]
        return hypot(*known) if len(known) == len(stderrs) else None

    def as_table(self) -> Table:
        """Lay it out for a terminal: a row for every value, the peak in bold."""
        table = Table(caption=self.summary())
        for name in (self.along, "EMC", "EMC / samples", "training error", "test error"):
            table.add_column(name, justify="right", no_wrap=True)
        for value, study in self.studies.items():
            row = study.at(self.samples)
            table.add_row(
                f"{value:g}",
                study.shown(),
                self._times(value),
                shown(row.train_error, row.train_stderr) if row else "",
                shown(row.test_error, row.test_stderr) if row else "",
                style="bold" if value == self.peak else None,
            )
        return table

    def as_json(self) -> str:
        """Write it as JSON, with the study of every value."""
        entries = {
            "along": self.along,
            "samples": self.samples,
            "rise": self.rise,
            "peak": self.peak,
            "ratio": self.ratio,
            "studies": [
                {self.along: value, **asdict(study), "censored": study.censored}
                for value, study in self.studies.items()
            ],
        }
        return json.dumps(entries, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def plot(self) -> "Figure":
        """Draw the errors with the samples at hand, and the complexities below them."""
        from lightning_effcx import plotting  # noqa: PLC0415 an extra

        figure = plotting.Figure((5.0, 4.8), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True)
        draw_errors(top, [*self.table.items()])
        top.set_title(f"error with {self.samples} samples", fontsize="medium", loc="left")
        known = {value: study.emc for value, study in self.studies.items() if study.emc}
        least = {value: study.emc for value, study in self.studies.items() if study.censored}
        bottom.plot([*known], [*known.values()], "o-", ms=3, color=plotting.COLOURS[2], label="EMC")
        if least:
            bottom.plot(
                [*least], [*least.values()], "^", color=plotting.COLOURS[2], label="at least"
            )
        bottom.axhline(self.samples, color="black", linestyle=":", label="samples at hand")
        bottom.set_title(f"EMC at error {self.epsilon:g}", fontsize="medium", loc="left")
        bottom.set_xlabel(self.along, fontsize="small")
        plotting.label_logarithms(bottom, "y", [*known.values(), self.samples])
        if min(self.studies) > 0:
            plotting.label_logarithms(bottom, "x", self.studies)
        for axes in (top, bottom):
            if self.peak is not None:
                axes.axvline(self.peak, color="0.8", zorder=0, label="peak")
            plotting.simplify(axes)
            axes.legend(fontsize="small", frameon=False)
        return figure
