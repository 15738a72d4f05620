"""Inputs to predict."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from tuition.data import Pool, folders, tables
from tuition.data.sources import read_images
from tuition.pipeline.settings import DataSettings
from tuition.pipeline.sources import Sources
from tuition.training import Student


def inputs_of(settings: DataSettings, split: str, student: Student) -> tuple[list[str], Pool]:
    """Names and inputs of an image file, of all images in a folder, or of a split of a data set.

    Grey images are made RGB for a student of RGB images.
    """
    path = Path(settings.data)
    pictures = folders.pictures(path) if path.is_dir() else [path]
    if (path.exists() and not path.is_dir() and not tables.is_table(path)) or (path.is_dir() and pictures):
        # Names in a file system need not be UTF-8; the text written about them must be.
        names = [os.fsencode(p).decode(errors="backslashreplace") for p in pictures]
        pool = read_images(pictures, size=settings.size)
    else:
        pool = Sources().pool(settings, "train" if path.is_file() else split, labels=False)
        names = pool.texts if pool.kind == "texts" else [f"{pool.name} {i}" for i in range(len(pool))]
    if pool.kind == "images" and pool.shape[0] == 1 and student.input_shape[0] == 3:
        pool = replace(pool, inputs=pool.asked_tensor().expand(-1, 3, -1, -1))
    return names, pool
