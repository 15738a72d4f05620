"""Encoded images, from files or from bytes, decoded into one uint8 tensor."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tuition.data.cache import scratch
from tuition.data.pool import Pool, from_tensors
from tuition.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

# Named one by one, most likely first: Pillow otherwise tries every reader it has, which takes twice as long on small
# images, and some of its readers start other programs.
FORMATS = ("WEBP", "JPEG", "PNG", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = {".webp", ".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}

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
    return torch.from_numpy(images)


def _decode_part(part: tuple[Sequence[Encoded], int | None]) -> list[tuple[str, np.ndarray]]:
    encoded, size = part
    return [(name, _decode_one(name, content, size)) for name, content in encoded]


def _decode_one(name: str, content: bytes | Path, size: int | None) -> np.ndarray:
    """One image as uint8 (1, h, w) or (3, h, w)."""
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content, formats=FORMATS) as image:
            if size is not None:  # a large JPEG is read at a fraction of its size, never below twice what is needed
                image.draft(None, (2 * size, 2 * size))
            ImageOps.exif_transpose(image, in_place=True)
            picture = _eight_bits(name, image)
    except UserError:
        raise
    except Exception as error:  # a decoder may raise anything on damaged bytes
        raise UserError(f"cannot read the image {name} ({error}); replace it or leave it out.") from error
    if size is not None and picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    array = np.asarray(picture)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _eight_bits(name: str, image: Image) -> Image:
    if image.mode in ("L", "RGB"):
        image.load()
        return image
    if image.mode.startswith(("I", "F")):
        raise UserError(f"the image {name} has more than 8 bits a pixel; convert it to 8 bits grey or RGB.")
    if image.mode == "P" and "transparency" in image.info:  # Pillow warns on the direct way
        image = image.convert("RGBA")
    return image.convert("L" if image.mode in ("1", "LA", "La") else "RGB")
