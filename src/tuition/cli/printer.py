"""What a command prints: tables or one JSON object on standard output, sentences and progress on standard error."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tuition import escape, progress, stopping
from tuition.cli import output
from tuition.cli.values import cell, plain
from tuition.errors import Notice

LONGEST = 1000  # characters of a sentence


class Fact(NamedTuple):
    """One figure: its key in the JSON object ("a.b" is b in the object a; "" is not in it), its label, its value."""

    key: str
    label: str
    value: Any
    text: str = ""


class Printer:
    """Prints what a command has to say.

    Args:
        as_json: print one JSON object in place of tables.
        quiet: drop sentences, warnings and progress.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json, self._object = as_json, dict[str, Any]()
        self._err = io.StringIO() if quiet else output.ERR

    def say(self, text: str, **values: Any) -> None:
        """Print a sentence; the values that it is made of go into the JSON object."""
        self.record(**values)
        self._err.write(f"{escape.shorten(escape.line(text), LONGEST)}\n")

    def warn(self, text: str) -> None:
        """Print a sentence that even a quiet command prints: something was not done."""
        output.say(text)

    def record(self, **values: Any) -> None:
        """Put values into the JSON object alone."""
        self._object |= values

    def facts(self, title: str, facts: Iterable[Fact]) -> None:
        """Print a table of two columns, label and value."""
        table = output.new_table(title, "", "")
        for fact in facts:
            self._put(fact.key, fact.value)
            table.add_row(fact.label, fact.text or cell(fact.value))
        self._show(table)

    def _put(self, key: str, value: Any) -> None:
        *path, last = key.split(".")
        place = self._object
        for part in path:
            place = place.setdefault(part, {})
        if last:
            place[last] = value

    def table(
        self,
        title: str,
        columns: Mapping[Any, str],
        rows: Iterable[Mapping[Any, Any]],
        *,
        key: str | None = None,
        text: int = 1,
    ) -> None:
        """Print rows; `columns` are their keys and headings, of which the first `text` hold text."""
        rows = list(rows)
        if key is not None:
            self._object[key] = rows
        table = output.new_table(title, *columns.values(), text=text)
        for row in rows:
            table.add_row(*(cell(row.get(column)) for column in columns))
        self._show(table)

    def show(self, text: str) -> None:
        """Print a line where tables are printed."""
        self._show(escape.line(text))

    def _show(self, content: Any) -> None:
        if not self.as_json:
            output.show_table(content)

    @property
    def is_interactive(self) -> bool:
        """Whether there is a person to ask."""
        return sys.stdin is not None and sys.stdin.isatty() and output.ERR.isatty()

    def confirms(self, question: str) -> bool:
        """Ask a person on a terminal; whether the answer is yes."""
        output.ERR.write(f"{escape.line(question)} [y/N] ")
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    @contextlib.contextmanager
    def printing(self) -> Iterator[None]:
        """Print warnings as sentences inside, and the JSON object after it."""
        with warnings.catch_warnings():
            warnings.showwarning = self._warned  # type: ignore[assignment]
            yield
        if self.as_json:
            output.data(json.dumps(plain(self._object), indent=2) + "\n")

    def _warned(self, message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
        """A warning as a line: what a user should know, without a place in the code."""
        text = str(message)
        if issubclass(category, Notice):
            self.say(f"Note: {text[0].upper()}{text[1:]}")
        else:
            self.say(warnings.formatwarning(message, category, filename, lineno).rstrip())

    @contextlib.contextmanager
    def counting(self, unit: str) -> Iterator[Callable[[int, int], None]]:
        """Progress; called with (done, total)."""
        with stopping.keeping(), progress.counting(unit, self._err) as advance:
            yield advance

    @contextlib.contextmanager
    def phases(self) -> Iterator[Callable[[str, int, int], None]]:
        """Progress of one phase after another; called with (what is counted, done, total)."""
        with stopping.keeping(), progress.phases(self._err) as advance:
            yield advance

    @contextlib.contextmanager
    def training(self) -> Iterator[Callable[[int, int, Mapping[str, float]], None]]:
        """Progress of epochs, with their figures."""
        with stopping.keeping(), progress.training(self._err) as show:
            yield show
