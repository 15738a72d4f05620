"""Run records: `runs.csv`, a row a run; with `spectra.csv`, a row of singular values a run. Accuracies are in percent.

Rows are appended under a lock and reach the disk before `append` returns, so several processes may share a file and a
kill loses at most the row being written: a line without its end is skipped by readers and cut off by the next writer.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import math
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, TypeVar

from tuition import escape
from tuition.errors import UserError
from tuition.studies.names import label

RUNS, SPECTRA = "runs.csv", "spectra.csv"
CURVE_POINTS = 60
SPECTRAL = ("features", "logits")  # the outputs of a student whose spectra figure 5 shows
Spectra = Mapping[str, Sequence[float]]  # output -> singular values, descending
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run. Numbers that a failed run lacks are nan."""

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
    agreement: float = math.nan  # inputs of the transfer set on which student and teacher agree
    images_seen: int = 0
    steps: int = 0
    seconds: float = math.nan
    paid: int = 0  # answers in the run's transfer set
    status: Literal["done", "failed"] = "done"
    error: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)  # all of them, resolved
    curve: list[list[float]] = field(
        default_factory=list
    )  # [epoch, train loss, validation accuracy], and the offset where it is noted
    teacher_accuracy: float = math.nan  # inputs of the transfer set on which the teacher is right


def thin(curve: Sequence[Sequence[float]], points: int = CURVE_POINTS) -> list[list[float]]:
    """At most `points` rows of a curve, evenly spread, first and last kept; four significant digits."""
    count = min(points, len(curve))
    rows = [curve[round(i * (len(curve) - 1) / max(1, count - 1))] for i in range(count)]
    return [[float(f"{value:.4g}") for value in row] for row in rows]


def append(directory: Path, record: Record) -> None:
    """Add one run to DIR/runs.csv."""
    row = asdict(record) | {"curve": thin(record.curve), "error": escape.shorten(record.error)}
    for name, value in row.items():
        if isinstance(value, str):
            row[name] = escape.cell(" ".join(value.split()))  # a row is one line
        elif isinstance(value, (dict, list)):
            row[name] = json.dumps(value, separators=(",", ":"))
    _append_row(Path(directory) / RUNS, row)


def append_spectra(directory: Path, key: str, spectra: Spectra) -> None:
    """Add the spectra of the run `key` to DIR/spectra.csv."""
    rounded = {output: [float(f"{value:.6g}") for value in spectra[output]] for output in SPECTRAL}
    row = {output: json.dumps(values, separators=(",", ":")) for output, values in rounded.items()}
    _append_row(Path(directory) / SPECTRA, {"key": key, **row})


def read(*directories: Path) -> list[Record]:
    """The runs of several folders, each once: a run that is done replaces one that failed, a later row an earlier.

    A run that is used several times (selection and result, both accountings) has a row for each use, with one key.

    Raises:
        UserError: a folder without runs.csv, a column missing, or a value that does not parse.
    """
    merged: dict[tuple[str, str, str], Record] = {}
    for directory in directories:
        path = Path(directory) / RUNS
        if not path.is_file():
            raise UserError(f"{RUNS} was not found in {directory}; name a folder that `tuition study --out` wrote.")
        for record in read_rows(path, _parse):
            use = record.key, record.purpose, record.accounting
            if record.status == "done" or use not in merged or merged[use].status == "failed":
                merged[use] = record
    done = {record.key for record in merged.values() if record.status == "done"}
    return [record for record in merged.values() if record.status == "done" or record.key not in done]


def read_spectra(*directories: Path) -> dict[str, Spectra]:
    """Spectra by run key; a folder without spectra.csv has none."""
    paths = [path for directory in directories if (path := Path(directory) / SPECTRA).is_file()]

    def parse(row: dict[str, str]) -> tuple[str, Spectra]:
        return row["key"], {output: _spectrum(output, row[output]) for output in SPECTRAL}

    return dict(row for path in paths for row in read_rows(path, parse))


def _spectrum(name: str, text: str) -> list[float]:
    values = json.loads(text)
    if not isinstance(values, list) or not values:
        raise ValueError(f"{name} is not a list of numbers")
    return [_number(name, value, 0) for value in values]


NEWEST = "teacher_accuracy"  # the last column, which older files lack
PERCENT = {"accuracy", "accuracy_last", "validation", "top5", "calibration_error", "agreement", "teacher_accuracy"}
KNOWN = {
    "accounting": ("published", "matched"),
    "purpose": ("result", "selection"),
    "status": ("done", "failed"),
}
LARGEST = sys.float_info.max  # a learning rate of 1e30 fails, but is a number
LONGEST_CURVE = 10_000  # rows
LONGEST_SETTING = 10_000  # characters; settings identify runs, so they are not cut to the length of a message


def _parse(row: dict[str, str]) -> Record:
    """A record whose numbers are finite and bounded, and whose words are known ones."""
    parsers: dict[str, Callable[[str, str], Any]] = {"int": natural, "float": _figure, "dict": _mapping, "list": _curve}
    return Record(
        **{
            column.name: parsers.get(str(column.type).split("[")[0], _word)(column.name, row[column.name])
            for column in fields(Record)
            if column.name != NEWEST or NEWEST in row
        }
    )


def _word(name: str, text: str) -> str:
    if text is None or text not in KNOWN.get(name, (text,)):
        raise ValueError(f"{name} is {escape.shorten(text, 40)!r}, not one of {', '.join(KNOWN.get(name, ()))}")
    return escape.shorten(escape.uncell(text))


def natural(name: str, text: str) -> int:
    count = int(text)
    if not 0 <= count < 2**63:
        raise ValueError(f"{name} is out of range")
    return count


def _figure(name: str, text: str) -> float:
    figure = float(text)
    if math.isnan(figure) and name != "learning_rate":
        return figure
    return _number(name, figure, 0, 100 if name in PERCENT else LARGEST)


def _number(name: str, value: object, low: float = -LARGEST, high: float = LARGEST) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{name} holds {escape.shorten(repr(value), 40)}, not a number from {low:g} to {high:g}")
    return value


def _mapping(name: str, text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"{name} is not a mapping")
    return {escape.shorten(key): _plain(name, below) for key, below in value.items()}


def _plain(name: str, value: Any, depth: int = 4) -> Any:
    """A value of JSON, its texts shortened, its numbers bounded."""
    if depth == 0:
        raise ValueError(f"{name} is nested too deeply")
    if isinstance(value, dict):
        return {escape.shorten(key): _plain(name, below, depth - 1) for key, below in value.items()}
    if isinstance(value, list):
        return [_plain(name, below, depth - 1) for below in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _number(name, value)
    return escape.shorten(value, LONGEST_SETTING) if isinstance(value, str) else value


def _curve(name: str, text: str) -> list[list[float]]:
    """Rows of (epoch, train loss, validation accuracy), and the offset where it is noted; nan: not measured."""
    rows = json.loads(text)
    if not isinstance(rows, list) or len(rows) > LONGEST_CURVE:
        raise ValueError(f"{name} is not a list of at most {LONGEST_CURVE:,} points")
    for point in rows:
        if not isinstance(point, list) or len(point) not in (3, 4) or len(point) != len(rows[0]):
            raise ValueError(f"{name} holds a point that is not three numbers, or four")
        for value in point:
            if not (isinstance(value, float) and math.isnan(value)):
                _number(name, value)
    return rows


def read_rows(path: Path, parse: Callable[[dict[str, str]], T]) -> list[T]:
    """Every complete line of a file, parsed."""
    content = path.read_bytes()
    if content.count(b"\0"):
        raise UserError(f"{path} holds zero bytes; it is damaged, restore a copy of it.")
    try:
        text = content[: content.rfind(b"\n") + 1].decode()
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8; restore a copy of it.") from None
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        return [parse(row) for row in reader]
    except KeyError as error:
        raise UserError(f"{path} lacks the column {error}; it was written by another version or edited.") from error
    except (ValueError, TypeError, RecursionError, csv.Error) as error:
        why = escape.shorten(error, 200)
        raise UserError(f"{path}, line {reader.line_num}: {why}; correct or delete that line.") from error


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


ACCOUNTINGS = {"published": "steps as published", "matched": "equal inputs seen"}


@dataclass(frozen=True)
class Section:
    """Runs of equal data, pair, schedule and accounting, which may be averaged over seeds and compared."""

    dataset: str
    teacher: str
    student: str
    schedule: str
    accounting: str
    runs: list[Record]  # results that are done
    selection: list[Record]

    @property
    def title(self) -> str:
        return f"{label(self.dataset)}, {label(self.teacher)} → {label(self.student)}"

    @property
    def conditions(self) -> str:
        epochs = sorted({run.epochs for run in self.runs + self.selection})
        span = f"{epochs[0]}" if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}"
        return f"{self.schedule} schedule, {span} epochs, {ACCOUNTINGS[self.accounting]}{self._more_images}"

    @property
    def _more_images(self) -> str:
        """Which runs see more images than others of the same calls and epochs."""
        settings = [flatten(run.settings) for run in self.runs + self.selection]
        several = {"in rounds": any(each.get("rounds", 1) != 1 or each.get("until") for each in settings)}
        several |= {"with unasked inputs": any(each.get("unasked") for each in settings)}
        more = " and ".join(words for words, there in several.items() if there)
        return f", more {more}" if more else ""

    @property
    def slug(self) -> str:
        words = "-".join((self.dataset, self.teacher, self.student, self.schedule, self.accounting))
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in words)
        return name if len(name.encode()) <= 150 else f"{name[:30]}-{hashlib.sha256(words.encode()).hexdigest()[:16]}"

    @property
    def calls(self) -> list[int]:
        return sorted({run.calls for run in self.runs})

    @cached_property
    def curves(self) -> dict[str, dict[int, dict[int, float]]]:
        """method -> calls -> seed -> accuracy, the best method first."""
        curves: dict[str, dict[int, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
        for run in self.runs:
            curves[run.method][run.calls][run.seed] = run.accuracy

        def rank(item: tuple[str, dict[int, dict[int, float]]]) -> tuple[int, float]:
            most = max(item[1])
            return most, fmean(item[1][most].values())

        return dict(sorted(curves.items(), key=rank, reverse=True))

    @property
    def focus(self) -> str:
        """The method that the others are compared with: ckd if it was run, else the best."""
        return "ckd" if "ckd" in self.curves else next(iter(self.curves))


def sections(runs: Iterable[Record]) -> list[Section]:
    """Group the runs that are done. Methods run with several values of a setting become several methods."""
    groups: dict[tuple[str, str, str, str, str], list[Record]] = defaultdict(list)
    for run in runs:
        if run.status == "done":
            groups[run.dataset, run.teacher, run.student, run.schedule, run.accounting].append(run)
    return [
        Section(
            dataset,
            teacher,
            student,
            schedule,
            accounting,
            split_variants([run for run in group if run.purpose == "result" and not math.isnan(run.accuracy)]),
            [run for run in group if run.purpose == "selection"],
        )
        for (dataset, teacher, student, schedule, accounting), group in groups.items()
    ]


def split_variants(runs: Sequence[Record]) -> list[Record]:
    """Rename methods where two runs share method, calls and seed: "ckd [anchor=0.1]" beside "ckd [anchor=1.0]"."""
    alike: dict[tuple[str, int, int], list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        alike[run.method, run.calls, run.seed].append(flatten(run.settings))
    differing: dict[str, set[str]] = defaultdict(set)
    for (method, *_), settings in alike.items():
        names = {name for one in settings for name in one}
        differing[method] |= {name for name in names if len({repr(one.get(name)) for one in settings}) > 1}

    def renamed(run: Record) -> Record:
        settings = flatten(run.settings)
        values = [f"{name.rpartition('.')[2]}={settings.get(name)}" for name in sorted(differing[run.method])]
        return replace(run, method=f"{run.method} [{', '.join(values)}]") if values else run

    return [renamed(run) for run in runs]


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
