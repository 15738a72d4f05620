"""Knowledge distillation of standardised logits (Sun, Ren, Li, Wang and Cao 2024)."""

import torch
from torch import Tensor

from tuition.losses._check import logits_pair
from tuition.losses.kd import kd


def standardised_kd(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 2.0) -> Tensor:
    """`kd` on logits of which each row has mean 0 and standard deviation 1.

    The student learns the relations of the teacher's logits, and need not match their range. The standard deviation is
    that of a sample (k - 1), as in the authors' code. A row that is constant up to rounding has no direction: it
    becomes 0, without gradient.

    Args:
        student_logits: (n, k).
        teacher_logits: (n, k), a constant.
        temperature: T > 0, of the standardised logits.

    Returns:
        Scalar, float32 or float64.

    Raises:
        ValueError: the shapes differ or are not (n, k).

    Source: Logit Standardization in Knowledge Distillation, arXiv 2403.01427, algorithm 1.
    """
    student, teacher = logits_pair(student_logits, teacher_logits)
    return kd(_standardised(student), _standardised(teacher), temperature=temperature)


def _standardised(logits: Tensor) -> Tensor:
    mean = logits.mean(dim=1, keepdim=True)
    centred = logits - mean
    variance = centred.square().sum(dim=1, keepdim=True) / (logits.shape[1] - 1)
    rounding = 16 * torch.finfo(logits.dtype).eps * mean.detach().abs().clamp(min=1e-30)
    varies = variance.detach() > rounding.square()
    return torch.where(varies, centred, 0.0) * torch.where(varies, variance, 1.0).rsqrt()
