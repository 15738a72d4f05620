"""What people pass to a student: one input or several, as files, pictures, arrays, tensors or texts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tuition.data.images import eight_bits
from tuition.data.sequences import as_inputs
from tuition.data.sources import read_images
from tuition.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

RESIZE_FILTER = "bilinear"  # as pictures are squashed where data are loaded


def read_raw(inputs: Any, *, images: bool, image_size: tuple[int, int] | None, grey: bool) -> Tensor | list[str]:
    """One or several raw inputs in memory: a tensor, or a list of texts.

    Args:
        inputs: one input or several, as a tensor or array; a text, the path of a picture or a picture of
            Pillow; or a list of these.
        images: strings are paths of pictures, not texts.
        image_size: height and width to which pictures are squashed; None takes them as they are.
        grey: pictures lose their colours.

    Raises:
        UserError: a picture that cannot be read (it is named), or inputs of several kinds or shapes.
    """
    several = [inputs] if isinstance(inputs, (str, os.PathLike)) or _is_picture(inputs) else inputs
    if isinstance(several, (list, tuple)) and several:
        if images and all(isinstance(one, (str, os.PathLike)) for one in several):
            return _files([Path(one) for one in several], image_size, grey)
        if all(map(_is_picture, several)):
            pictures = [_squashed(one, row, image_size) for row, one in enumerate(several)]
            several = [picture.convert("L") for picture in pictures] if grey else pictures
    raw = as_inputs(several)
    return raw if isinstance(raw, (Tensor, list)) else raw.read()


def _is_picture(value: Any) -> bool:
    from PIL import Image

    return isinstance(value, Image.Image)


def _files(paths: Sequence[Path], image_size: tuple[int, int] | None, grey: bool) -> Tensor | list[str]:
    for path in paths:
        if not path.exists():
            raise UserError(f"the picture {path} was not found; give paths of pictures, pictures, arrays or tensors.")
    # Only squares are squashed to. Other sizes are those of all the pictures that a student learned from.
    square = image_size is not None and image_size[0] == image_size[1]
    return read_images(paths, size=image_size[0] if image_size is not None and square else None, grey=grey).asked()


def _squashed(picture: Image, row: int, image_size: tuple[int, int] | None) -> Image:
    from PIL import Image, ImageOps

    picture = eight_bits(f"in row {row}", ImageOps.exif_transpose(picture))
    if image_size is None or image_size[0] != image_size[1]:
        return picture
    return picture.resize(image_size, Image.Resampling[RESIZE_FILTER.upper()])
