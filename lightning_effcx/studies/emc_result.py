"""Complexity: what trainings on many numbers of samples found, as a table, JSON and a figure."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from math import isfinite, sqrt
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Self

from rich.table import Table

from lightning_effcx.metrics.emc import EMC, observed_emc
from lightning_effcx.studies.runner import Row

if TYPE_CHECKING:
    from lightning_effcx.plotting import Axes, Figure

_BARS = 3  # standard errors: many pairs are compared


@dataclass(frozen=True)
class EMCRow:
    """What came of the trainings on `n` samples.

    Attributes:
        n: The number of samples.
        train_error: The mean error on the samples of the training itself.
        train_stderr: Its standard error over repeats; `None` without a repeat.
        test_error: The mean error on the test samples; `None` without such.
        test_stderr: Its standard error over repeats; `None` without a repeat.
        repeats: How many trainings there were; those that failed do not count.
    """

    n: int
    train_error: float
    train_stderr: float | None
    test_error: float | None
    test_stderr: float | None
    repeats: int

    @property
    def bar(self) -> float:
        """How far `train_error` may be off: few repeats may agree by chance, samples less so."""
        share = sqrt(self.train_error * (1 - self.train_error) / (self.n * self.repeats))
        return _BARS * max(share, self.train_stderr or 0)


@dataclass(frozen=True)
class EMCStudy:
    """The effective model complexity of a training procedure, and the trainings that show it.

    Attributes:
        emc: The largest size whose mean training error is at most epsilon; 0 where there is none.
        interval: The next smaller size that was observed, or 0, and the next larger, or `None`.
        epsilon: Up to which error samples count as fitted.
        table: What came of each size, ascending.
        monotone: Whether the training errors rise with the size, within their error bars. Where
            they do not, sizes beyond the complexity may be fitted again.
        failures: Why trainings failed, by their keys. Sizes of which all did are not in the table.
    """

    emc: int
    interval: tuple[int, int | None]
    epsilon: float
    table: tuple[EMCRow, ...]
    monotone: bool
    failures: dict[str, str]

    @classmethod
    def of(cls, rows: Sequence[Row], epsilon: float) -> Self:
        """Gather the rows of all trainings."""
        fine = [row for row in rows if not row.error]
        if not fine:
            raise RuntimeError(
                f"none of {len(rows)} trainings succeeded, the first failed with: {rows[0].error}"
            )
        found = observed_emc(
            [row.job.arguments["n"] for row in fine],
            [row.values["train_error"] for row in fine],
            epsilon=epsilon,
        )
        table = _table(found, fine)
        return cls(
            emc=found.emc,
            interval=(found.lower, found.upper),
            epsilon=epsilon,
            table=table,
            monotone=_rises(table),
            failures={row.job.key: row.error for row in rows if row.error},
        )

    @property
    def censored(self) -> bool:
        """Whether the largest size is still fitted, so that the true value may be any larger."""
        return self.interval[1] is None

    def at(self, n: int) -> EMCRow | None:
        """Return what came of the trainings on `n` samples; `None` if none succeeded."""
        return next((row for row in self.table if row.n == n), None)

    def summary(self) -> str:
        """Say in one sentence what was found."""
        found = f"effective model complexity {self.shown()} at error {self.epsilon:g}"
        beyond = ": all sizes are fitted" if self.censored else f", below {self.interval[1]}"
        doubt = "" if self.monotone else "; training errors fall somewhere, so it may be larger"
        count = len(self.failures)
        failed = f"; {count} training{'s' if count > 1 else ''} failed" if count else ""
        return f"{found}{beyond}{doubt}{failed}"

    def shown(self) -> str:
        """Write the complexity as what is known of it."""
        return f"≥ {self.emc}" if self.censored else str(self.emc)

    def as_table(self) -> Table:
        """Lay it out for a terminal: a row for every size, a line below the complexity."""
        table = Table(caption=self.summary())
        tested = any(row.test_error is not None for row in self.table)
        for name in ("samples", "training error", *(["test error"] if tested else []), "repeats"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in self.table:
            errors = [shown(row.train_error, row.train_stderr)]
            errors += [shown(row.test_error, row.test_stderr)] if tested else []
            table.add_row(str(row.n), *errors, str(row.repeats), end_section=row.n == self.emc)
        return table

    def as_json(self) -> str:
        """Write it as JSON."""
        entries = asdict(self) | {"censored": self.censored}
        return json.dumps(entries, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def plot(self) -> "Figure":
        """Draw the errors over the number of samples, with epsilon and the complexity.

        Bars are one standard error over repeats on both sides.
        """
        from lightning_effcx.plotting import Figure, label_logarithms, simplify  # noqa: PLC0415 an extra

        figure = Figure((5.0, 3.4), layout="constrained")
        axes = figure.add_subplot()
        draw_errors(axes, [(row.n, row) for row in self.table])
        axes.axhline(self.epsilon, color="black", linestyle=":", label=f"ε = {self.epsilon:g}")
        if self.emc:
            name = f"EMC {'' if self.censored else '= '}{self.shown()}"
            axes.axvline(self.emc, color="black", linestyle="--", linewidth=1, label=name)
        label_logarithms(axes, "x", [row.n for row in self.table])
        axes.set_xlabel("samples", fontsize="small")
        axes.set_ylabel("error", fontsize="small")
        simplify(axes)
        axes.legend(fontsize="small", frameon=False)
        return figure


def draw_errors(axes: "Axes", rows: Sequence[tuple[float, EMCRow]]) -> None:
    """Draw training and test error, where it is known, over what stands before each row."""
    from lightning_effcx.plotting import COLOURS  # noqa: PLC0415 an extra

    for which, marker, colour in (("train", "o", COLOURS[0]), ("test", "s", COLOURS[1])):
        places, errors, bars = [], [], []
        for place, row in rows:
            if (error := getattr(row, f"{which}_error")) is not None:
                places.append(place)
                errors.append(error)
                bars.append(getattr(row, f"{which}_stderr") or 0.0)
        name = {"train": "training", "test": "test"}[which]
        if places:
            axes.errorbar(
                places, errors, bars, marker=marker, markersize=3, color=colour, label=name
            )
    axes.set_ylim(bottom=0)


def shown(value: float | None, stderr: float | None = None) -> str:
    """Write a number of a table, with its error bar if it has one; nothing where there is none."""
    if value is None:
        return ""
    return f"{value:.3f}" if stderr is None else f"{value:.3f} ± {stderr:.3f}"


def _table(found: EMC, rows: Sequence[Row]) -> tuple[EMCRow, ...]:
    columns = (found.sizes, found.errors, found.stderrs, found.repeats)
    table = []
    for n, error, stderr, repeats in zip(*(column.tolist() for column in columns), strict=True):
        here = [row.values for row in rows if row.job.arguments["n"] == n]
        tests = [values["test_error"] for values in here if "test_error" in values]
        table.append(
            EMCRow(
                n=n,
                train_error=error,
                train_stderr=stderr if isfinite(stderr) else None,
                test_error=fmean(tests) if tests else None,
                test_stderr=stdev(tests) / sqrt(len(tests)) if len(tests) > 1 else None,
                repeats=repeats,
            )
        )
    return tuple(table)


def _rises(table: Sequence[EMCRow]) -> bool:
    """Tell whether no error is clearly below that of a smaller size, if only by many steps."""
    return all(
        more.train_error >= less.train_error - sqrt(less.bar**2 + more.bar**2)
        for less, more in combinations(table, 2)
    )
