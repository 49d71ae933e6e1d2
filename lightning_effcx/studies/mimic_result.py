"""Mimicry: what a study of students found, as a table, as JSON and as a figure."""

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rich.table import Table

from lightning_effcx.studies.emc_result import shown

if TYPE_CHECKING:
    from lightning_effcx.plotting import Axes, Figure


@dataclass(frozen=True)
class Mimicry:
    """How well one network does what the teacher does, at the samples held out.

    Attributes:
        hidden: How many hidden units the student has; `None` for the teacher.
        parameters: How many it has; `None` for a teacher that is no module.
        relative: That, as a share of how many the teacher has.
        r2: Share of the spread of the teacher's logits that it explains.
        r2_stderr: Standard error of that.
        mse: Mean square of what it misses, over samples and logits.
        agreement: Share of the samples for which it decides as the teacher does.
        agreement_stderr: Standard error of that.
        accuracy: Share of the samples for which it decides for the label.
        accuracy_on_labels: The same, when the student is fitted to the labels.
        error: Why one of its trainings failed, if one did.
    """

    hidden: int | None = None
    parameters: int | None = None
    relative: float | None = None
    r2: float | None = None
    r2_stderr: float | None = None
    mse: float | None = None
    agreement: float | None = None
    agreement_stderr: float | None = None
    accuracy: float | None = None
    accuracy_on_labels: float | None = None
    error: str = ""

    def within(self, tolerance: float) -> bool:
        """Tell whether it misses at most this share of the spread, and of the decisions."""
        if self.r2 is None or self.agreement is None:
            return False
        return min(self.r2, self.agreement) >= 1 - tolerance


@dataclass(frozen=True)
class MimicStudy:
    """What a study found.

    Attributes:
        table: The students, from the smallest to the largest, then the teacher.
        tolerance: What a student may miss.
    """

    table: tuple[Mimicry, ...]
    tolerance: float

    @property
    def size(self) -> int | None:
        """Hidden units of the smallest student within tolerance; `None` if there is none."""
        return next((row.hidden for row in self.students if row.within(self.tolerance)), None)

    @property
    def students(self) -> tuple[Mimicry, ...]:
        """The rows of the students."""
        return self.table[:-1]

    @property
    def teacher(self) -> Mimicry:
        """The row of the teacher."""
        return self.table[-1]

    @property
    def failures(self) -> dict[str, str]:
        """Why trainings failed, by the size of the student."""
        return {f"{row.hidden} units": row.error for row in self.students if row.error}

    def as_table(self) -> Table:
        """Lay it out for a terminal, the smallest student within tolerance in bold."""
        size = self.size
        found = f"{size} units are" if size else f"none of {len(self.students)} students is"
        table = Table(caption=f"{found} within {self.tolerance:g} of the teacher")
        for name in ("units", "parameters", "relative", "R²", "MSE", "agreement"):
            table.add_column(name, justify="right")
        labelled = self.teacher.accuracy is not None
        for name in ("accuracy", "on labels") if labelled else ():
            table.add_column(name, justify="right")
        for row in self.table:
            cells = [
                "teacher" if row.hidden is None else str(row.hidden),
                "" if row.parameters is None else str(row.parameters),
                shown(row.relative),
                shown(row.r2, row.r2_stderr),
                "" if row.mse is None else f"{row.mse:.3g}",
                shown(row.agreement, row.agreement_stderr),
                *([shown(row.accuracy), shown(row.accuracy_on_labels)] if labelled else []),
            ]
            is_size = size is not None and row.hidden == size
            table.add_row(*cells, style="bold" if is_size else None)
        for column in table.columns:
            column.no_wrap = True
        return table

    def as_json(self) -> str:
        """Write it as JSON; what is unknown becomes null."""
        entries = {
            "size": self.size,
            "tolerance": self.tolerance,
            "table": [asdict(row) for row in self.table],
        }
        return json.dumps(entries, indent=2, ensure_ascii=False) + "\n"

    def plot(self) -> "Figure":
        """Draw R² and agreement, and accuracies, over the hidden units."""
        from lightning_effcx.plotting import Figure  # noqa: PLC0415 an extra

        labelled = self.teacher.accuracy is not None
        figure = Figure((7.5 if labelled else 4, 3), layout="constrained")
        left, *right = figure.subplots(1, 1 + labelled, squeeze=False)[0]
        self._draw(left, {"r2": "R²", "agreement": "agreement"})
        left.axhline(1 - self.tolerance, color="0.5", linestyle=":", label="tolerance")
        left.set_ylim(bottom=max(left.get_ylim()[0], -0.05))  # a bad student's R² has no bound
        left.set_title("with the teacher", fontsize="medium", loc="left")
        for axes in right:
            fits = {"accuracy": "fitted to logits", "accuracy_on_labels": "fitted to labels"}
            self._draw(axes, fits)
            axes.axhline(self.teacher.accuracy, color="0.5", linestyle=":", label="teacher")
            axes.set_title("accuracy", fontsize="medium", loc="left")
        for axes in (left, *right):
            axes.legend(fontsize="small", frameon=False)
        return figure

    def _draw(self, axes: "Axes", curves: dict[str, str]) -> None:
        from lightning_effcx.plotting import COLOURS, label_logarithms, simplify  # noqa: PLC0415 an extra

        for (name, label), colour in zip(curves.items(), COLOURS[:2], strict=True):
            points = [
                (row.hidden, value)
                for row in self.students
                if (value := getattr(row, name)) is not None
            ]
            if points:
                axes.plot(*zip(*points, strict=True), "o-", color=colour, label=label, ms=4)
        sizes = [row.hidden or 0 for row in self.students]
        label_logarithms(axes, "x", sizes)
        axes.set_xlabel("hidden units", fontsize="small")
        simplify(axes)
