"""Knowledge distillation of soft targets (Hinton, Vinyals and Dean 2015)."""

import torch.nn.functional as F
from torch import Tensor

from tuition.losses._check import logits_pair


def kd(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 4.0) -> Tensor:
    """KL(softmax(teacher / T) || softmax(student / T)) T^2, summed over classes, averaged over the batch.

    Libraries differ: some average over classes too (k times smaller), some leave out T^2 (then the gradient fades as
    1 / T^2), some keep the cross-entropy form (the same gradient, but not 0 for equal inputs). This is the form of
    Hinton et al. and RepDistiller: equal inputs give exactly 0, and the gradient's scale hardly depends on T.

    Args:
        student_logits: (n, k).
        teacher_logits: (n, k), a constant.
        temperature: T > 0.

    Returns:
        Scalar, float32 or float64.

    Raises:
        ValueError: the shapes differ or are not (n, k).

    Source: Distilling the Knowledge in a Neural Network, arXiv 1503.02531, section 2.
    """
    student, teacher = logits_pair(student_logits, teacher_logits)
    log_q = F.log_softmax(student / temperature, dim=1)
    log_p = F.log_softmax(teacher / temperature, dim=1)
    return F.kl_div(log_q, log_p, log_target=True, reduction="batchmean") * temperature**2
