"""Texts in files: `train.txt` with one a line, `train.csv` or `train.jsonl` with a column of text and one of labels."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tuition.data import labels as labelling
from tuition.data.files import check, entries, report_passed, root_of
from tuition.data.pool import Pool, from_tensors
from tuition.data.splits import canonical
from tuition.errors import UserError

SUFFIXES = (".csv", ".jsonl", ".txt")
TEXT_COLUMNS = ("text", "sentence", "content", "document", "review", "question", "query")
LABEL_COLUMNS = ("fine_label", "label", "labels", "class", "category")


def is_text(path: Path) -> bool:
    """Whether a file holds texts by its suffix."""
    return path.suffix.lower() in SUFFIXES


def splits(folder: Path) -> dict[str, Path]:
    """The file of each split in `folder`; empty if it holds no texts.

    Raises:
        UserError: two files of one split.
    """
    found: dict[str, Path] = {}
    for path in entries(folder):
        if is_text(path) and canonical(path.stem):
            if path.stem in found:
                raise UserError(f"{folder} holds {found[path.stem].name} and {path.name}; remove one of them.")
            found[path.stem] = path
    if found:
        passed = [path for path in entries(folder) if path not in found.values()]
        report_passed(folder, passed, "not a file of texts named after a split")
    return found


def read(path: Path, splits: Iterable[Path], name: str, *, text_column: str, label_column: str | None) -> Pool:
    """The texts in a file; `splits` are the files of all splits, in any of which a class counts.

    Raises:
        UserError: the file cannot be read, or lacks a column, a text or a label.
    """
    rows = _rows(path)
    if not rows:
        raise UserError(f"{path} holds no texts; give at least one.")
    texts = _texts(rows, str(path), text_column)
    if label_column is None:
        return from_tensors(texts, name=name)
    tables = {file: rows if file == path else _rows(file) for file in splits}
    chosen = {file: _label_column(table, label_column) for file, table in tables.items()}
    if label_column != "auto" and not any(chosen.values()):
        raise lacking(str(path), label_column, rows[0])
    labels = {
        file: labelling.words([row.get(column) for row in tables[file]], column, str(file))
        for file, column in chosen.items()
        if column is not None
    }
    return labelled(texts, labels.get(path), labels.values(), name)


def labelled(texts: list[str], own: list[str] | None, everywhere: Iterable[list[str]], name: str) -> Pool:
    """A pool of texts with their own labels, if any; classes are those of all splits."""
    known = [label for labels in everywhere if not labelling.withheld(labels) for label in labels]
    if not known:
        return from_tensors(texts, name=name)
    if own is None or labelling.withheld(own):
        return from_tensors(texts, class_names=labelling.number([], known)[1], name=name)
    indices, names = labelling.number(own, known)
    return from_tensors(texts, indices, class_names=names, name=name)


def columns_of(column: str, columns: Collection[str]) -> list[str]:
    """The columns that one name stands for: it may list several, joined by commas."""
    return [column] if column in columns else [part.strip() for part in column.split(",")]


def find(columns: Collection[str], place: str, what: str, column: str, candidates: Sequence[str]) -> str:
    """The column named, or, for "auto", the first of the candidates that is there.

    Raises:
        UserError: there is none.
    """
    if column == "auto":
        column = next((it for it in candidates if it in columns), "")
        if not column:
            known = ", ".join(columns)
            raise UserError(
                f"no {what} column is known among those of {place} ({known}); pass {what}_column (--{what}-column)."
            )
    if column not in columns:
        raise lacking(place, column, columns)
    return column


def lacking(place: str, column: str, columns: Iterable[str]) -> UserError:
    return UserError(f"{place} has no column {column!r}; it has {', '.join(columns)}.")


def _texts(rows: Sequence[Mapping[str, Any]], place: str, column: str) -> list[str]:
    names = [find(rows[0], place, "text", name, TEXT_COLUMNS) for name in columns_of(column, rows[0])]
    found = []
    for row, values in enumerate(rows):
        parts: list[str] = []
        for name in names:
            part = values.get(name)
            if not isinstance(part, str):
                raise UserError(
                    f"the column {name!r} of {place} holds something else than text in row {row}; pass another one."
                )
            if not labelling.writable(part):
                raise UserError(
                    f"the text in row {row} of {place} holds half a character (a lone surrogate); write the character "
                    "again in full."
                )
            parts.append(part)
        found.append("\n".join(parts))
    return found


def _label_column(rows: Sequence[Mapping[str, Any]], column: str) -> str | None:
    held = {name for row in rows for name in row}
    return next((name for name in (LABEL_COLUMNS if column == "auto" else (column,)) if name in held), None)


def _rows(path: Path) -> list[dict[str, Any]]:
    check(path, root_of(path.parent))
    kind = path.suffix.lower()
    try:
        with path.open(encoding="utf-8-sig", newline="" if kind == ".csv" else None) as file:
            if kind == ".csv":
                return _csv_rows(path, file)
            lines = [(number, line.rstrip("\n")) for number, line in enumerate(file, 1) if line.strip()]
        return [{"text": line} for _, line in lines] if kind == ".txt" else [_json_row(path, *line) for line in lines]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, str(error)) from error


def _csv_rows(path: Path, file: Iterable[str]) -> list[dict[str, Any]]:
    limit = csv.field_size_limit(sys.maxsize)  # of 128 KiB, which long documents exceed
    try:
        reader = csv.reader(file, strict=True)
        header = next((row for row in reader if row), [])
        twice = [name for name in header if header.count(name) > 1]
        if twice:
            raise UserError(f"{path} has two columns {twice[0]!r}; rename one of them.")
        rows: list[dict[str, Any]] = []
        for row in reader:
            if row and len(row) != len(header):
                raise UserError(
                    f"row {len(rows)} of {path} (line {reader.line_num}) has {len(row)} fields where its header has "
                    f"{len(header)}; put fields that hold commas in double quotes."
                )
            rows += [dict(zip(header, row, strict=True))] if row else []
        return rows
    finally:
        csv.field_size_limit(limit)


def _json_row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, f"line {number}: {error}") from error
    if not isinstance(row, dict):
        raise UserError(f"the lines of {path} are not all JSON objects (line {number}); write them as {{'text': ...}}.")
    return row


def _unreadable(path: Path, why: str) -> UserError:
    return UserError(f"cannot read {path} ({why}); write it again as UTF-8 {path.suffix[1:].lower()}.")
