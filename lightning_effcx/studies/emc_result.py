"""The result of a study of effective model complexity, as a table, as JSON and as a figure."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from math import isfinite, sqrt
from statistics import fmean
from typing import TYPE_CHECKING, Self, TypeAlias

import torch
from rich.table import Table

from lightning_effcx.metrics.emc import EMC, observed_emc
from lightning_effcx.metrics.error_bars import BAR, standard_error, widening
from lightning_effcx.studies.runner import Row

if TYPE_CHECKING:
    from lightning_effcx.plotting import Axes, Figure

_Points: TypeAlias = list[tuple[float, float | None, float | None]]
"""Where, and how large an error is, and its standard error."""

_BARS = 3  # standard errors; not 2, because many pairs are compared


@dataclass(frozen=True)
class EMCRow:
    """The mean errors of the trainings on `n` samples.

    Attributes:
        n: The number of samples.
        train_error: The mean error of each training on its own samples.
        train_stderr: The standard error of `train_error` over repeats, widened for few repeats;
            `None` for one training.
        test_error: The mean error on the test samples; `None` without test samples.
        test_stderr: The same of `test_error`.
        repeats: How many trainings succeeded.
    """

    n: int
    train_error: float
    train_stderr: float | None
    test_error: float | None
    test_stderr: float | None
    repeats: int

    @property
    def bar(self) -> float:
        """How far `train_error` may be off.

        A few repeats may agree by chance, so it is at least the binomial error over all samples.
        With that, the spread of the repeats needs no widening.
        """
        binomial = sqrt(self.train_error * (1 - self.train_error) / (self.n * self.repeats))
        spread = self.train_stderr / widening(self.repeats) if self.train_stderr else 0.0
        return _BARS * max(binomial, spread)


@dataclass(frozen=True)
class EMCStudy:
    """The effective model complexity of a training procedure, and the errors it follows from.

    Attributes:
        emc: The largest size whose mean training error is at most epsilon; 0 if there is none.
        interval: The next smaller size that was tried, or 0; and the next larger one, or `None`.
        epsilon: The error up to which samples count as fitted.
        table: The errors at each size, ascending. A size at which all trainings failed is missing.
        monotone: Whether the training errors rise with the size, within their error bars. If they
            do not, sizes beyond `emc` may be fitted, too.
        failures: Why trainings failed, by key.
    """

    emc: int
    interval: tuple[int, int | None]
    epsilon: float
    table: tuple[EMCRow, ...]
    monotone: bool
    failures: dict[str, str]

    @classmethod
    def of(cls, rows: Sequence[Row], epsilon: float) -> Self:
        """Average the rows of all trainings."""
        fine = [row for row in rows if not row.error]
        if not fine:
            raise RuntimeError(f"all trainings failed, the first one with: {rows[0].error}")
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
        """Whether the largest size is fitted, so that `emc` is only a lower bound."""
        return self.interval[1] is None

    def at(self, n: int) -> EMCRow | None:
        """Return the errors at `n` samples; `None` if no training succeeded."""
        return next((row for row in self.table if row.n == n), None)

    def summary(self) -> str:
        """Return the finding in one sentence."""
        found = f"effective model complexity {self.emc_text()} at error {self.epsilon:g}"
        beyond = ": all sizes are fitted" if self.censored else f", below {self.interval[1]}"
        doubt = "" if self.monotone else "; training errors fall somewhere, so it may be larger"
        count = len(self.failures)
        failed = f"; {count} training{'s' if count > 1 else ''} failed" if count else ""
        return f"{found}{beyond}{doubt}{failed}"

    def emc_text(self) -> str:
        """Return the complexity as text, with `≥` if it is a lower bound."""
        return f"≥ {self.emc}" if self.censored else str(self.emc)

    def as_table(self) -> Table:
        """Return a table for a terminal: a row for each size, with a line below the complexity."""
        table = Table(caption=self.summary())
        tested = any(row.test_error is not None for row in self.table)
        for name in ("samples", "training error", *(["test error"] if tested else []), "repeats"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in self.table:
            errors = [number_text(row.train_error, row.train_stderr)]
            if tested:
                errors.append(number_text(row.test_error, row.test_stderr))
            table.add_row(str(row.n), *errors, str(row.repeats), end_section=row.n == self.emc)
        return table

    def as_json(self) -> str:
        """Return everything as JSON."""
        entries = asdict(self) | {"censored": self.censored}
        return json.dumps(entries, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def plot(self) -> "Figure":
        """Draw the errors over the number of samples, with epsilon and the complexity.

        The bars are 95 % intervals over repeats.
        """
        from lightning_effcx.plotting import Figure, label_logarithms, simplify  # noqa: PLC0415 an extra

        figure = Figure((5.0, 3.4), layout="constrained")
        axes = figure.add_subplot()
        draw_errors(axes, [(row.n, row) for row in self.table])
        axes.axhline(self.epsilon, color="black", linestyle=":", label=f"ε = {self.epsilon:g}")
        if self.emc:
            name = f"EMC {'' if self.censored else '= '}{self.emc_text()}"
            axes.axvline(self.emc, color="black", linestyle="--", linewidth=1, label=name)
        label_logarithms(axes, "x", [row.n for row in self.table])
        axes.set_xlabel("samples", fontsize="small")
        axes.set_ylabel("error", fontsize="small")
        simplify(axes)
        axes.legend(fontsize="small", frameon=False)
        return figure


def draw_errors(axes: "Axes", rows: Sequence[tuple[float, EMCRow]]) -> None:
    """Draw training and test errors, as far as they are known, with 95 % intervals.

    Args:
        axes: The panel.
        rows: The errors, each with its place on the horizontal axis.
    """
    from lightning_effcx.plotting import COLOURS  # noqa: PLC0415 an extra

    train: _Points = [(place, row.train_error, row.train_stderr) for place, row in rows]
    test: _Points = [(place, row.test_error, row.test_stderr) for place, row in rows]
    styles = {"training": ("o", COLOURS[0]), "test": ("s", COLOURS[1])}
    for name, points in {"training": train, "test": test}.items():
        marker, colour = styles[name]
        known = [(place, e, BAR * (stderr or 0.0)) for place, e, stderr in points if e is not None]
        if known:
            places, errors, bars = zip(*known, strict=True)
            axes.errorbar(
                places, errors, bars, marker=marker, markersize=3, color=colour, label=name
            )
    axes.set_ylim(bottom=0)


def number_text(value: float | None, stderr: float | None = None) -> str:
    """Return a number of a table as text, with its standard error if known; empty for `None`."""
    if value is None:
        return ""
    return f"{value:.3f}" if stderr is None else f"{value:.3f} ± {stderr:.3f}"


def _table(found: EMC, rows: Sequence[Row]) -> tuple[EMCRow, ...]:
    """Return the mean errors at each size; training errors are averaged in `found`."""
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
                test_stderr=_stderr(tests),
                repeats=repeats,
            )
        )
    return tuple(table)


def _stderr(errors: list[float]) -> float | None:
    """Return the standard error of a mean over repeats; `None` for fewer than two."""
    stderr = standard_error(torch.tensor(errors, dtype=torch.float64))
    return None if stderr is None else float(stderr)


def _rises(table: Sequence[EMCRow]) -> bool:
    """Tell whether no size has an error that is clearly below the error of a smaller size.

    All pairs are compared, not only neighbours: many small steps may add up to a clear fall.
    """
    return all(
        more.train_error >= less.train_error - sqrt(less.bar**2 + more.bar**2)
        for less, more in combinations(table, 2)
    )
