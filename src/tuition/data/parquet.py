"""Images or texts in Arrow tables, with labels: parquet files in the hub's layout, and what `datasets` loads."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tuition.data import labels as labelling
from tuition.data import texts
from tuition.data.files import entries, report_passed
from tuition.data.images import Encoded, EncodedImages
from tuition.data.pictures import has_colours
from tuition.data.pool import Pool, from_tensors
from tuition.errors import UserError

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

IMAGE_COLUMNS = ("img", "image", "images")
LABEL_COLUMNS = ("fine_label", "label", "labels")

_SHARD = re.compile(r"(?P<split>.+?)(-\d{5}-of-(?P<count>\d{5}).*)?\.parquet", re.IGNORECASE)


def find(folder: Path) -> Path | None:
    """Where parquet files lie: in `folder`, its `data`, or its only subfolder with any; None if there are none.

    Raises:
        UserError: several subfolders hold some.
    """
    places = [path for path in entries(folder) if path.is_dir()]
    for place in (folder, *(path for path in places if path.name == "data")):
        if _files(place):
            return place
    configs = [place for place in places if _files(place)]
    if len(configs) > 1:
        names = ", ".join(place.name for place in configs)
        raise UserError(f"{folder} holds several configurations; name one of: {names}.")
    return configs[0] if configs else None


def splits(folder: Path) -> dict[str, list[Path]]:
    """The shards of each split among the parquet files that lie in `folder`.

    Raises:
        UserError: shards are missing, going by what their names say of their number.
    """
    found: dict[str, list[Path]] = {}
    expected: dict[str, int] = {}
    for path in _files(folder):
        match = _SHARD.fullmatch(path.name)
        assert match is not None
        found.setdefault(match["split"], []).append(path)
        expected[match["split"]] = int(match["count"] or 1)
    for split, paths in found.items():
        if len(paths) < expected[split]:
            raise UserError(
                f"{folder} holds {len(paths)} of the {expected[split]} files of its {split} split; copy the others."
            )
    passed = [path for path in entries(folder) if path not in _files(folder) and not path.is_dir()]
    report_passed(folder, passed, "not a parquet file")
    return found


def _files(folder: Path) -> list[Path]:
    return [path for path in entries(folder) if path.suffix.lower() == ".parquet"]


@contextmanager
def opened(shards: Mapping[str, Sequence[Path]], split: str) -> Iterator[tuple[Dataset, list[Dataset]]]:
    """The rows of a split in parquet files, in their order, and those of each other split.

    Raises:
        UserError: the files are damaged, as far as they are read.
    """
    import pyarrow
    import pyarrow.dataset

    try:
        tables = {
            name: pyarrow.dataset.dataset([str(path) for path in paths], format="parquet")
            for name, paths in shards.items()
        }
        yield tables.pop(split), list(tables.values())
    except (pyarrow.ArrowException, OSError) as error:
        place = shards[split][0].parent
        raise UserError(f"cannot read the parquet files of {place} ({error}); copy them again.") from error


def contents(
    dataset: Dataset,
    others: Sequence[Dataset] | None,
    name: str,
    title: str,
    roots: Sequence[Path],
    *,
    image_column: str,
    text_column: str,
    label_column: str | None,
) -> EncodedImages | Pool:
    """The images of an Arrow dataset, or, where it has none, its texts; see `from_dataset`.

    Args:
        dataset: of one split.
        others: of the other splits, in any of which a class counts; None if they are not available.
        name: where it lies, for messages.
        title: name of the pool.
        roots: folders that a row may name image files in.
    """
    columns, features = dataset.schema.names, _features(dataset)
    pictured = [column for column in columns if features.get(column, {}).get("_type") == "Image"]
    worded = text_column != "auto" or any(column in columns for column in texts.TEXT_COLUMNS)
    if image_column == "auto" and worded and (text_column != "auto" or not {*pictured, *IMAGE_COLUMNS} & {*columns}):
        return _texts(dataset, others, name, title, text_column, label_column)
    return from_dataset(dataset, others or (), name, roots, image_column=image_column, label_column=label_column)


def _texts(
    dataset: Dataset,
    others: Sequence[Dataset] | None,
    name: str,
    title: str,
    text_column: str,
    label_column: str | None,
) -> Pool:
    import pyarrow

    columns = dataset.schema.names
    chosen = [
        texts.find(columns, name, "text", column, texts.TEXT_COLUMNS)
        for column in texts.columns_of(text_column, columns)
    ]
    parts = []
    for column in chosen:
        part = dataset.to_table(columns=[column]).column(0)
        if not (pyarrow.types.is_string(part.type) or pyarrow.types.is_large_string(part.type)) or part.null_count:
            raise UserError(
                f"the column {column!r} of {name} holds something else than text; pass another text_column."
            )
        try:
            parts.append(part.to_pylist())
        except UnicodeDecodeError as error:
            raise UserError(f"the column {column!r} of {name} is not UTF-8 ({error}); write it again.") from error
    found = ["\n".join(row) for row in zip(*parts, strict=True)]
    if label_column is None:
        return from_tensors(found, class_names=_names(dataset, texts.LABEL_COLUMNS), name=title)
    columns_of_labels = texts.LABEL_COLUMNS if label_column == "auto" else (label_column,)
    own, *rest = [
        next((it for it in columns_of_labels if it in table.schema.names), None) for table in (dataset, *(others or ()))
    ]
    if own is None and label_column != "auto" and not any(rest):
        raise texts.lacking(name, label_column, columns)
    if own is not None and (names := _names(dataset, (own,))) is not None:
        return from_tensors(found, _labels(dataset, name, own), class_names=names, name=title)
    labels = [] if own is None else _words(dataset, own, name)
    if others is None and any(not word.lstrip("-").isdecimal() for word in labels):
        raise UserError(
            f"the labels of {name} are words, of which one split may lack some; give a folder of its files."
        )
    everywhere = [labels] if own is not None else []
    for table, found_there in zip(others or (), rest, strict=True):
        if found_there is not None:
            everywhere.append(_names(table, (found_there,)) or _words(table, found_there, name))
    return texts.labelled(found, None if own is None else labels, everywhere, title)


def from_dataset(
    dataset: Dataset,
    others: Sequence[Dataset],
    name: str,
    roots: Sequence[Path],
    *,
    image_column: str,
    label_column: str | None,
) -> EncodedImages:
    """The images and labels of an Arrow dataset; "auto" finds the columns, a label column of None leaves labels out.

    Raises:
        UserError: a column that is not there or holds something else, or labels that are missing.
    """
    features = _features(dataset)
    if image_column == "auto":
        known = [column for column, feature in features.items() if feature.get("_type") == "Image"]
        image_column = _find(dataset, name, "image", (*known, *IMAGE_COLUMNS))
    unlabelled = label_column is None
    if label_column is not None:
        candidates = LABEL_COLUMNS if label_column == "auto" else (label_column,)
        elsewhere = any(column in other.schema.names for other in others for column in candidates)
        if not {*candidates} & {*dataset.schema.names} and elsewhere:
            unlabelled = True  # this split has none, others do
        elif label_column == "auto":
            label_column = _find(dataset, name, "label", LABEL_COLUMNS)
    for column in (image_column, None if unlabelled else label_column):
        if column is not None and column not in dataset.schema.names:
            raise UserError(f"{name} has no column {column!r}; it has {_columns(dataset)}.")
    labels, names = None, _names(dataset, LABEL_COLUMNS if label_column in (None, "auto") else (label_column,))
    if not unlabelled:
        assert label_column is not None
        labels = _labels(dataset, name, label_column)
        if names is None and labels is not None:
            labels, names = _numbered(labels, others, name, label_column)
    return EncodedImages(_batches(dataset, name, image_column, roots), dataset.count_rows(), labels, names)


def any_colours(dataset: Dataset, name: str, image_column: str, roots: Sequence[Path]) -> bool:
    """Whether an image has colours, by the headers."""
    features = _features(dataset)
    if image_column == "auto":
        known = [column for column, feature in features.items() if feature.get("_type") == "Image"]
        image_column = next((it for it in (*known, *IMAGE_COLUMNS) if it in dataset.schema.names), "auto")
    if image_column not in dataset.schema.names:
        return False
    return any(has_colours(it) for batch in _batches(dataset, name, image_column, roots) for _, it in batch)


def _numbered(
    labels: np.ndarray, others: Sequence[Dataset], name: str, column: str
) -> tuple[np.ndarray | None, list[str]]:
    """Class indices and names of labels that are whole numbers; classes are those of all splits."""
    own = labelling.words(labels.tolist(), column, name)
    known = [own]
    for table in others:
        if column in table.schema.names:
            known.append(_words(table, column, name))
    everywhere = {word for found in known if not labelling.withheld(found) for word in found}
    indices, names = labelling.number(own, everywhere)
    return np.array(indices, dtype=np.int64), names


def _names(dataset: Dataset, columns: Sequence[str]) -> list[str] | None:
    """The names of classes that the hub's metadata have of the first of the columns that is there."""
    column = next((it for it in columns if it in dataset.schema.names), None)
    names = None if column is None else _features(dataset).get(column, {}).get("names")
    return None if names is None else [str(it) for it in names]


def _words(dataset: Dataset, column: str, name: str) -> list[str]:
    """The labels in a column, as `labels.words` has them."""
    import pyarrow

    found = dataset.to_table(columns=[column]).column(0)
    kind = found.type.value_type if pyarrow.types.is_dictionary(found.type) else found.type
    simple = (
        pyarrow.types.is_string,
        pyarrow.types.is_large_string,
        pyarrow.types.is_integer,
        pyarrow.types.is_boolean,
    )
    if not any(is_kind(kind) for is_kind in simple):
        raise UserError(f"the column {column!r} of {name} holds {kind}, not classes; pass another one.")
    if found.null_count:
        raise UserError(f"{found.null_count} rows of {name} have no {column}; fill them in or leave them out.")
    return labelling.words(found.to_pylist(), column, name)


def _features(dataset: Dataset) -> dict[str, Any]:
    """What the hub's metadata say of each column."""
    metadata = json.loads((dataset.schema.metadata or {}).get(b"huggingface", b"{}"))
    return metadata.get("info", {}).get("features", {})


def _columns(dataset: Dataset) -> str:
    return ", ".join(dataset.schema.names)


def _find(dataset: Dataset, name: str, what: str, candidates: Sequence[str]) -> str:
    for column in candidates:
        if column in dataset.schema.names:
            return column
    hint = ", or None for inputs without labels" if what == "label" else ""
    raise UserError(f"no {what} column is known among those of {name} ({_columns(dataset)}); pass {what}_column{hint}.")


def _labels(dataset: Dataset, name: str, column: str) -> np.ndarray | None:
    import pyarrow

    labels = dataset.to_table(columns=[column]).column(0)
    if not pyarrow.types.is_integer(labels.type):
        raise UserError(f"the column {column!r} of {name} holds {labels.type}, not class indices; pass another one.")
    if labels.null_count:
        raise UserError(f"{labels.null_count} rows of {name} have no {column}; fill them in or leave these rows out.")
    try:
        array = labels.cast(pyarrow.int64()).to_numpy()
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"the column {column!r} of {name} holds no class indices ({error}); renumber them.") from error
    # The hub's way of saying that a split's labels are withheld.
    return None if len(array) and (array == -1).all() else array


def _batches(dataset: Dataset, name: str, column: str, roots: Sequence[Path]) -> Iterator[Sequence[Encoded]]:
    import pyarrow

    row = 0
    for batch in dataset.to_batches(columns=[column], batch_size=1024):
        images = batch.column(0)
        if pyarrow.types.is_struct(images.type) and images.type.get_field_index("bytes") >= 0:
            contents = images.field("bytes").to_pylist()
            paths = (
                images.field("path").to_pylist() if images.type.get_field_index("path") >= 0 else [None] * len(images)
            )
        elif pyarrow.types.is_binary(images.type) or pyarrow.types.is_large_binary(images.type):
            contents, paths = images.to_pylist(), [None] * len(images)
        else:
            raise UserError(
                f"the column {column!r} of {name} holds {images.type}, not images; pass another image_column."
            )
        encoded: list[Encoded] = []
        for content, path in zip(contents, paths, strict=True):
            called = f"in row {row} of {name}"
            if content is None and path is None:
                raise UserError(f"there is no image {called}; fill it in or leave the row out.")
            encoded.append((called, content if content is not None else _inside(path, called, roots)))
            row += 1
        yield encoded


def _inside(path: str, called: str, roots: Sequence[Path]) -> Path:
    """The file that a row names, which must lie in one of the folders; a relative path begins in the first of them."""
    for root in roots:
        real = Path(os.path.realpath(root / path))
        if real.is_relative_to(os.path.realpath(root)):
            return real
    raise UserError(
        f"the image {called} is a path that leads out of the data folder ({path[:200]}); store the image itself."
    )
