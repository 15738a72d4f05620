"""What Pillow reads: suffixes, formats, and one picture as an array."""

from __future__ import annotations

import io
import stat
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tuition.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

# Named one by one, most likely first: Pillow otherwise tries every reader it has, which takes twice as long on small
# images.
FORMATS = ("WEBP", "JPEG", "PNG", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")
# The first starts another program (Ghostscript); the others are known to Pillow by name, but it has no reader of them.
UNREAD = {"EPS", "BUFR", "GRIB", "HDF5", "MPEG", "WMF"}

GREY = {"1", "L", "LA", "La"}


@cache
def suffixes() -> dict[str, str]:
    """The suffixes that Pillow reads, in lower case, and the format of each."""
    from PIL import Image

    known = Image.registered_extensions().items()
    return {suffix: kind for suffix, kind in known if kind in Image.OPEN and kind not in UNREAD}


def is_picture(path: Path) -> bool:
    """Whether a file is a picture by its suffix."""
    return path.suffix.lower() in suffixes()


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
        rare = suffixes().get(content.suffix.lower())
        formats += [rare] if rare is not None and rare not in formats else []
    Image.init()
    known = [kind for kind in formats if kind in Image.OPEN]
    return Image.open(io.BytesIO(content) if isinstance(content, bytes) else content, formats=known)


def _unreadable(name: str, error: Exception) -> UserError:
    why = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"cannot read the image {name} ({why}); replace it or leave it out.")
