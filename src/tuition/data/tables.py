"""Tables in files: parquet in the hub's layout, and csv, tsv, jsonl and txt named after a split.

What their columns mean is decided in `columns`, alike for every kind of file.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuition.data import labels as labelling
from tuition.data.files import check, entries, report_passed, root_of
from tuition.data.splits import canonical
from tuition.errors import UserError

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

DELIMITERS = {".csv": ",", ".tsv": "\t"}
ROWS = (*DELIMITERS, ".jsonl", ".txt")
PARQUET = ".parquet"
BATCH = 1024

_SHARD = re.compile(r"(?P<split>.+?)(-\d{5}-of-(?P<count>\d{5}).*)?\.parquet", re.IGNORECASE)

Files = Mapping[str, Sequence[Path]]
"""The files of each split, in order."""


# -- files -------------------------------------------------------------------------------------------------------------


def is_table(path: Path) -> bool:
    """Whether a file is a table by its suffix."""
    return path.suffix.lower() in (*ROWS, PARQUET)


def splits(folder: Path) -> dict[str, list[Path]]:
    """The files of each split in `folder`; empty if it holds no tables.

    Raises:
        UserError: two files of one split, shards that are missing, or several configurations.
    """
    rows: dict[str, list[Path]] = {}
    for path in entries(folder):
        if path.suffix.lower() in ROWS and canonical(path.stem):
            if path.stem in rows:
                raise UserError(f"{folder} holds {rows[path.stem][0].name} and {path.name}; remove one of them.")
            rows[path.stem] = [path]
    if rows:
        read = {file for files in rows.values() for file in files}
        report_passed(
            folder, [it for it in entries(folder) if it not in read and not it.is_dir()],
            "not a table named after a split",
        )  # fmt: skip
    return rows or _parquet(folder)


def _parquet(folder: Path) -> dict[str, list[Path]]:
    """Of parquet files in `folder`, its `data`, folders named after splits, or its only subfolder with any."""
    inner = [path for path in entries(folder) if path.is_dir()]
    for place in (folder, *(path for path in inner if path.name == "data")):
        if _files(place):
            return _shards(place)
    holding = [path for path in inner if _files(path)]
    if holding and all(canonical(path.name) for path in holding):
        return {path.name: _files(path) for path in holding}
    holding += [it for it in inner if any(_files(sub) for sub in entries(it) if canonical(sub.name) and sub.is_dir())]
    if len(holding) > 1:
        names = ", ".join(path.name for path in holding)
        raise UserError(f"{folder} holds several configurations; name one of: {names}.")
    return _parquet(holding[0]) if holding else {}


def _shards(folder: Path) -> dict[str, list[Path]]:
    shards: dict[str, list[Path]] = {}
    announced: dict[str, int] = {}
    for path in _files(folder):
        match = _SHARD.fullmatch(path.name)
        assert match is not None
        shards.setdefault(match["split"], []).append(path)
        announced[match["split"]] = int(match["count"] or 1)
    for split, paths in shards.items():
        if len(paths) < announced[split]:
            raise UserError(
                f"{folder} holds {len(paths)} of the {announced[split]} files of its {split} split; copy the others."
            )
    passed = [path for path in entries(folder) if path.suffix.lower() != PARQUET and not path.is_dir()]
    report_passed(folder, passed, "not a parquet file")
    return shards


def _files(folder: Path) -> list[Path]:
    return [path for path in entries(folder) if path.suffix.lower() == PARQUET]


def opened(paths: Sequence[Path]) -> Table:
    """The table in the files of one split.

    Raises:
        UserError: a file cannot be read; of parquet only what `reading` is around.
    """
    first = paths[0]
    if first.suffix.lower() != PARQUET:
        return RowTable(str(first), _rows(first))
    import pyarrow.dataset

    dataset = pyarrow.dataset.dataset([str(path) for path in paths], format="parquet")
    return ArrowTable(str(first.parent), dataset)


@contextmanager
def reading(place: Path) -> Iterator[None]:
    """Turns what Arrow raises into a sentence; it reads a parquet file as far as it is asked to, at any time."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"cannot read the parquet files of {place} ({error}); copy them again.") from error


# -- rows --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RowTable:
    """Rows of Python values, as csv, tsv, jsonl and txt have them. `ArrowTable` has the same attributes and methods.

    Attributes:
        place: the file or folder, for messages.
        rows: the values by column.
    """

    place: str
    rows: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def names(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def texts(self, column: str) -> list[str]:
        """Raises UserError where the column holds something else."""
        texts = self.labels(column)
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise UserError(
                    f"the column {column!r} of {self.place} holds something else than text in row {row}; pass another "
                    "one."
                )
            if not labelling.writable(text):
                raise UserError(
                    f"the text in row {row} of {self.place} holds half a character (a lone surrogate); write the "
                    "character again in full."
                )
        return texts

    def labels(self, column: str) -> list[Any]:
        """What the column holds. Raises UserError where its type cannot be a class."""
        return [row.get(column) for row in self.rows]

    def class_names(self, column: str) -> list[str] | None:
        """The names that the hub's metadata give the integers of a column."""
        return None

    def is_image(self, column: str) -> bool:
        """Whether the hub's metadata call a column images."""
        return False

    def holds_bytes(self, column: str) -> bool:
        """Whether a column may hold encoded images."""
        return False

    def paths(self, column: str) -> list[str]:
        """The paths in a column of images that holds nothing else."""
        return self.texts(column)

    def images(self, column: str) -> Iterator[list[tuple[bytes | None, str | None]]]:
        """In batches, the bytes or the path of each image. Raises UserError where the column holds something else."""
        paths = self.texts(column)
        return ([(None, path) for path in paths[start : start + BATCH]] for start in range(0, len(paths), BATCH))


def _rows(path: Path) -> list[dict[str, Any]]:
    check(path, root_of(path.parent))
    kind = path.suffix.lower()
    try:
        with path.open(encoding="utf-8-sig", newline="" if kind in DELIMITERS else None) as file:
            if kind in DELIMITERS:
                return _delimited(path, file, DELIMITERS[kind])
            lines = [(number, line.rstrip("\n")) for number, line in enumerate(file, 1) if line.strip()]
        return [{"text": line} for _, line in lines] if kind == ".txt" else [_object(path, *line) for line in lines]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, str(error)) from error


def _delimited(path: Path, file: Iterable[str], delimiter: str) -> list[dict[str, Any]]:
    limit = csv.field_size_limit(sys.maxsize)  # of 128 KiB, which long documents exceed
    try:
        reader = csv.reader(file, strict=True, delimiter=delimiter)
        header = next((row for row in reader if row), [])
        twice = [name for name in header if header.count(name) > 1]
        if twice:
            raise UserError(f"{path} has two columns {twice[0]!r}; rename one of them.")
        rows: list[dict[str, Any]] = []
        for row in reader:
            if row and len(row) != len(header):
                raise UserError(
                    f"row {len(rows)} of {path} (line {reader.line_num}) has {len(row)} fields where its header has "
                    f"{len(header)}; put fields that hold {'commas' if delimiter == ',' else 'tabs'} in double quotes."
                )
            rows += [dict(zip(header, row, strict=True))] if row else []
        return rows
    finally:
        csv.field_size_limit(limit)


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, f"line {number}: {error}") from error
    if not isinstance(row, dict):
        raise UserError(f"the lines of {path} are not all JSON objects (line {number}); write them as {{'text': ...}}.")
    return row


def _unreadable(path: Path, why: str) -> UserError:
    return UserError(f"cannot read {path} ({why}); write it again as UTF-8 {path.suffix[1:].lower()}.")


# -- Arrow -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ArrowTable:
    """Parquet files, or what `datasets` loads; columns are read when they are asked for."""

    place: str
    dataset: Dataset

    def __len__(self) -> int:
        return self.dataset.count_rows()

    @property
    def names(self) -> list[str]:
        return self.dataset.schema.names

    @cached_property
    def _features(self) -> dict[str, Any]:
        """What the hub's metadata say of each column."""
        metadata = json.loads((self.dataset.schema.metadata or {}).get(b"huggingface", b"{}"))
        return metadata.get("info", {}).get("features", {})

    def _column(self, column: str) -> Any:
        return self.dataset.to_table(columns=[column]).column(0)

    def texts(self, column: str) -> list[str]:
        import pyarrow.types

        part = self._column(column)
        if not (pyarrow.types.is_string(part.type) or pyarrow.types.is_large_string(part.type)) or part.null_count:
            raise UserError(
                f"the column {column!r} of {self.place} holds something else than text; pass another text_column."
            )
        try:
            return part.to_pylist()
        except UnicodeDecodeError as error:
            raise UserError(f"the column {column!r} of {self.place} is not UTF-8 ({error}); write it again.") from error

    def labels(self, column: str) -> list[Any]:
        import pyarrow.types as types

        part = self._column(column)
        kind = part.type.value_type if types.is_dictionary(part.type) else part.type
        simple = (types.is_string, types.is_large_string, types.is_integer, types.is_boolean)
        if not any(is_kind(kind) for is_kind in simple):
            raise UserError(f"the column {column!r} of {self.place} holds {kind}, not classes; pass another one.")
        return part.to_pylist()

    def class_names(self, column: str) -> list[str] | None:
        names = self._features.get(column, {}).get("names")
        return None if names is None else [str(it) for it in names]

    def is_image(self, column: str) -> bool:
        return self._features.get(column, {}).get("_type") == "Image"

    def holds_bytes(self, column: str) -> bool:
        import pyarrow.types as types

        kind = self.dataset.schema.field(column).type
        return types.is_struct(kind) or types.is_binary(kind) or types.is_large_binary(kind)

    def paths(self, column: str) -> list[str]:
        import pyarrow.types as types

        kind = self.dataset.schema.field(column).type
        return self.texts(column) if types.is_string(kind) or types.is_large_string(kind) else []

    def images(self, column: str) -> Iterator[list[tuple[bytes | None, str | None]]]:
        import pyarrow.types as types

        for batch in self.dataset.to_batches(columns=[column], batch_size=BATCH):
            images, empty = batch.column(0), [None] * len(batch)
            if types.is_struct(images.type) and images.type.get_field_index("bytes") >= 0:
                named = images.type.get_field_index("path") >= 0
                paths = images.field("path").to_pylist() if named else empty
                yield list(zip(images.field("bytes").to_pylist(), paths, strict=True))
            elif types.is_binary(images.type) or types.is_large_binary(images.type):
                yield list(zip(images.to_pylist(), empty, strict=True))
            elif types.is_string(images.type) or types.is_large_string(images.type):
                yield list(zip(empty, images.to_pylist(), strict=True))
            else:
                raise UserError(
                    f"the column {column!r} of {self.place} holds {images.type}, not images; pass another image_column."
                )


Table = RowTable | ArrowTable
