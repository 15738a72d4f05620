"""Inputs to predict."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from tuition.data import Pool, folders, tables
from tuition.data.sources import read_images
from tuition.pipeline.settings import (
    Columns,
)
from tuition.pipeline.sources import load_data
from tuition.training import Student


def inputs_of(
    name: str,
    split: str,
    size: int | None,
    student: Student,
    columns: Columns = Columns(),  # noqa: B008
) -> tuple[list[str], Pool]:
    """Names and inputs of an image file, of all images in a folder, or of a split of a data set.

    Grey images are made RGB for a student of RGB images. With a `size`, pictures are squashed to size x size.
    """
    path = Path(name)
    found = folders.pictures(path) if path.is_dir() else [path]
    if (path.exists() and not path.is_dir() and not tables.is_table(path)) or (path.is_dir() and found):
        # What a file system holds need not be UTF-8, what is written about it is.
        names = [os.fsencode(p).decode(errors="backslashreplace") for p in found]
        pool = read_images(found, size=size)
    else:
        pool = load_data(name, "train" if path.is_file() else split, size, columns._replace(label=None))
        names = pool.texts if pool.kind == "texts" else [f"{pool.name} {i}" for i in range(len(pool))]
    if pool.kind == "images" and pool.shape[0] == 1 and student.input_shape[0] == 3:
        pool = replace(pool, inputs=pool.asked_tensor().expand(-1, 3, -1, -1))
    return names, pool
