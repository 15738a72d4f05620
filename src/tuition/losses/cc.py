"""CC: correlation congruence (Peng et al. 2019), in RepDistiller's form."""

from torch import Tensor

from tuition.losses._check import pair


def cc(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over neighbours i, i + 1 of the batch of sum_k |s_ik - t_ik| |s_(i+1)k - t_(i+1)k|.

    This is RepDistiller's form: neighbours in the batch stand for random pairs, and the product of absolute residuals
    for the congruence. The paper compares the n x n matrices of a Gaussian kernel within the batch instead, and other
    libraries follow it; weights do not carry over.

    Args:
        student: (n, d), a common embedding, commonly of 128 dimensions.
        teacher: (n, d), a constant.

    Returns:
        Scalar, float32 or float64.

    Raises:
        ValueError: the shapes differ or are not (n, d), or there are fewer than 2 rows.

    Source: Correlation Congruence for Knowledge Distillation, arXiv 1904.01802.
    """
    student, teacher = pair(student, teacher)
    if student.ndim != 2 or len(student) < 2:
        raise ValueError(f"cc needs a matrix of at least 2 rows, but the shape is {tuple(student.shape)}")
    residual = (student - teacher).abs()
    return (residual[:-1] * residual[1:]).sum(dim=1).mean()
