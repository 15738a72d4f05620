"""Decoupled knowledge distillation (Zhao, Cui, Song, Qiu and Liang 2022)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tuition.losses._check import logits_pair


def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """T^2 (alpha TCKD + beta NCKD), averaged over the batch.

    TCKD is the KL divergence between teacher and student on two outcomes: the label's class, or another. NCKD is the
    divergence between their distributions over the other classes alone. KD is TCKD + (1 - p) NCKD, where p is the
    teacher's probability of the label's class: where the teacher is sure, KD hardly teaches the other classes.

    Args:
        student_logits: (n, k).
        teacher_logits: (n, k), a constant.
        labels: int64 (n,) class indices below k.
        alpha: weight of TCKD.
        beta: weight of NCKD.
        temperature: T > 0.

    Returns:
        Scalar, float32 or float64.

    Raises:
        ValueError: the shapes differ or are not (n, k), or there is another number of labels.

    Source: Decoupled Knowledge Distillation, arXiv 2203.08679, equation 7; T^2 as in the authors' code.
    """
    student, teacher = logits_pair(student_logits, teacher_logits)
    if labels.shape != student.shape[:1]:
        raise ValueError(f"labels must be {len(student)} class indices, but they have shape {tuple(labels.shape)}")
    target, target_of_teacher = (_binary(x / temperature, labels) for x in (student, teacher))
    others, others_of_teacher = (_others(x / temperature, labels) for x in (student, teacher))
    tckd = F.kl_div(target, target_of_teacher, log_target=True, reduction="batchmean")
    nckd = F.kl_div(others, others_of_teacher, log_target=True, reduction="batchmean")
    return temperature**2 * (alpha * tckd + beta * nckd)


def _hit(logits: Tensor, labels: Tensor) -> Tensor:
    """True (n, k) at the label's class."""
    return torch.arange(logits.shape[1], device=logits.device) == labels[:, None]


def _binary(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probabilities (n, 2) of the label's class, and of all others."""
    rest = logits.masked_fill(_hit(logits, labels), -torch.inf).logsumexp(dim=1, keepdim=True)
    return torch.cat([logits.gather(1, labels[:, None]), rest], dim=1).log_softmax(dim=1)


def _others(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probabilities (n, k) over all classes but the label's, whose column is 0 and adds nothing to a divergence."""
    hit = _hit(logits, labels)
    return logits.masked_fill(hit, -torch.inf).log_softmax(dim=1).masked_fill(hit, 0.0)
