"""Arrays too large for memory: their rows stay in a file, which numpy maps while some of them are read.

And the folder for what need not be computed twice, in which such files lie.
"""

from __future__ import annotations

import logging
import math
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from tuition.errors import UserError

IN_MEMORY = 512 << 20
"""Bytes of the largest array that is held in memory (175,000 images of 3x32x32); larger ones stay on disk.

Training that augments holds every shift and flip of what is in memory: at its peak five times these bytes.
"""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class OnDisk:
    """Rows of an array in a file, in any order and number; only their numbers are held.

    Each read maps the file and lets it go: pages of a mapping that stays would count as memory of the process.

    Attributes:
        path, offset: the file, and the byte in it where the array begins, row after row.
        dtype, whole: type and shape of the array.
        rows: int64 (n,) which of its rows these are.
        stamp: size and time of change of the file when it was opened.
    """

    path: Path
    offset: int
    dtype: torch.dtype
    whole: torch.Size
    rows: Tensor
    stamp: tuple[int, int]

    @classmethod
    def open(cls, path: Path, offset: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Self:
        """All rows of an array."""
        return cls(path, offset, dtype, torch.Size(shape), torch.arange(shape[0]), _stamp(path.stat()))

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.rows), *self.whole[1:]))

    @property
    def ndim(self) -> int:
        return len(self.whole)

    @property
    def nbytes(self) -> int:
        return self.shape.numel() * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor) -> Tensor | OnDisk:
        """The rows named, in that order: read, if they fit in memory."""
        part = replace(self, rows=self.rows[index])
        return part if part.nbytes > IN_MEMORY else part.read()

    def split(self, size: int) -> Iterator[Tensor]:
        """All rows, `size` at a time, as of a tensor."""
        return (replace(self, rows=rows).read() for rows in self.rows.split(size))

    def read(self) -> Tensor:
        """All rows, in memory.

        Raises:
            UserError: the file is gone, or has changed since it was opened.
        """
        kind = torch.empty(0, dtype=self.dtype).numpy().dtype
        try:
            if _stamp(self.path.stat()) == self.stamp:
                mapped = np.memmap(self.path, kind, "r", self.offset, tuple(self.whole))
                return torch.from_numpy(np.asarray(mapped[self.rows.numpy()]))
        except (OSError, ValueError) as error:  # numpy's word where the file ends before the array
            raise UserError(f"cannot read {self.path} any more ({error}); put it back.") from error
        raise UserError(f"{self.path} has changed while it was in use; begin again with what it is now.")


def _stamp(state: os.stat_result) -> tuple[int, int]:
    return state.st_size, state.st_mtime_ns


def scratch(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """As `torch.empty`; what does not fit in memory lies in a file in the cache folder, which goes with the process.

    Raises:
        UserError: it does not fit there.
    """
    size = math.prod(shape) * dtype.itemsize
    if size <= IN_MEMORY:
        return torch.empty(tuple(shape), dtype=dtype)
    try:
        place = cache_folder()
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place) as file:
            if hasattr(os, "posix_fallocate"):  # a disk that is too small fails here, and not later
                os.posix_fallocate(file.fileno(), 0, size)
            mapped = np.memmap(file, np.uint8, "r+", shape=(size,))
    except (OSError, OverflowError, ValueError) as error:
        raise UserError(
            f"{size:,} bytes do not fit in memory, nor in {cache_folder()} ({error}); set TUITION_CACHE to a larger "
            "place."
        ) from error
    return torch.from_numpy(mapped).view(dtype).view(tuple(shape))


def cache_folder() -> Path:
    """`TUITION_CACHE`, or `tuition` in the user's cache folder; without a home, a folder for temporary files."""
    if os.environ.get("TUITION_CACHE"):
        return Path(os.environ["TUITION_CACHE"])
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "tuition"
    try:
        return Path.home() / ".cache" / "tuition"
    except (RuntimeError, KeyError):  # no HOME, and the user's number has no name, as in many containers
        return _temporary_folder()


def _temporary_folder() -> Path:
    """A folder of this user alone among the temporary files: the same next time, unless another user owns it."""
    names = (f"tuition-{os.getuid()}", f"tuition-{os.getuid()}-{os.getpid()}")
    place = next((it for name in names if _own(it := Path(tempfile.gettempdir(), name))), None)
    if place is None:
        raise UserError("this user has no home folder to cache data in; set TUITION_CACHE to a folder.")
    _log.warning("this user has no home folder; data is cached in %s (set TUITION_CACHE to choose another).", place)
    return place


def _own(place: Path) -> bool:
    """Whether a folder can be made, or is there, that no other user can write to."""
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        about = place.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o022
