"""From tables to pools: which columns hold images, texts and labels, and which classes the labels are."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

from tuition.data import labels as labelling
from tuition.data.images import Encoded, EncodedImages, has_colours
from tuition.data.pool import Pool, from_tensors
from tuition.data.tables import Table
from tuition.errors import UserError

IMAGE_COLUMNS = ("img", "image", "images")
PATH_COLUMNS = ("path", "file", "file_name", "filename", "filepath", "image_path")
TEXT_COLUMNS = ("text", "sentence", "content", "document", "review", "question", "query")
LABEL_COLUMNS = ("fine_label", "label", "labels", "class", "category")


@dataclass(frozen=True)
class Columns:
    """Where a table has what.

    Attributes:
        image: a column of images or of their paths; "auto" finds the common names.
        text: a column, several joined by commas, or a template such as "{title}: {body}"; "auto" as above.
        label: a column; "auto" as above, None leaves labels out.
    """

    image: str = "auto"
    text: str = "auto"
    label: str | None = "auto"

    def image_of(self, table: Table) -> str | None:
        """The column of images; None where the inputs are texts.

        Raises:
            UserError: no column is known.
        """
        if not table.names:
            raise UserError(f"{table.place} holds no rows; give at least one.")
        if self.image != "auto" or self.text != "auto":
            return None if self.image == "auto" else _held(table, self.image)
        certain = [name for name in table.names if table.is_image(name)]
        certain += [name for name in IMAGE_COLUMNS if name in table.names and table.holds_bytes(name)]
        worded = [name for name in TEXT_COLUMNS if name in table.names]
        possible = [name for name in (*IMAGE_COLUMNS, *PATH_COLUMNS) if name in table.names]
        if worded and not certain:
            return None
        if not (certain or possible):
            raise UserError(
                f"neither a text column nor an image column is known among those of {table.place} "
                f"({', '.join(table.names)}); pass text_column or image_column (--text-column, --image-column)."
            )
        return (certain or possible)[0]


@dataclass(frozen=True)
class TableSplit:
    """One split among the tables of a data set.

    Attributes:
        name, table: of this split.
        others: reads the tables of the other splits, in any of which a class counts.
        title: of the pool.
        roots: folders that a row may name image files in; a relative path begins in the first.
    """

    name: str
    table: Table
    others: Callable[[], Mapping[str, Table]]
    title: str
    roots: Sequence[Path]

    def read(self, columns: Columns) -> Pool | EncodedImages:
        """Its texts, or its images before decoding.

        Raises:
            UserError: a column that is not there or holds something else, or labels that cannot be used.
        """
        image = columns.image_of(self.table)
        labels, names = self._labels(columns.label, required=image is not None)
        if image is not None:
            return EncodedImages(self._encoded(self.table, image), len(self.table), labels, names)
        return from_tensors(_texts(self.table, columns.text), labels, class_names=names, name=self.title)

    def files(self, columns: Columns) -> list[Path]:
        """The image files that its rows name, where they hold paths alone."""
        image = columns.image_of(self.table)
        paths = [] if image is None else self.table.paths(image)
        return [_inside(path, f"in row {row} of {self.table.place}", self.roots) for row, path in enumerate(paths)]

    def coloured_elsewhere(self, columns: Columns) -> bool:
        """Whether another split has an image with colours, by the headers."""
        for table in self.others().values():
            try:
                image = columns.image_of(table)
            except UserError:  # that split has no images, and says so where it is read
                continue
            if image is not None and any(has_colours(it) for part in self._encoded(table, image) for _, it in part):
                return True
        return False

    def _encoded(self, table: Table, column: str) -> Iterator[list[Encoded]]:
        row = 0
        for batch in table.images(column):
            encoded: list[Encoded] = []
            for content, path in batch:
                name = f"in row {row} of {table.place}"
                if content is None and path is None:
                    raise UserError(f"the image {name} is missing; fill it in or leave the row out.")
                encoded.append((name, content if content is not None else _inside(str(path), name, self.roots)))
                row += 1
            yield encoded

    def _labels(self, label: str | None, required: bool) -> tuple[list[int] | None, list[str] | None]:
        """Class indices (n,) if this split has labels, and class names if any split has."""
        candidates = LABEL_COLUMNS if label in (None, "auto") else (label,)
        column = _first(candidates, self.table.names)
        names = None if column is None else self.table.class_names(column)
        if label is None:
            return None, names
        words = {} if column is None else {self.name: _words(self.table, column)}
        if column is not None and names is not None:
            return _indices(words[self.name], self.table.place, column), names
        for split, table in self.others().items():
            if (there := _first(candidates, table.names)) is not None:
                words[split] = table.class_names(there) or _words(table, there)
        if not words and label != "auto":
            raise _lacking(self.table, label)
        if not words and required:
            raise UserError(
                f"no label column is known among those of {self.table.place} ({', '.join(self.table.names)}); pass "
                "label_column, or None for inputs without labels."
            )
        known = {split: labels for split, labels in words.items() if not labelling.withheld(labels)}
        if not known:
            return None, None
        index, class_names = labelling.number(known, self.title)
        return [index[word] for word in known[self.name]] if self.name in known else None, class_names


def _words(table: Table, column: str) -> list[str]:
    return labelling.words(table.labels(column), column, table.place)


def _indices(words: Sequence[str], place: str, column: str) -> list[int] | None:
    """Class indices as the metadata count them; None where the labels are withheld."""
    if labelling.withheld(words):
        return None
    if not all(re.fullmatch("-?[0-9]+", word) for word in words):
        raise UserError(f"the column {column!r} of {place} holds words, not class indices; pass another one.")
    return [int(word) for word in words]


def _first(candidates: Collection[str], names: Collection[str]) -> str | None:
    return next((name for name in candidates if name in names), None)


def _held(table: Table, column: str) -> str:
    if column not in table.names:
        raise _lacking(table, column)
    return column


def _lacking(table: Table, column: str) -> UserError:
    return UserError(f"{table.place} has no column {column!r}; it has {', '.join(table.names)}.")


def _texts(table: Table, column: str) -> list[str]:
    """One text a row: a column, several joined by new lines, or a template filled in."""
    if column == "auto":
        column = next(name for name in TEXT_COLUMNS if name in table.names)
    if column in table.names:
        return table.texts(column)
    if "{" in column:
        return _filled(table, column.replace("\\n", "\n").replace("\\t", "\t"))
    names = [_held(table, part.strip()) for part in column.split(",")]
    return ["\n".join(row) for row in zip(*(table.texts(name) for name in names), strict=True)]


def _filled(table: Table, template: str) -> list[str]:
    """The template with the columns of each row in its braces.

    Raises:
        UserError: it is not a template, or names no column, or one that is not there.
    """
    try:
        parts = [(text, name) for text, name, options, how in Formatter().parse(template)]
    except ValueError as error:
        raise UserError(f"{template!r} is not a template ({error}); write columns as {{name}}.") from None
    names = list(dict.fromkeys(_held(table, name) for _, name in parts if name is not None))
    if not names:
        raise UserError(f"the template {template!r} names no column; write columns as {{name}}.")
    columns = {name: table.texts(name) for name in names}
    return [
        "".join(text + (columns[name][row] if name is not None else "") for text, name in parts)
        for row in range(len(table))
    ]


def _inside(path: str, name: str, roots: Sequence[Path]) -> Path:
    """The file that a row names, which must lie in one of the folders."""
    for root in roots:
        real = Path(os.path.realpath(root / path))
        if real.is_relative_to(os.path.realpath(root)):
            return real
    raise UserError(
        f"the image {name} is a path that leads out of the data folder ({path[:200]}); store the image itself."
    )
