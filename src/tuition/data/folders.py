"""Images in folders: `train/<class>/*.png`, or the folders of the classes, or images, directly in one folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tuition.data.images import SUFFIXES, EncodedImages
from tuition.data.splits import NAMES


def splits(folder: Path) -> dict[str, Path]:
    """The folder of each split; a folder without folders for splits is all "train"."""
    return {path.name: path for path in _subfolders(folder) if path.name in NAMES} or {"train": folder}


def find(folder: Path, split: str) -> tuple[list[Path], list[int] | None, list[str] | None]:
    """The image files of a split, sorted by class and name, their labels, and the sorted names of the classes' folders.

    A class counts if any split has its folder. Without such folders the images have no labels.
    """
    parts = splits(folder)
    names = sorted({path.name for part in parts.values() for path in _subfolders(part)})
    if not names:
        return list(_images(parts[split])), None, None
    found = [(path, label) for label, name in enumerate(names) for path in _images(parts[split] / name)]
    return [path for path, _ in found], [label for _, label in found], names


def read(images: list[Path], labels: list[int] | None, class_names: list[str] | None) -> EncodedImages:
    batches = ([(str(path), path) for path in images[start : start + 1024]] for start in range(0, len(images), 1024))
    return EncodedImages(batches, len(images), None if labels is None else np.array(labels), class_names)


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _images(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(files) if Path(name).suffix.lower() in SUFFIXES)
