"""RKD_d: comparison of differences in d fixed directions (Xu et al., WACV 2025, figure 4)."""

import torch
from torch import Tensor

from tuition.losses._check import pair
from tuition.losses.ckd import ckd


def rkd_projected(student: Tensor, teacher: Tensor, projection: Tensor) -> Tensor:
    """Mean over ordered pairs of MSE(theta(s_i - s_j), theta(t_i - t_j)), theta(x) = x P: `ckd(s @ P, t @ P)`.

    The paper keeps d dimensions of a difference without saying how; here theta is a fixed random orthonormal projection
    (`orthonormal_projection`), so that d of them and all of them differ in number alone.

    Args:
        student: (n, D).
        teacher: (n, D), a constant.
        projection: (D, d), a constant.

    Returns:
        Scalar, float32 or float64.

    Raises:
        ValueError: the shapes differ, do not fit the projection, or there are fewer than 2 rows.

    Source: arXiv 2311.02253, figure 4.
    """
    student, teacher = pair(student, teacher)
    if student.ndim != 2 or projection.ndim != 2 or student.shape[1] != projection.shape[0]:
        raise ValueError(
            f"a projection (D, d) takes outputs (n, D), but the shapes are {tuple(projection.shape)} and "
            f"{tuple(student.shape)}"
        )
    projection = projection.detach().to(student)
    with torch.autocast(student.device.type, enabled=False):
        return ckd(student @ projection, teacher @ projection)


def orthonormal_projection(dim: int, d: int, *, seed: int) -> Tensor:
    """(dim, min(d, dim)) float32, with orthonormal columns drawn uniformly from `seed`; the identity where d >= dim."""
    if d >= dim:
        return torch.eye(dim)
    gaussian = torch.randn(dim, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    q, r = torch.linalg.qr(gaussian)
    return (q * r.diagonal().sign()).float()
