"""The rooms of the package and the imports between them, read from the source.

`python tests/support/rooms.py [PACKAGE]` prints the map: each floor with its rooms, and under each
room the rooms that it imports. A room is a folder or a file at the top of the package.
"""

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = "lightning_effcx"
ROOT = Path(__file__).parents[2] / PACKAGE


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Return each file by its dotted name within the package, which itself has the empty name."""
    return {_name(file.relative_to(root)): file for file in sorted(root.rglob("*.py"))}


def _name(file: Path) -> str:
    parts = file.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path) -> set[str]:
    """Return what a file imports, also inside functions and for type checkers, by dotted names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} uses a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imports_within(file: Path, known: dict[str, Path]) -> set[str]:
    """Return the files of the package that a file imports, by their dotted names."""
    found: set[str] = set()
    for name in imports(file):
        package, *parts = name.split(".")
        if package == PACKAGE:
            # The last part may be a module, or something that a module defines.
            inside = [".".join(parts), ".".join(parts[:-1])]
            found.add(next(each for each in inside if each in known))
    return found


def room_of(name: str) -> str:
    """Return the room of a file: the first part of its dotted name."""
    return name.partition(".")[0]


def arrows(root: Path = ROOT) -> dict[str, set[str]]:
    """Return for each room the other rooms that its files import."""
    known = modules(root)
    found: dict[str, set[str]] = {room_of(name): set() for name in known if name}
    for name, file in known.items():
        if name:
            below = {room_of(each) for each in imports_within(file, known) if each}
            found[room_of(name)] |= below - {room_of(name)}
    return found


def floors(graph: dict[str, set[str]]) -> list[list[str]]:
    """Sort rooms into floors, lowest first: each room is just above the highest that it imports."""
    level: dict[str, int] = {}
    for room in TopologicalSorter(graph).static_order():
        level[room] = 1 + max((level[below] for below in graph[room]), default=-1)
    return [
        sorted(room for room in level if level[room] == floor)
        for floor in range(1 + max(level.values()))
    ]


def main(root: Path) -> None:
    """Print the map of a package."""
    graph = arrows(root)
    print(f"{len(graph)} rooms, {sum(map(len, graph.values()))} arrows")  # noqa: T201 a script
    try:
        found = floors(graph)
    except CycleError as error:
        print("a circle:", " <- ".join(error.args[1]))  # noqa: T201
        found = [sorted(graph)]
    for floor in reversed(range(len(found))):
        print(f"\nfloor {floor}")  # noqa: T201
        for room in found[floor]:
            print(f"  {room:12}", *(["->", *sorted(graph[room])] if graph[room] else []))  # noqa: T201


if __name__ == "__main__":
    main(Path(*sys.argv[1:2]) if sys.argv[1:] else ROOT)
