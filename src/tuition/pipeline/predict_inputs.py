"""Inputs to predict, as the command line names them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tuition.data import Pool, folders, from_tensors, tables
from tuition.data.images import is_picture
from tuition.data.sources import read_images
from tuition.errors import UserError
from tuition.pipeline.parts import DataSettings
from tuition.pipeline.sources import Sources
from tuition.training import Student

BLOCK = 256  # pictures that are decoded together
STDIN = "-"


def inputs_of(
    names: Sequence[str], settings: DataSettings, split: str, student: Student, skip: Callable[[str], None]
) -> Iterator[tuple[list[str], Pool]]:
    """Names and inputs of each of `names`: a picture, a folder of pictures, a file of texts, a data set, or "-".

    "-" is standard input, one text a line. Pictures are squashed to `settings.size`, by default to the size of the
    images that the student learned from. A file that cannot be read is skipped: `skip` is called with the reason.

    Raises:
        UserError: a data set that cannot be loaded.
    """
    learned, size = student.image_size, settings.size
    side = learned[0] if size is None and learned is not None and learned[0] == learned[1] else size
    for name in names:
        path = Path(name)
        if not name:
            raise UserError("the name of an input is empty; name a picture, a folder, a file of texts or a data set.")
        if name == STDIN:
            yield _lines(student)
        elif path.is_dir() and (pictures := folders.pictures(path)):
            yield from _pictures(pictures, student, side, skip)
        elif is_picture(path) or (path.is_file() and not tables.is_table(path)):
            yield from _pictures([path], student, side, skip)
        else:
            values = settings.model_dump() | {"data": name}
            try:
                pool = Sources().pool(DataSettings.of(values), "train" if path.is_file() else split, labels=False)
            except UserError as error:
                if not path.is_file():
                    raise
                skip(str(error))
                continue
            yield pool.texts if pool.kind == "texts" else [f"{pool.name} {i}" for i in range(len(pool))], pool


def _lines(student: Student) -> tuple[list[str], Pool]:
    if not student.reads_text:
        raise UserError("this student takes pictures or vectors, and - reads texts; name files instead.")
    try:
        lines = [line for line in sys.stdin.read().splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not {error.encoding} text; convert it first.") from None
    if not lines:
        raise UserError("standard input holds no text; write one a line.")
    return lines, from_tensors(lines, name="stdin")


def _pictures(
    paths: Sequence[Path], student: Student, size: int | None, skip: Callable[[str], None]
) -> Iterator[tuple[list[str], Pool]]:
    for start in range(0, len(paths), BLOCK):
        block = paths[start : start + BLOCK]
        try:
            yield list(map(_shown, block)), read_images(block, size=size, grey=student.reads_grey)
        except UserError:  # one of them cannot be read, or they differ in size: one by one
            for path in block:
                try:
                    pool = read_images([path], size=size, grey=student.reads_grey)
                except UserError as error:
                    skip(str(error))
                else:
                    yield [_shown(path)], pool


def _shown(path: Path) -> str:
    """What a file system holds need not be UTF-8; what is written about it is."""
    return os.fsencode(path).decode(errors="backslashreplace")
