"""What every loss does at its door."""

import torch
from torch import Tensor

WITHOUT_DOUBLE = {"mps"}


def widen(x: Tensor) -> Tensor:
    """`x` in float32 at least: float16, bfloat16 and integers (one-hot labels) become float32, float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def pair(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides in one dtype, float32 at least; the teacher's is a constant, so no gradient reaches it.

    Raises:
        ValueError: the shapes differ.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"student and teacher must have equal shapes, but they have {tuple(student.shape)} and "
            f"{tuple(teacher.shape)}; bring them to one width with a projector, or to one map with a regressor"
        )
    student, teacher = widen(student), widen(teacher.detach())
    dtype = torch.promote_types(student.dtype, teacher.dtype)
    return student.to(dtype), teacher.to(dtype)


def logits_pair(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """`pair` for logits, which must be matrices (n, k)."""
    if student.ndim != 2:
        raise ValueError(f"logits must be a matrix (n, k), but the student's have shape {tuple(student.shape)}")
    return pair(student, teacher)


def double(x: Tensor) -> Tensor:
    """`x` in float64; on the CPU, where its device lacks float64, as Apple's MPS does."""
    return x.cpu().double() if x.device.type in WITHOUT_DOUBLE else x.double()
