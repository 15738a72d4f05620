"""Pictures as Pillow reads them: which files they are, and many of them decoded into one uint8 tensor."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tuition.data.ondisk import scratch
from tuition.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

Encoded = tuple[str, bytes | Path]
"""What to call an image in a message, and its bytes or its file."""


@dataclass(frozen=True)
class EncodedImages:
    """One split of a data set, before decoding: `count` images in batches, their labels and class names if known."""

    batches: Iterable[Sequence[Encoded]]
    count: int
    labels: Sequence[int] | np.ndarray | None
    class_names: Sequence[str] | None


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


# -- one picture -------------------------------------------------------------------------------------------------------

# Named one by one, most likely first: Pillow otherwise tries every reader it has, which takes twice as long on small
# images.
FORMATS = ("WEBP", "JPEG", "PNG", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")
# The first starts another program (Ghostscript); the others are known to Pillow by name, but it has no reader of them.
UNREAD = {"EPS", "BUFR", "GRIB", "HDF5", "MPEG", "WMF"}

GREY = {"1", "L", "LA", "La"}


def reader_of(path: Path) -> str | None:
    """The format that Pillow reads files of this suffix as; None if it reads none."""
    from PIL import Image

    kind = Image.registered_extensions().get(path.suffix.lower())
    return kind if kind in Image.OPEN and kind not in UNREAD else None


def is_picture(path: Path) -> bool:
    """Whether a file is a picture by its suffix."""
    return reader_of(path) is not None


def has_colours(content: bytes | Path) -> bool:
    """Whether an encoded image has colours by its header; what cannot be read is refused where it is decoded."""
    try:
        with _open(content) as image:
            return image.mode not in GREY
    except Exception:
        return False


def decode_one(name: str, content: bytes | Path, size: int | None) -> np.ndarray:
    """One image as uint8 (1, h, w) or (3, h, w); with a `size`, squashed to size x size.

    Raises:
        UserError: it cannot be read, or has more than 8 bits.
    """
    from PIL import Image, ImageOps

    try:
        with _open(content) as image:
            if size is not None:  # a large JPEG is read at a fraction of its size, never below twice what is needed
                image.draft(None, (2 * size, 2 * size))
            ImageOps.exif_transpose(image, in_place=True)
            picture = eight_bits(name, image)
    except UserError:
        raise
    except Exception as error:  # a decoder may raise anything on damaged bytes
        raise _unreadable(name, error) from error
    if size is not None and picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    return as_array(picture)


def in_grey(images: Tensor) -> Tensor:
    """uint8 images (n, c, h, w) as (n, 1, h, w), to the bit as Pillow converts RGB."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.to(torch.int32).unbind(dim=1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 2**15) >> 16).to(torch.uint8)[:, None]


def as_array(picture: Image) -> np.ndarray:
    """A grey or RGB picture as (1, h, w) or (3, h, w)."""
    array = np.asarray(picture)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def eight_bits(name: str, image: Image) -> Image:
    """A picture as grey or RGB."""
    if image.mode in ("L", "RGB"):
        image.load()
        return image
    if image.mode.startswith(("I", "F")):
        raise UserError(f"the image {name} has more than 8 bits a pixel; convert it to 8 bits grey or RGB.")
    if image.mode == "P" and "transparency" in image.info:  # Pillow warns on the direct way
        image = image.convert("RGBA")
    return image.convert("L" if image.mode in GREY else "RGB")


def _open(content: bytes | Path) -> Image:
    from PIL import Image

    formats = list(FORMATS)
    if isinstance(content, Path) and not stat.S_ISREG(content.stat().st_mode):  # to open a pipe is to wait for ever
        raise ValueError("it is not a regular file")
    if isinstance(content, Path):  # the readers of rare formats are tried on files of such a suffix alone
        rare = reader_of(content)
        formats += [rare] if rare is not None and rare not in formats else []
    Image.init()
    known = [kind for kind in formats if kind in Image.OPEN]
    return Image.open(io.BytesIO(content) if isinstance(content, bytes) else content, formats=known)


def _unreadable(name: str, error: Exception) -> UserError:
    known = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
    why = " ".join(known.split()) or type(error).__name__
    return UserError(f"cannot read the image {name} ({why}); replace it or leave it out.")
