"""Arrays too large for memory: their rows stay on disk until they are wanted."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
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


@dataclass(frozen=True, eq=False)
class OnDisk:
    """Rows of an array in a file, in any order and number; only their numbers are held.

    They are read, not mapped: a mapping's pages count as the process's memory, and each costs a fault, so that 64 rows
    of 3 kB took 295 microseconds from a new mapping and 157 by reading (both in the page cache).

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
        found = np.empty(self.nbytes, np.uint8)
        try:
            with self.path.open("rb", buffering=0) as file:
                whole = _stamp(os.fstat(file.fileno())) == self.stamp and self._fill(file, found.data)
        except OSError as error:
            raise UserError(f"cannot read {self.path} any more ({error}); put it back.") from error
        if not whole:
            raise UserError(f"{self.path} has changed while it was in use; begin again with what it is now.")
        return torch.from_numpy(found).view(self.dtype).view(self.shape)

    def _fill(self, file: io.FileIO, found: memoryview) -> bool:
        """Read all rows; False if the file ends before."""
        width = self.whole[1:].numel() * self.dtype.itemsize
        rows = self.rows.numpy()
        # What follows on one another in the file is read in one go.
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        ends = [*starts[1:].tolist(), len(rows)]
        for start, end, row in zip(starts.tolist(), ends, rows[starts].tolist(), strict=False):
            file.seek(self.offset + row * width)
            part = found[start * width : end * width]
            while len(part):
                count = file.readinto(part)
                if not count:
                    return False
                part = part[count:]
        return True


def _stamp(found: os.stat_result) -> tuple[int, int]:
    return found.st_size, found.st_mtime_ns
