"""Relational knowledge distillation (Park, Kim, Lu and Cho 2019)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tuition.losses._check import double, widen


def rkd(student: Tensor, teacher: Tensor, *, distance_weight: float = 25.0, angle_weight: float = 50.0) -> Tensor:
    """distance_weight `rkd_distance` + angle_weight `rkd_angle`; arguments, result and errors as there."""
    return distance_weight * rkd_distance(student, teacher) + angle_weight * rkd_angle(student, teacher)


def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth-L1 (beta 1) between the distances of rows, each side's divided by its mean positive distance.

    Averaged over all n^2 ordered pairs, the n zero ones of a row with itself among them, as in RepDistiller; an average
    over pairs i != j is n / (n - 1) times larger. Distances come from direct differences: through the Gram matrix they
    drown in rounding where rows share a large constant.

    Args:
        student: (n, ...); all but the first dimension count as columns.
        teacher: (n, ...), a constant; its width need not be the student's.

    Returns:
        Scalar, float32 or float64.

    Raises:
        ValueError: the numbers of rows differ, or there are fewer than 2.

    Source: Relational Knowledge Distillation, arXiv 1904.05068, section 3.2.1.
    """
    student, teacher = _rows(student, teacher)
    pairs = F.smooth_l1_loss(_relative_distances(student), _relative_distances(teacher), reduction="sum")
    return pairs * (2 / len(student) ** 2)


def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth-L1 (beta 1) between cos(x_j - x_i, x_k - x_i) of student and teacher, averaged over all n^3 triplets.

    Triplets with i = j or i = k count with cosine 0, as in RepDistiller. So do rows that are equal up to rounding: they
    have no direction, and a gradient through it would be noise of any size. There is no second derivative.

    Cosines follow from the distances, c_ijk = (d_ij^2 + d_ik^2 - d_jk^2) / (2 d_ij d_ik), for O(n^3) time whatever the
    width, and in blocks of i for O(n^2) memory. Rounding is magnified by the ratio of distances between and within
    clusters, hence float64, which makes that harmless: float32 rows cannot hold a ratio above 1e7. (A Gram matrix
    would magnify by the ratio's square.)

    Args:
        student: (n, ...); all but the first dimension count as columns.
        teacher: (n, ...), a constant; its width need not be the student's.

    Returns:
        Scalar, float32 or float64.

    Raises:
        ValueError: the numbers of rows differ, or there are fewer than 2.

    Source: arXiv 1904.05068, section 3.2.2.
    """
    student, teacher = _rows(student, teacher)
    return _AngleLoss.apply(*_distances(student), *_distances(teacher)).to(student)


def _rows(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if len(student) != len(teacher) or len(student) < 2:
        raise ValueError(
            f"rkd compares rows and needs at least 2, in equal numbers of student and teacher, but they have "
            f"{len(student)} and {len(teacher)}"
        )
    student, teacher = (widen(x).reshape(len(x), -1) for x in (student, teacher.detach()))
    dtype = torch.promote_types(student.dtype, teacher.dtype)
    return student.to(dtype), teacher.to(dtype)


def _relative_distances(x: Tensor) -> Tensor:
    distances = F.pdist(x)
    mean = distances.sum() / (distances > 0).sum().clamp(min=1)
    return distances / mean.where(mean > 0, 1.0)


def _distances(x: Tensor) -> tuple[Tensor, Tensor]:
    """Distances (n, n) in float64, and their inverses, 0 where rows are equal up to the rounding of x."""
    wide = double(x)
    distances = torch.cdist(wide, wide, compute_mode="donot_use_mm_for_euclid_dist")
    size = torch.linalg.vector_norm(wide.detach(), dim=1)
    rounding = torch.finfo(x.dtype).eps * (size[:, None] + size)
    return distances, torch.where(distances > rounding, 1 / distances, 0.0).detach()


def _block(n: int, on_cpu: bool) -> int:
    """Rows i of a block: a core's share stays in its cache, and is larger where threads wait for each other."""
    threads = torch.get_num_threads()
    elements = 2**22 if not on_cpu else 2**16 if threads == 1 else 2**17 * threads
    return max(1, elements // n**2)


# What torch.compiler.assume_constant_result does, which would import the compiler: seconds for those who never compile.
_block._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _twice_cosines(d2: Tensor, inverse: Tensor, i: slice) -> Tensor:
    """Of all j and k seen from rows i, (b, n, n), from squared and inverse distances."""
    numerators = (d2[i, :, None] + d2[i, None, :]).sub_(d2)
    return numerators.mul_(inverse[i, :, None]).mul_(inverse[i, None, :])


class _AngleLoss(torch.autograd.Function):
    """Value and gradient in one pass over blocks of i, so that no block is kept or computed twice."""

    @staticmethod
    def forward(ctx: Any, d: Tensor, inverse: Tensor, teacher_d: Tensor, teacher_inverse: Tensor) -> Tensor:
        n = len(d)
        d2, teacher_d2 = d.square(), teacher_d.square()
        total, at_corner, opposite = d.new_zeros(()), torch.zeros_like(d), torch.zeros_like(d)
        block = _block(n, d.device.type == "cpu")
        for start in range(0, n, block):
            i = slice(start, start + block)
            # Cosines, errors and slopes are all held twice as large as they are.
            cosines = _twice_cosines(d2, inverse, i)
            error = cosines - _twice_cosines(teacher_d2, teacher_inverse, i)
            slope = error.clamp(-2, 2)  # of smooth-L1, which is slope (error - slope / 2)
            total += torch.dot(slope.view(-1), error.view(-1)) - torch.dot(slope.view(-1), slope.view(-1)) / 2
            # The derivative of c_ijk by d_ij is 1 / d_ik - c_ijk / d_ij, and by d_jk it is -d_jk / (d_ij d_ik).
            h = inverse[i, :, None]
            at_corner[i] = (slope @ h - cosines.mul_(slope).sum(dim=2, keepdim=True) * h / 2).squeeze(2)
            opposite += slope.mul_(h).mul_(h.mT).sum(dim=0)
        ctx.save_for_backward((at_corner * (inverse > 0) - d * opposite / 2) / n**3)
        return total / (4 * n**3)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        if torch.is_grad_enabled():
            raise NotImplementedError("rkd_angle has no second derivative")
        (gradient,) = ctx.saved_tensors
        return gradient * grad, None, None, None
