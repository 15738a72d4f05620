"""VID: variational information distillation (Ahn, Hu, Damianou, Lawrence and Dai 2019)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tuition.losses._check import pair, widen
from tuition.losses._seeded import seeded


class VID(nn.Module):
    """Gaussian negative log-likelihood of the teacher's map given the student's, with a variance per channel.

    The loss is 1/2 mean over channels c of [ S_c / v_c + log v_c ]. With residuals r = regressor(student) - teacher,
    S_c is their mean square over batch and positions; v_c = softplus(log_scale_c) + 1e-5 is learned and starts at 5;
    the regressor is three 1x1 convolutions without bias, ReLU between. The larger map is average-pooled to the smaller.
    The constant of the density is left out; the mean over all elements (not their sum) and the 1/2 on both terms are
    RepDistiller's.

    `compare=True` is the form for VID + CKD: the likelihood of *differences*. The difference between the means of p and
    of q rows has variance (1/p + 1/q) v_c, so the average of its negative log-likelihood over all such groups has the
    same form, up to the constant 1/2 log(1/p + 1/q): S_c is now the mean over positions of the residuals' variance over
    the batch (divided by n - 1), for every p and q. The published form is the plain one on differences of maps.

    Args:
        in_channels: channels of the student's map.
        out_channels: channels of the teacher's map.
        hidden_channels: between the convolutions; out_channels if None.
        compare: learn from differences between samples.
        seed: of the initial weights.

    Source: Variational Information Distillation for Knowledge Transfer, arXiv 1904.05835.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden_channels: int | None = None,
        *,
        compare: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        hidden = hidden_channels or out_channels
        with seeded(seed):
            self.regressor = nn.Sequential(
                nn.Conv2d(in_channels, hidden, 1, bias=False),
                nn.ReLU(),
                nn.Conv2d(hidden, hidden, 1, bias=False),
                nn.ReLU(),
                nn.Conv2d(hidden, out_channels, 1, bias=False),
            )
        self.eps = 1e-5
        self.log_scale = nn.Parameter(torch.full((out_channels,), math.log(math.expm1(5.0 - self.eps))))
        self.compare = compare

    def forward(self, student_map: Tensor, teacher_map: Tensor) -> Tensor:
        """Scalar, float32 or float64.

        Args:
            student_map: (n, in_channels, h, w).
            teacher_map: (n, out_channels, h', w'), a constant.

        Raises:
            ValueError: the maps do not fit each other, or comparing fewer than 2 rows.
        """
        if student_map.ndim != 4 or teacher_map.ndim != 4:
            raise ValueError(
                f"maps are (n, c, h, w), but the shapes are {tuple(student_map.shape)} and {tuple(teacher_map.shape)}"
            )
        (h, w), (teacher_h, teacher_w) = student_map.shape[2:], teacher_map.shape[2:]
        size = min(h, teacher_h), min(w, teacher_w)
        student_map = _pooled(student_map.to(self.log_scale.dtype), size)
        residual = torch.sub(*pair(self.regressor(student_map), _pooled(widen(teacher_map), size)))
        variance = F.softplus(self.log_scale.to(residual.dtype)) + self.eps
        return 0.5 * (self._spread(residual) / variance + variance.log()).mean()

    def _spread(self, residual: Tensor) -> Tensor:
        if not self.compare:
            return residual.square().mean(dim=(0, 2, 3))
        n = len(residual)
        if n < 2:
            raise ValueError(f"comparing needs at least 2 rows, but the batch has {n}")
        return (residual - residual.mean(dim=0)).square().mean(dim=(0, 2, 3)) * (n / (n - 1))


def _pooled(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if x.shape[2:] == size else F.adaptive_avg_pool2d(x, size)
