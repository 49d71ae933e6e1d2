"""The result of a study of double descent, as a table, as JSON and as a figure."""

import json
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from rich.table import Table

from lightning_effcx.metrics.error_bars import joint_standard_error
from lightning_effcx.studies.emc_result import EMCRow, EMCStudy, draw_errors, number_text

if TYPE_CHECKING:
    from lightning_effcx.plotting import Axes, Figure


@dataclass(frozen=True)
class DescentStudy:
    """The complexities of several procedures, and their errors with a given number of samples.

    Attributes:
        along: The quantity in which the procedures differ, such as `width`.
        samples: With how many training samples the errors are compared.
        studies: The study of each procedure, by its value of that quantity, ascending.
    """

    along: str
    samples: int
    studies: dict[float, EMCStudy]

    @property
    def table(self) -> dict[float, EMCRow]:
        """The result with `samples` samples at each value at which a training succeeded."""
        rows = {value: study.at(self.samples) for value, study in self.studies.items()}
        return {value: row for value, row in rows.items() if row}

    @property
    def errors(self) -> dict[float, float]:
        """The test error with `samples` samples at each value."""
        known = {value: row.test_error for value, row in self.table.items()}
        return {value: error for value, error in known.items() if error is not None}

    @property
    def rise(self) -> tuple[float, float] | None:
        """The two values between which the test error rises most; `None` if it never rises."""
        errors = self.errors
        rises = {(low, high): errors[high] - errors[low] for low, high in combinations(errors, 2)}
        most = max(rises, key=rises.__getitem__, default=None)
        return most if most and rises[most] > 0 else None

    @property
    def peak(self) -> float | None:
        """The value at which the rise ends and the second descent starts.

        The test error may be larger at the smallest values, where procedures fit too little.
        """
        return self.rise[1] if self.rise else None

    @property
    def ratio(self) -> float | None:
        """The complexity at the peak, divided by `samples`; about 1 if it explains the peak."""
        return None if self.peak is None else self.studies[self.peak].emc / self.samples

    @property
    def epsilon(self) -> float:
        """The error up to which samples count as fitted, in all studies."""
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
        """Return the finding in one sentence."""
        if not self.rise:
            return f"with {self.samples} samples the test error never rises along {self.along}"
        low, peak = self.rise
        height = number_text(self.errors[peak] - self.errors[low], self._stderr(low, peak))
        place = "a peak at" if peak < max(self.studies) else "the largest"
        return (
            f"with {self.samples} samples the test error rises by {height} to {place} {self.along} "
            f"{peak:g}, where the EMC at error {self.epsilon:g} is {self._ratio_text(peak)} times "
            f"{self.samples}"
        )

    def _ratio_text(self, value: float) -> str:
        """Return the complexity at a value, divided by `samples`, with its bound if it is one."""
        study = self.studies[value]
        return f"{'≥ ' if study.censored else ''}{study.emc / self.samples:.2f}"

    def _stderr(self, *values: float) -> float | None:
        """Return the standard error of a difference of test errors; `None` without repeats."""
        rows = [self.table[value] for value in values]
        known = [(row.test_stderr, row.repeats) for row in rows if row.test_stderr is not None]
        return joint_standard_error(known) if len(known) == len(rows) else None

    def as_table(self) -> Table:
        """Return a table for a terminal: a row for each value, with the peak in bold."""
        table = Table(caption=self.summary())
        for name in (self.along, "EMC", "EMC / samples", "training error", "test error"):
            table.add_column(name, justify="right", no_wrap=True)
        for value, study in self.studies.items():
            row = study.at(self.samples)
            table.add_row(
                f"{value:g}",
                study.emc_text(),
                self._ratio_text(value),
                number_text(row.train_error, row.train_stderr) if row else "",
                number_text(row.test_error, row.test_stderr) if row else "",
                style="bold" if value == self.peak else None,
            )
        return table

    def as_json(self) -> str:
        """Return everything as JSON, with the study of each value."""
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
        """Draw the errors with `samples` samples above, and the complexities below."""
        from lightning_effcx import plotting  # noqa: PLC0415 an extra

        figure = plotting.Figure((5.0, 4.8), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True)
        draw_errors(top, [*self.table.items()])
        top.set_title(f"error with {self.samples} samples", fontsize="medium", loc="left")
        self._draw_complexities(bottom)
        if min(self.studies) > 0:
            plotting.label_logarithms(bottom, "x", self.studies)
        for axes in (top, bottom):
            if self.peak is not None:
                axes.axvline(self.peak, color="0.8", zorder=0, label="peak")
            plotting.simplify(axes)
            axes.legend(fontsize="small", frameon=False)
        return figure

    def _draw_complexities(self, axes: "Axes") -> None:
        from lightning_effcx.plotting import COLOURS, label_logarithms  # noqa: PLC0415 an extra

        known = {value: study.emc for value, study in self.studies.items() if study.emc}
        axes.plot([*known], [*known.values()], "o-", ms=3, color=COLOURS[2], label="EMC")
        bounds = {value: study.emc for value, study in self.studies.items() if study.censored}
        if bounds:
            axes.plot([*bounds], [*bounds.values()], "^", color=COLOURS[2], label="at least")
        axes.axhline(self.samples, color="black", linestyle=":", label="samples at hand")
        axes.set_title(f"EMC at error {self.epsilon:g}", fontsize="medium", loc="left")
        axes.set_xlabel(self.along, fontsize="small")
        label_logarithms(axes, "y", [*known.values(), self.samples])
