"""Views of images: random crops and flips of whole batches on their device, without per-image Python."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tuition.errors import UserError


@dataclass(frozen=True)
class Crop:
    """Zero-pad, crop, flip: the common augmentation of small images.

    A *view* is three integers an image: top and left of the crop in the padded image, and whether it is flipped.

    Attributes:
        padding: pixels of zeros added on each side before cropping.
        size: side of the square crop; None keeps the image's own height and width.
        flip: whether random views are mirrored horizontally half of the time.
    """

    padding: int = 4
    size: int | None = None
    flip: bool = True

    def __post_init__(self) -> None:
        if self.padding < 0 or (self.size is not None and self.size < 1):
            raise UserError(f"a crop has padding 0 or more and size 1 or more, not {self.padding} and {self.size}.")

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the crops of images of `size`."""
        if self.size is not None and self.size > min(size) + 2 * self.padding:
            raise UserError(
                f"a crop of {self.size} does not fit in images of {size[0]}x{size[1]}; choose a smaller crop."
            )
        return (self.size, self.size) if self.size is not None else size

    def draw(self, count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Random views (count, 3) of images of height and width `size`, on the generator's device."""
        height, width = self.output_size(size)
        room = (size[0] + 2 * self.padding - height + 1, size[1] + 2 * self.padding - width + 1)
        device = generator.device
        views = torch.empty(count, 3, dtype=torch.long, device=device)
        views[:, 0] = torch.randint(room[0], (count,), generator=generator, device=device)
        views[:, 1] = torch.randint(room[1], (count,), generator=generator, device=device)
        # The flip is drawn even when unused, so that switching it off leaves the crops as they were.
        views[:, 2] = torch.randint(2, (count,), generator=generator, device=device) * int(self.flip)
        return views

    def centre(self, count: int, size: tuple[int, int]) -> Tensor:
        """The centred, unflipped views (count, 3) of images of height and width `size`."""
        height, width = self.output_size(size)
        top, left = (size[0] + 2 * self.padding - height) // 2, (size[1] + 2 * self.padding - width) // 2
        return torch.tensor([[top, left, 0]]).expand(count, 3)

    def __call__(self, images: Tensor, views: Tensor) -> Tensor:
        """Cut each image's view: (n, c, h, w) of any dtype and (n, 3) -> (n, c, height, width)."""
        rows = torch.arange(len(images), device=images.device)
        return self.cut(self.windows(images), rows, views.to(images.device)).contiguous()

    def windows(self, images: Tensor) -> Tensor:
        """Every view of images (n, c, h, w), to `cut` from any number of times.

        A strided view (flips, n, tops, lefts, height, width, c) of one copy, or two where there are flips, of the
        padded images, channels last, so that a view is cut by copying lines. Lefts of the mirrored copy count
        from its own left.
        """
        n, channels, high, wide = images.shape
        height, width = self.output_size((high, wide))
        around = self.padding
        padded = images.new_zeros(1 + self.flip, n, high + 2 * around, wide + 2 * around, channels)
        inner = padded[:, :, around : around + high, around : around + wide]
        for copy, image in zip(inner, (images, images.flip(3)), strict=False):
            copy.copy_(image.movedim(1, -1))
        return padded.unfold(2, height, 1).unfold(3, width, 1).movedim(4, -1)

    def cut(self, windows: Tensor, rows: Tensor, views: Tensor) -> Tensor:
        """The `views` (b, 3) of images `rows` (b,) in one gather: (b, c, height, width), channels last."""
        top, left, flip = views.unbind(1)
        if self.flip:
            left = torch.where(flip.bool(), windows.shape[3] - 1 - left, left)
        return windows[flip, rows, top, left].movedim(-1, 1)
