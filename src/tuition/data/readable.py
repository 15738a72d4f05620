"""How pools, transfer sets and accounts show themselves: in a few lines, to a console or in a notebook."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from tuition import escape

LISTED = 5  # names that a line lists


class Readable(ABC):
    """An object whose `repr` is lines that a person reads; it never lists inputs."""

    @abstractmethod
    def lines(self) -> list[str]:
        """A line each: what it is, then what belongs to it."""

    def __repr__(self) -> str:
        return "\n  ".join(escape.line(line) for line in self.lines())

    def _repr_html_(self) -> str:
        first, *others = [escape.page(line) for line in self.lines()]
        return "<br>".join([f"<strong>{first}</strong>", *others])


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return ", ".join(escape.shorten(name, 40) for name in names[:LISTED]) + more


def counted(number: int, word: str) -> str:
    return f"{number:,} {word}" + ("" if number == 1 else "s")
