"""Texts in files: `train.txt` with one a line, `train.csv` or `train.jsonl` with a column of text and one of labels."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from tuition.data.pool import Pool, from_tensors
from tuition.data.splits import NAMES
from tuition.errors import UserError

SUFFIXES = (".csv", ".jsonl", ".txt")
TEXT_COLUMNS = ("text", "sentence", "content", "document", "review", "question", "query")
LABEL_COLUMNS = ("fine_label", "label", "labels", "class", "category")


def splits(folder: Path) -> dict[str, Path]:
    """The file of each split in `folder`; empty if it holds no texts.

    Raises:
        UserError: two files of one split.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in SUFFIXES and path.stem in NAMES:
            if path.stem in found:
                raise UserError(f"{folder} holds {found[path.stem].name} and {path.name}; remove one of them.")
            found[path.stem] = path
    return found


def read(path: Path, splits: Iterable[Path], name: str, *, text_column: str, label_column: str | None) -> Pool:
    """The texts in a file; `splits` are the files of all splits, in any of which a class counts.

    Raises:
        UserError: the file cannot be read, or lacks a column, a text or a label.
    """
    rows = _rows(path)
    if not rows:
        raise UserError(f"{path} holds no texts; give at least one.")
    columns = list(rows[0])
    text_column = find(columns, str(path), "text", text_column, TEXT_COLUMNS)
    texts = [row.get(text_column) for row in rows]
    if not all(isinstance(text, str) for text in texts):
        raise UserError(f"the column {text_column!r} of {path} holds something else than text; pass another one.")
    if label_column == "auto":
        label_column = next((column for column in LABEL_COLUMNS if column in columns), None)
    if label_column is None:
        return from_tensors(texts, name=name)
    label_column = find(columns, str(path), "label", label_column, ())
    found = {file: _labels(file, rows if file == path else _rows(file), label_column) for file in splits}
    labels, names = number(found[path], [label for column in found.values() for label in column])
    return from_tensors(texts, labels, class_names=names, name=name)


def find(columns: Collection[str], place: str, what: str, column: str, candidates: Sequence[str]) -> str:
    """The column named, or, for "auto", the first of the candidates that is there.

    Raises:
        UserError: there is none.
    """
    known = ", ".join(columns)
    if column == "auto":
        column = next((it for it in candidates if it in columns), "")
        if not column:
            raise UserError(f"no {what} column is known among those of {place} ({known}); pass {what}_column.")
    if column not in columns:
        raise UserError(f"{place} has no column {column!r}; it has {known}.")
    return column


def number(labels: Sequence[Any], everywhere: Iterable[Any]) -> tuple[list[int], list[str] | None]:
    """Class indices and, where labels are words, the names of the classes: all labels of all splits, sorted."""
    words = {str(label) for label in everywhere}
    if all(word.isdecimal() for word in words):
        return [int(label) for label in labels], None
    names = sorted(words)
    index = {word: i for i, word in enumerate(names)}
    return [index[str(label)] for label in labels], names


def _labels(path: Path, rows: list[dict[str, Any]], column: str) -> list[Any]:
    labels = [row.get(column) for row in rows]
    missing = sum(label is None or label == "" for label in labels)
    if missing:
        raise UserError(f"{missing} rows of {path} have no {column}; fill them in or leave these rows out.")
    return labels


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig", newline="" if path.suffix == ".csv" else None) as file:
            if path.suffix == ".csv":
                return list(csv.DictReader(file, strict=True))
            lines = [line.rstrip("\n") for line in file if line.strip()]
        if path.suffix == ".txt":
            return [{"text": line} for line in lines]
        rows = [json.loads(line) for line in lines]
    except (OSError, UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise UserError(f"cannot read {path} ({error}); write it again as UTF-8 {path.suffix[1:]}.") from error
    if not all(isinstance(row, dict) for row in rows):
        raise UserError(f"the lines of {path} are not all JSON objects; write them as {{'text': ...}}.")
    return rows
