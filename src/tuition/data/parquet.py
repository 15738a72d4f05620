"""Images or texts in Arrow tables, with labels: parquet files in the hub's layout, and what `datasets` loads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tuition.data import texts
from tuition.data.images import Encoded, EncodedImages
from tuition.data.pool import Pool, from_tensors
from tuition.errors import UserError

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

IMAGE_COLUMNS = ("img", "image", "images")
LABEL_COLUMNS = ("fine_label", "label", "labels")

_SHARD = re.compile(r"(?P<split>.+?)(-\d{5}-of-(?P<count>\d{5}).*)?\.parquet")


def find(folder: Path) -> Path | None:
    """Where parquet files lie: in `folder`, its `data`, or its only subfolder with any; None if there are none.

    Raises:
        UserError: several subfolders hold some.
    """
    for place in (folder, folder / "data"):
        if any(place.glob("*.parquet")):
            return place
    configs = sorted({path.parent for path in folder.glob("*/*.parquet")})
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
    for path in sorted(folder.glob("*.parquet")):
        match = _SHARD.fullmatch(path.name)
        assert match is not None
        found.setdefault(match["split"], []).append(path)
        expected[match["split"]] = int(match["count"] or 1)
    for split, paths in found.items():
        if len(paths) < expected[split]:
            raise UserError(
                f"{folder} holds {len(paths)} of the {expected[split]} files of its {split} split; copy the others."
            )
    return found


def read(shards: Sequence[Path], splits: Iterable[Path], title: str, **columns: Any) -> EncodedImages | Pool:
    """The rows of parquet files, in their order; `splits` are the files of all splits. See `contents`."""
    import pyarrow
    import pyarrow.dataset

    try:
        part, whole = (
            pyarrow.dataset.dataset([str(path) for path in paths], format="parquet") for paths in (shards, splits)
        )
        return contents(part, whole, str(shards[0].parent), title, **columns)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"cannot read the parquet files of {shards[0].parent} ({error}); copy them again.") from error


def contents(
    dataset: Dataset,
    whole: Dataset | None,
    name: str,
    title: str,
    *,
    image_column: str,
    text_column: str,
    label_column: str | None,
) -> EncodedImages | Pool:
    """The images of an Arrow dataset, or, where it has none, its texts; see `from_dataset`.

    Args:
        dataset: of one split.
        whole: of all splits, in any of which a class counts that is named by a word; None if they are not at hand.
        name: where it lies, for messages.
        title: name of the pool.
    """
    columns, features = dataset.schema.names, _features(dataset)
    pictured = [column for column in columns if features.get(column, {}).get("_type") == "Image"]
    worded = text_column != "auto" or any(column in columns for column in texts.TEXT_COLUMNS)
    if image_column == "auto" and worded and (text_column != "auto" or not {*pictured, *IMAGE_COLUMNS} & {*columns}):
        return _texts(dataset, whole, name, title, text_column, label_column)
    return from_dataset(dataset, name, image_column=image_column, label_column=label_column)


def _texts(
    dataset: Dataset, whole: Dataset | None, name: str, title: str, text_column: str, label_column: str | None
) -> Pool:
    import pyarrow

    columns = dataset.schema.names
    column = texts.find(columns, name, "text", text_column, texts.TEXT_COLUMNS)
    found = dataset.to_table(columns=[column]).column(0)
    if not (pyarrow.types.is_string(found.type) or pyarrow.types.is_large_string(found.type)) or found.null_count:
        raise UserError(f"the column {column!r} of {name} holds something else than text; pass another text_column.")
    if label_column == "auto":
        label_column = next((it for it in texts.LABEL_COLUMNS if it in columns), None)
    if label_column is None:
        return from_tensors(found.to_pylist(), name=title)
    label_column = texts.find(columns, name, "label", label_column, ())
    kind = dataset.schema.field(label_column).type
    labels: Any
    if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
        labels, names = _labels(dataset, name, label_column), _features(dataset).get(label_column, {}).get("names")
    elif whole is None:
        raise UserError(
            f"the labels of {name} are words, of which one split may lack some; give a folder of its files."
        )
    else:
        words, everywhere = (part.to_table(columns=[label_column]).column(0) for part in (dataset, whole))
        if words.null_count:
            raise UserError(
                f"{words.null_count} rows of {name} have no {label_column}; fill them in or leave them out."
            )
        labels, names = texts.number(words.to_pylist(), everywhere.unique().drop_null().to_pylist())
    return from_tensors(found.to_pylist(), labels, class_names=names, name=title)


def from_dataset(dataset: Dataset, name: str, *, image_column: str, label_column: str | None) -> EncodedImages:
    """The images and labels of an Arrow dataset; "auto" finds the columns, a label column of None leaves labels out.

    Raises:
        UserError: a column that is not there or holds something else, or labels that are missing.
    """
    features = _features(dataset)
    if image_column == "auto":
        known = [column for column, feature in features.items() if feature.get("_type") == "Image"]
        image_column = _find(dataset, name, "image", (*known, *IMAGE_COLUMNS))
    if label_column == "auto":
        label_column = _find(dataset, name, "label", LABEL_COLUMNS)
    for column in (image_column, label_column):
        if column is not None and column not in dataset.schema.names:
            raise UserError(f"{name} has no column {column!r}; it has {_columns(dataset)}.")
    labels = None if label_column is None else _labels(dataset, name, label_column)
    return EncodedImages(
        batches=_batches(dataset, name, image_column),
        count=dataset.count_rows(),
        labels=labels,
        class_names=None if label_column is None else features.get(label_column, {}).get("names"),
    )


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
    array = labels.to_numpy().astype(np.int64)
    # The hub's way of saying that a split's labels are withheld.
    return None if len(array) and (array == -1).all() else array


def _batches(dataset: Dataset, name: str, column: str) -> Iterator[Sequence[Encoded]]:
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
            encoded.append((called, content if content is not None else Path(path)))
            row += 1
        yield encoded
