"""Run records: `runs.csv`, a row a run; with `spectra.csv`, a row of singular values a run. Accuracies are in percent.

Rows are appended under a lock and reach the disk before `append` returns, so several processes may share a file and a
kill loses at most the row being written: a line without its end is skipped by readers and cut off by the next writer.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from tuition.errors import UserError

RUNS, SPECTRA = "runs.csv", "spectra.csv"
CURVE_POINTS = 60
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run. Numbers a failed run never had are nan."""

    key: str  # content hash of the settings
    dataset: str
    teacher: str
    student: str
    method: str
    calls: int  # inputs of the transfer set
    seed: int
    learning_rate: float
    schedule: str
    epochs: int
    accounting: Literal["published", "matched"]
    purpose: Literal["result", "selection"]
    accuracy: float = math.nan  # test top-1 at the best validation
    accuracy_last: float = math.nan  # test top-1 after the last epoch
    validation: float = math.nan  # best validation accuracy
    top5: float = math.nan
    calibration_error: float = math.nan
    agreement: float = math.nan  # test inputs on which student and teacher agree
    images_seen: int = 0
    steps: int = 0
    seconds: float = math.nan
    paid: int = 0  # teacher calls the run's transfer set stands for
    status: Literal["done", "failed"] = "done"
    error: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)  # all of them, resolved
    curve: list[list[float]] = field(default_factory=list)  # [epoch, train loss, validation accuracy]


def thin(curve: Sequence[Sequence[float]], points: int = CURVE_POINTS) -> list[list[float]]:
    """At most `points` rows of a curve, evenly spread, first and last kept; four significant digits."""
    count = min(points, len(curve))
    rows = [curve[round(i * (len(curve) - 1) / max(1, count - 1))] for i in range(count)]
    return [[float(f"{value:.4g}") for value in row] for row in rows]


def append(directory: Path, record: Record) -> None:
    """Add one run to DIR/runs.csv."""
    row = asdict(record) | {"curve": thin(record.curve)}
    for name, value in row.items():
        if isinstance(value, str):
            row[name] = " ".join(value.split())  # a row is one line
        elif isinstance(value, (dict, list)):
            row[name] = json.dumps(value, separators=(",", ":"))
    _append_row(Path(directory) / RUNS, row)


def append_spectrum(directory: Path, key: str, singular_values: Iterable[float]) -> None:
    """Add the singular values (descending) of the run `key` to DIR/spectra.csv."""
    values = json.dumps([float(f"{value:.6g}") for value in singular_values], separators=(",", ":"))
    _append_row(Path(directory) / SPECTRA, {"key": key, "singular_values": values})


def read(*directories: Path) -> list[Record]:
    """The runs of several folders, each key once: a run that is done replaces one that failed, a later row an earlier.

    Raises:
        UserError: a folder without runs.csv, a column missing, or a value that does not parse.
    """
    merged: dict[str, Record] = {}
    for directory in directories:
        path = Path(directory) / RUNS
        if not path.is_file():
            raise UserError(f"there is no {RUNS} in {directory}; name a folder that `tuition study --out` has written.")
        for record in _rows(path, _parse):
            if record.status == "done" or record.key not in merged or merged[record.key].status == "failed":
                merged[record.key] = record
    return list(merged.values())


def read_spectra(*directories: Path) -> dict[str, list[float]]:
    """Singular values by run key; a folder without spectra.csv has none."""
    paths = [path for directory in directories if (path := Path(directory) / SPECTRA).is_file()]
    return dict(
        row for path in paths for row in _rows(path, lambda row: (row["key"], json.loads(row["singular_values"])))
    )


def _parse(row: dict[str, str]) -> Record:
    parsers: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "dict": json.loads, "list": json.loads}
    return Record(
        **{column.name: parsers.get(str(column.type).split("[")[0], str)(row[column.name]) for column in fields(Record)}
    )


def _rows(path: Path, parse: Callable[[dict[str, str]], T]) -> list[T]:
    """Every whole line of a file, parsed."""
    content = path.read_bytes()
    reader = csv.DictReader(io.StringIO(content[: content.rfind(b"\n") + 1].decode(), newline=""), strict=True)
    try:
        return [parse(row) for row in reader]
    except KeyError as error:
        raise UserError(f"{path} lacks the column {error}; it was written by another version or edited.") from error
    except (ValueError, TypeError, csv.Error) as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}; mend or delete that line.") from error


def _append_row(path: Path, row: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(row.values())
    header = (",".join(row) + "\n").encode()
    with open(path, "ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released by closing, and by the system if the process dies
        file.seek(0)
        first = file.readline()
        if first.endswith(b"\n") and first != header:
            raise UserError(f"{path} has other columns than this version writes; continue in a new folder.")
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        if file.read() != b"\n":  # new, or a writer was killed in the middle of its line
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        file.write((b"" if file.seek(0, os.SEEK_END) else header) + text.getvalue().encode())
        file.flush()
        os.fsync(file.fileno())
