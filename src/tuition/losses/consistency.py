"""Consistency: an input without an answer is to be answered alike however it is seen."""

from torch import Tensor

from tuition.losses.ckd import ckd


def consistency(student: Tensor, target: Tensor, *, anchor: float = 0.1) -> Tensor:
    """`ckd` between the outputs for strong views and those of a steadier model for weak views of the same inputs.

    The steadier model is an exponential average of the student, as in Mean Teacher, whose loss is the mean squared
    error of probabilities. Outputs are compared here, every pair of the batch, exact and anchored, as answers are.

    Args:
        student: (n, k) outputs for strong views.
        target: (n, k) outputs for weak views, a constant.
        anchor: weight of the error of the batch's mean.

    Returns:
        Scalar, float32 or float64.

    Raises:
        ValueError: the shapes differ, or there are fewer than 2 rows.

    Source: Tarvainen and Valpola, Mean teachers are better role models, arXiv 1703.01780; strong and weak views as in
    FixMatch, arXiv 2001.07685.
    """
    return ckd(student, target, anchor=anchor)
