"""A table: cells for people, data for programs, and its files in Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tuition import disk, escape
from tuition.learning_curve import CallsNeeded, IntervalEstimate
from tuition.studies.templating import render


class Cell(NamedTuple):
    """`text`, then `detail` in small print; `value` is what a column is sorted by."""

    text: str
    detail: str = ""
    value: float | None = None
    best: bool = False


Heads = tuple[Cell, ...]
Row = Mapping[str, Any]
UNKNOWN = Cell("-")


@dataclass(frozen=True)
class Table:
    """Rows of cells for people, and `data`, one measured quantity a row, for CSV."""

    name: str
    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    data: Sequence[Row] = ()

    @property
    def kind(self) -> str:
        return self.name.partition("-")[0]


def fill(
    data: Iterable[Row], column: str, values: Sequence[Any], heads: Callable[[Row], Heads], cell: Callable[[Row], Cell]
) -> list[list[Cell]]:
    """Table rows from quantities: a row for each of `heads`, and a cell for each of the column's values."""
    rows: dict[Heads, dict[Any, Cell]] = {}
    for quantity in data:
        rows.setdefault(heads(quantity), {})[quantity[column]] = cell(quantity)
    return [[*names, *(cells.get(value, UNKNOWN) for value in values)] for names, cells in rows.items()]


def counts(values: Iterable[float]) -> list[Cell]:
    return [count(IntervalEstimate(value)) for value in values]


def count(estimate: IntervalEstimate | CallsNeeded) -> Cell:
    known = math.isfinite(estimate.low) or math.isfinite(estimate.high)
    interval = f"[{_end(estimate.low)}, {_end(estimate.high)}]" if known else ""
    if math.isnan(estimate.value):
        return Cell("-", interval)
    return Cell(f"{estimate.value:,.0f}", interval, estimate.value)


def percent(estimate: IntervalEstimate) -> Cell:
    if math.isnan(estimate.value):
        return UNKNOWN
    ends = (f"{end:.1f}" if -math.inf < end < 100 else "unknown" for end in (estimate.low, estimate.high))
    return Cell(f"{estimate.value:.1f} %", "" if math.isnan(estimate.low) else f"[{', '.join(ends)}]", estimate.value)


def _end(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "below range" if value < 0 else "beyond range"


def markdown(table: Table) -> str:
    return render("table.md", table=table)


def latex(table: Table) -> str:
    """A `table` environment for the package booktabs."""
    return render("table.tex", table=table)


def comma_separated(table: Table) -> str:
    """The data behind the table, unrounded, one quantity a row; unknown is empty."""
    names = list(dict.fromkeys(name for row in table.data for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(escape.cell, names))
    for row in table.data:
        values = (escape.cell(row.get(name, "")) for name in names)
        writer.writerow("" if isinstance(value, float) and math.isnan(value) else value for value in values)
    return text.getvalue()


WRITERS: dict[str, Callable[[Table], str]] = {".md": markdown, ".tex": latex, ".csv": comma_separated}


def write(tables: Iterable[Table], directory: Path) -> None:
    """Write each table as Markdown, LaTeX and CSV."""
    directory.mkdir(parents=True, exist_ok=True)
    for table in tables:
        for suffix, text in WRITERS.items():
            disk.write(directory / f"{table.name}{suffix}", text(table).encode())
