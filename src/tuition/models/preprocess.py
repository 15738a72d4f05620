"""From a pool's raw inputs to what a model reads. Belongs to the model and is saved with it."""

from collections.abc import Iterable, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tuition.errors import UserError


class Preprocess(nn.Module):
    """Scale bytes to [0, 1], then (x - mean) / std per channel of images (n, c, h, w) or column of vectors (n, d).

    With a `size`, images are resized to size x size pixels first, by `interpolation` (nearest, bilinear or bicubic);
    reduced ones with antialiasing.

    uint8 inputs are divided by 255, float inputs taken as they are. The output is float32 or the inputs' wider type,
    and images come out channels last, the layout in which convolutions are fastest.

    Raises:
        UserError: `mean` and `std` differ in length or a std is not positive; inputs of another channel count, or of
            an integer type other than uint8, whose scale is not known.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float] | Tensor,
        std: Sequence[float] | Tensor,
        *,
        size: int | None = None,
        interpolation: str = "bilinear",
    ) -> None:
        super().__init__()
        self.size, self.interpolation = size, interpolation
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32).clone())
        self.register_buffer("std", torch.as_tensor(std, dtype=torch.float32).clone())
        if (
            self.mean.ndim != 1
            or self.mean.shape != self.std.shape
            or not ((self.std > 0) & self.mean.isfinite()).all()
        ):
            raise UserError(f"preprocessing needs one mean and one positive std a channel, not {mean} and {std}.")

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.ndim < 2 or inputs.shape[1] != len(self.mean):
            shape = tuple(inputs.shape)
            raise UserError(f"the model reads inputs of {len(self.mean)} channels: those of shape {shape} do not fit.")
        if inputs.dtype != torch.uint8 and not inputs.is_floating_point():
            raise UserError(f"inputs are uint8 (0 to 255) or floats, not {inputs.dtype}: convert them first.")
        scale = 255 if inputs.dtype == torch.uint8 else 1
        if self.size is not None and inputs.ndim == 4:
            inputs = self._resized(inputs if inputs.is_floating_point() else inputs.float(), self.size, scale)
        last = inputs.movedim(1, -1)
        flat = last.flatten(1)  # with the statistics repeated along it: rows of three channels would be slow to step
        times = flat.shape[1] // len(self.mean)
        flat = (flat - (scale * self.mean).repeat(times)) / (scale * self.std).repeat(times)
        return flat.view(last.shape).movedim(-1, 1)

    def _resized(self, images: Tensor, side: int, scale: int) -> Tensor:
        height, width = images.shape[2:]
        if (height, width) == (side, side):
            return images
        size = (side, side)
        if self.interpolation == "nearest":
            return F.interpolate(images, size)
        smaller = height > side or width > side
        resized = F.interpolate(images, size, mode=self.interpolation, align_corners=False, antialias=smaller)
        return resized.clamp(0, scale) if scale == 255 else resized  # bicubic goes beyond the range

    def settings(self) -> dict[str, Any]:
        """What makes an equal one, beside its buffers."""
        return {} if self.size is None else {"size": self.size, "interpolation": self.interpolation}

    def extra_repr(self) -> str:
        return "" if self.size is None else f"size={self.size}, interpolation={self.interpolation}"

    @classmethod
    def fit(cls, inputs: Any) -> Self:
        """The mean and (population) standard deviation of each channel, in float64; a constant channel gets std 1.

        Args:
            inputs: uint8 images (n, c, h, w), or floats (n, d) or (n, c, h, w); a tensor, or what has its `shape`,
                `ndim` and `dtype`, and is `split` into tensors as it is.

        Raises:
            UserError: no inputs, or NaN or infinity among them.
        """
        if inputs.ndim < 2 or inputs.shape.numel() == 0:
            raise UserError(f"there is nothing to normalise by in inputs of shape {tuple(inputs.shape)}.")
        parts = inputs.split(max(1, 2**22 // inputs.shape[1:].numel()))  # looked at one by one
        mean, variance = _moments_of_bytes(parts) if inputs.dtype == torch.uint8 else _moments(parts)
        if not variance.isfinite().all():
            raise UserError("the inputs hold NaN or infinity: fix or drop these rows.")
        std = variance.sqrt()
        return cls(mean, std.where(std > 1e-12 * mean.abs(), 1.0))  # below that it is rounding


def _moments(parts: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Of all parts, from the moments of each (Chan et al., 1983)."""
    counts, means, variances = [], [], []
    for part in parts:
        variance, mean = torch.var_mean(part.double(), [axis for axis in range(part.ndim) if axis != 1], correction=0)
        counts.append(len(part))
        means.append(mean)
        variances.append(variance)
    each = torch.stack(means)
    share = each.new_tensor(counts)[:, None] / sum(counts)
    mean = (share * each).sum(0)
    return mean, (share * (torch.stack(variances) + (each - mean).square())).sum(0)


def _moments_of_bytes(parts: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Exact, from the histogram of each channel: twenty times faster than float64 sums, and in little memory."""
    counts: Tensor | int = 0
    for part in parts:
        counts = counts + torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in part.unbind(1)])
    assert isinstance(counts, Tensor)
    levels = torch.arange(256, dtype=torch.float64, device=counts.device) / 255
    share = counts / counts.sum(1, keepdim=True, dtype=torch.float64)
    mean = share @ levels
    return mean, (share * (levels - mean[:, None]).square()).sum(1)
