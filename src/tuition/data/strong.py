"""Strong views of whole batches on their device: what a student must answer as it answers the plain input.

Each takes a batch (b, ...) and a generator of its device, and leaves the batch as it is.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

TURN, SCALE, SHIFT = math.radians(15), 0.1, 0.1  # most; a shift in parts of the side
NOISE = 0.1  # standard deviation, of pixels in [0, 1]
CUT = 0.4  # longest side of the square that is cut out, in parts of the image's shorter side
SPREAD = 0.3  # standard deviation, in those of a vector's columns
DROPPED = 0.2  # share of tokens


def strong_images(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image turned, scaled and moved a little, with noise, and with a square replaced by the image's mean.

    Args:
        images: (b, c, h, w) uint8.

    Returns:
        The same shape and type.
    """
    images = images.float() / 255
    count, _, height, width = images.shape

    def between(limit: float, *shape: int) -> Tensor:
        drawn = torch.rand(count, *shape, generator=generator, device=images.device)
        return (2 * drawn - 1) * limit

    angle, scale = between(TURN), 1 + between(SCALE)
    # From the view's coordinates, which run from -1 to 1 along both sides, to the image's. Turns are those of pixels.
    theta = images.new_empty(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale * angle.cos()
    theta[:, 0, 1] = -scale * angle.sin() * height / width
    theta[:, 1, 0] = scale * angle.sin() * width / height
    theta[:, :, 2] = between(2 * SHIFT, 2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    views = F.grid_sample(images, grid, align_corners=False)
    views = views + NOISE * torch.randn(views.shape, generator=generator, device=views.device)
    views = views.clamp(0, 1)
    half = (between(0.5) + 0.5) * CUT * min(height, width) / 2
    inside = [_near(size, (between(0.5) + 0.5) * size, half) for size in (height, width)]
    square = (inside[0][:, :, None] & inside[1][:, None, :])[:, None]
    return (torch.where(square, images.mean(dim=(2, 3), keepdim=True), views) * 255).round().to(torch.uint8)


def _near(size: int, centre: Tensor, reach: Tensor) -> Tensor:
    """(b, size): which pixels of a side have their centre within `reach` (b,) of `centre` (b,)."""
    place = torch.arange(size, device=centre.device) + 0.5
    return (place - centre[:, None]).abs() <= reach[:, None]


def noisy_vectors(vectors: Tensor, generator: torch.Generator, *, spread: Tensor) -> Tensor:
    """Each vector (b, d) with Gaussian noise, a share of the standard deviation `spread` (d,) of every column."""
    noise = torch.randn(vectors.shape, generator=generator, device=vectors.device, dtype=vectors.dtype)
    return vectors + SPREAD * spread.to(vectors) * noise


def dropped_words(ids: Tensor, generator: torch.Generator, *, padding: int) -> Tensor:
    """Token ids (b, length) of which some are padding. The first token stays: encoders may read their answer there."""
    kept = torch.rand(ids.shape, generator=generator, device=ids.device) >= DROPPED
    kept[:, 0] = True
    return ids.where(kept, padding)
