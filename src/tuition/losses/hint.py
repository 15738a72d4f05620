"""FitNets: hints from a middle layer (Romero et al. 2015), and the layers that make outputs comparable."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from tuition.losses._check import pair
from tuition.losses._seeded import seeded


def hint(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean over all elements of (student_map - teacher_map)^2; the student's is commonly a `Regressor`'s output.

    The paper halves the square and sums over the map; this is RepDistiller's form, to which the weight 100
    belongs. The comparison of maps is `ckd` itself: the variance of their residuals.

    Args:
        student_map: any shape, such as (n, c, h, w).
        teacher_map: the same shape, a constant.

    Returns:
        Scalar, float32 or float64.

    Raises:
        ValueError: the shapes differ.

    Source: FitNets: Hints for Thin Deep Nets, arXiv 1412.6550, equation 3.
    """
    return F.mse_loss(*pair(student_map, teacher_map))


class Projector(nn.Linear):
    """A learned linear map, (..., student_width) -> (..., teacher_width), for vectors of different width."""

    def __init__(self, student_width: int, teacher_width: int, *, seed: int = 0) -> None:
        with seeded(seed):
            super().__init__(student_width, teacher_width)

    def forward(self, student: Tensor) -> Tensor:
        return super().forward(student.to(self.weight.dtype))


class Regressor(nn.Module):
    """A learned convolution, (n, c, h, w) -> (n, c', h', w'), from the student's map to the shape of the teacher's.

    Twice as large a map is halved (3x3, stride 2), half as large doubled (transposed 4x4, stride 2), an equal or larger
    one reduced by a valid convolution of the difference (1x1 where equal). Batch norm follows, then a ReLU, as the
    hint is commonly read behind one; `relu=False` is for maps with negative values. This is RepDistiller's ConvReg.

    Args:
        student_shape: (c, h, w) or (n, c, h, w) of a probe.
        teacher_shape: likewise.

    Raises:
        ValueError: a shape is not a map's, or the student's map is smaller than the teacher's, but not half as large.
    """

    def __init__(
        self, student_shape: Sequence[int], teacher_shape: Sequence[int], *, relu: bool = True, seed: int = 0
    ) -> None:
        super().__init__()
        if not 3 <= len(student_shape) <= 4 or not 3 <= len(teacher_shape) <= 4:
            raise ValueError(f"maps are (n, c, h, w), but the shapes are {(*student_shape,)} and {(*teacher_shape,)}")
        (c, h, w), (out, out_h, out_w) = student_shape[-3:], teacher_shape[-3:]
        with seeded(seed):
            if (h, w) == (2 * out_h, 2 * out_w):
                self.conv: nn.Module = nn.Conv2d(c, out, 3, stride=2, padding=1)
            elif (2 * h, 2 * w) == (out_h, out_w):
                self.conv = nn.ConvTranspose2d(c, out, 4, stride=2, padding=1)
            elif h >= out_h and w >= out_w:
                self.conv = nn.Conv2d(c, out, (1 + h - out_h, 1 + w - out_w))
            else:
                raise ValueError(
                    f"no regressor leads from a map of {h}x{w} to one of {out_h}x{out_w}; choose layers where the "
                    f"student's map is at least as large, or half as large"
                )
            self.norm = nn.BatchNorm2d(out)
        self.activation = nn.ReLU() if relu else nn.Identity()

    def forward(self, student_map: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(student_map.to(self.norm.weight.dtype))))
