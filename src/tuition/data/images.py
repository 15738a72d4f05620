"""Encoded images, from files or from bytes, decoded into one uint8 tensor."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tuition.data.cache import scratch
from tuition.data.pictures import decode_one
from tuition.data.pool import Pool, from_tensors
from tuition.errors import UserError

Encoded = tuple[str, bytes | Path]
"""What to call an image in a message, and its bytes or its file."""


@dataclass(frozen=True)
class EncodedImages:
    """One split of a data set, before decoding: `count` images in batches, their labels and class names if known."""

    batches: Iterable[Sequence[Encoded]]
    count: int
    labels: np.ndarray | None
    class_names: Sequence[str] | None


def read_images(paths: Sequence[str | os.PathLike[str]], *, size: int | None = None) -> Pool:
    """Image files as a pool without labels; see `decode` for `size` and what it raises."""
    encoded = [(str(path), Path(path)) for path in paths]
    return from_tensors(decode("images", [encoded], len(encoded), size=size), name="images")


def decode(name: str, batches: Iterable[Sequence[Encoded]], count: int, *, size: int | None = None) -> Tensor:
    """All images as uint8 (count, c, h, w): c = 1 if every one is grey, else 3 (palettes and transparency become RGB).

    Args:
        name: what the progress bar on stderr says is decoded.
        batches: the images in their order.
        count: how many there are.
        size: squash every picture, whole, to size x size (bilinear, antialiased); None takes them as they are.

    Raises:
        UserError: an image that cannot be read (it is named), or images of differing sizes without `size`.
    """
    from rich.console import Console
    from rich.progress import Progress

    images = np.empty((0, 0, 0, 0), np.uint8)
    row = 0
    console = Console(stderr=True)
    progress = Progress(console=console, transient=True, disable=not console.is_terminal)
    task = progress.add_task(f"decoding {name}", total=count)
    with progress, ThreadPoolExecutor(os.cpu_count()) as threads:
        for batch in batches:
            # Small images are dominated by Python, which threads cannot share: hand them over by the dozen.
            parts = [(batch[start : start + 64], size) for start in range(0, len(batch), 64)]
            for called, image in (pair for part in threads.map(_decode_part, parts) for pair in part):
                if row == 0:
                    images = scratch((count, *image.shape), torch.uint8).numpy()
                if image.shape[1:] != images.shape[2:]:
                    here, first = ("x".join(map(str, shape)) for shape in (image.shape[1:], images.shape[2:]))
                    raise UserError(
                        f"the images differ in size ({first}, but {called} is {here}); pass a size, such as 64."
                    )
                if image.shape[0] > images.shape[1]:
                    images = images.repeat(3, axis=1)
                images[row] = image
                row += 1
            progress.update(task, completed=row)
    if row != count:
        raise UserError(f"{name} holds {row:,} images where {count:,} are announced; copy its files again.")
    return torch.from_numpy(images)


def _decode_part(part: tuple[Sequence[Encoded], int | None]) -> list[tuple[str, np.ndarray]]:
    encoded, size = part
    return [(name, decode_one(name, content, size)) for name, content in encoded]
