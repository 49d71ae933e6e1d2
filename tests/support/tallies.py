"""Tallies: how many networks were equal, refused, wrong or ended in a traceback."""

from collections import Counter

from verdicts import EXACT, Verdict


class Tally:
    """Collects the verdicts of many networks.

    Attributes:
        bad: What was wrong or ended in a traceback, in words.
    """

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self.by_measure: Counter[tuple[str, str]] = Counter()
        self.networks: Counter[str] = Counter()
        self.bad: list[str] = []

    def add(self, name: str, verdicts: list[Verdict]) -> None:
        """Add the verdicts of one network."""
        for each in verdicts:
            self.by_measure[each.measure, each.kind] += 1
            if each.kind in {"wrong", "traceback"}:
                self.bad.append(f"{name}: {each.measure}: {each.kind}: {each.why}")
        kinds = {each.kind for each in verdicts if each.measure in EXACT}
        worst = ("traceback", "wrong", "equal", "refused")
        self.networks[next(kind for kind in worst if kind in kinds)] += 1

    def __str__(self) -> str:
        networks = ", ".join(f"{n} {kind}" for kind, n in sorted(self.networks.items()))
        measures = "; ".join(
            f"{measure} {kind} {n}" for (measure, kind), n in sorted(self.by_measure.items())
        )
        return f"{self.networks.total()} {self.noun}: {networks} ({measures})"
