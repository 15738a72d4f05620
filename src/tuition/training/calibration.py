"""Whether a student's confidence can be taken at its word: reliability by bins, and a temperature that improves it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from tuition.losses._check import double
from tuition.training.evaluation import CALIBRATION_BINS

COLDEST, HOTTEST = 0.05, 20.0


class Bin(NamedTuple):
    """Predictions of similar confidence: their mean confidence, the share that is right (both 0 to 1), their number."""

    confidence: float
    accuracy: float
    size: int


def reliability(logits: Tensor, labels: Tensor) -> list[Bin]:
    """The bins, those without predictions left out, that the expected calibration error sums over (Guo et al., 2017).

    Args:
        logits: (n, k).
        labels: class indices (n,).
    """
    confidence, predicted = double(logits).softmax(dim=1).max(dim=1)
    right = (predicted == labels).double()
    which = (confidence * CALIBRATION_BINS).ceil().long().clamp(1, CALIBRATION_BINS) - 1
    bins = (which == b for b in range(CALIBRATION_BINS))
    return [
        Bin(float(confidence[inside].mean()), float(right[inside].mean()), int(inside.sum()))
        for inside in bins
        if bool(inside.any())
    ]


def temperature(logits: Tensor, labels: Tensor) -> float:
    """What to divide logits (n, k) by so that the cross-entropy with labels (n,) is least (Guo et al., 2017, 4.2).

    The cross-entropy is convex in the inverse of the temperature. Fit it on inputs that the student was not trained on,
    and measure it on others.
    """
    from scipy.optimize import minimize_scalar
    from torch.nn.functional import cross_entropy

    logits = double(logits)
    found = minimize_scalar(
        lambda inverse: float(cross_entropy(logits * inverse, labels)), bounds=(1 / HOTTEST, 1 / COLDEST)
    )
    return 1 / float(found.x)
