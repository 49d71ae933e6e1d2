"""The support matrix in `examples/README.md`: which measure has a value for which kind of network.

Networks that all measures treat alike share a row, and measures that hold for the same networks
share a column.
"""

import re
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from user_architectures import NETWORKS
from watched_trainings import Training, metrics

GALLERY = Path(__file__).parents[2] / "examples" / "README.md"
BEGIN = "<!-- Made by `python tests/support/architectures.py --write`. -->\n"
END = "<!-- End of the support matrix. -->\n"

Key = TypeVar("Key", bound=Hashable)


def matrix(found: Mapping[str, Training]) -> str:
    """Write the matrix as a Markdown table."""
    rows = together({name: tuple(m in found[name].values for m in metrics()) for name in NETWORKS})
    columns = together({m: tuple(m in found[name].values for name in NETWORKS) for m in metrics()})
    lines = [
        cells(["network", *(join_words(map(class_of, same)) for same in columns)]),
        cells(["---", *(":---:" for _ in columns)]),
    ]
    for names in rows:
        marks = ("yes" if same[0] in found[names[0]].values else "no" for same in columns)
        lines.append(cells([join_words(names), *marks]))
    return "".join(lines)


def together(answers: Mapping[str, Key]) -> list[list[str]]:
    """Put names with the same answers together, in the order of the first of each."""
    groups: dict[Key, list[str]] = {}
    for name, answer in answers.items():
        groups.setdefault(answer, []).append(name)
    return [*groups.values()]


def class_of(measure: str) -> str:
    """Return the name by which a user makes the metric."""
    name = type(metrics()[measure]).__name__
    return f'`{name}(of="probabilities")`' if measure.endswith("probabilities") else f"`{name}`"


def join_words(names: Iterable[str]) -> str:
    return "<br>".join(names)


def cells(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |\n"


def shown(text: str) -> str:
    """Return the matrix that a text contains."""
    (found,) = re.findall(f"{re.escape(BEGIN)}\n(.*?)\n{re.escape(END)}", text, re.DOTALL)
    return found


def replaced(text: str, by: str) -> str:
    """Return a text with another matrix in it."""
    return text.replace(shown(text), by)
