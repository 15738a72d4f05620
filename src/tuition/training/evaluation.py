"""What a student is worth: top-1, top-5, calibration error, agreement with the teacher; all in percent."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tuition.errors import UserError
from tuition.losses._check import double

CALIBRATION_BINS = 15
BLOCK = 65536  # rows a pass, so that float64 takes little memory


@dataclass(frozen=True)
class Evaluation:
    """Results on one labelled pool, in percent.

    Attributes:
        accuracy: top-1.
        top5: the label is among the five highest logits; None with five classes or fewer, where it always is.
        calibration_error: expected calibration error of softmax, 15 bins of equal width, weighted by count
            (Guo et al., 2017).
        count: number of inputs.
    """

    accuracy: float
    top5: float | None
    calibration_error: float
    count: int

    def as_dict(self) -> dict[str, float | None]:
        return asdict(self)


def evaluate(logits: Tensor, labels: Tensor) -> Evaluation:
    """Compare logits (n, k) with class indices (n,).

    Raises:
        ValueError: no rows, or another number of labels.
        UserError: labels of classes that the logits do not have, or logits that are not finite.
    """
    if len(logits) == 0 or len(logits) != len(labels):
        raise ValueError(f"{len(logits)} rows of logits do not match {len(labels)} labels.")
    highest, classes = int(labels.max()), logits.shape[1]
    if highest >= classes:
        raise UserError(
            f"the labels run to {highest}, but the model knows {classes} classes, 0 to {classes - 1}; "
            "evaluate it on data of the kind it was trained for."
        )
    if not bool(logits.isfinite().all()):
        raise UserError("the model answers with NaN or infinity; train it again with a lower learning rate.")
    labels = labels.to(logits.device)
    return Evaluation(
        accuracy=percent(logits.argmax(dim=1) == labels),
        top5=percent((logits.topk(5, dim=1).indices == labels[:, None]).any(dim=1)) if classes > 5 else None,
        calibration_error=calibration_error(logits, labels),
        count=len(labels),
    )


def calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Expected calibration error in percent: mean |confidence - accuracy| over bins of confidence, by their share."""
    sums = double(torch.zeros(CALIBRATION_BINS, device=logits.device))
    for part, classes in zip(logits.split(BLOCK), labels.split(BLOCK), strict=True):
        confidence, predicted = double(part).softmax(dim=1).max(dim=1)
        gap = confidence - (predicted == classes.to(predicted.device)).double()
        which = (confidence * CALIBRATION_BINS).ceil().long().clamp(1, CALIBRATION_BINS) - 1
        sums.index_add_(0, which, gap)
    return 100.0 * float(sums.abs().sum()) / len(labels)


def percent(hits: Tensor) -> float:
    """Share of true entries, in percent."""
    return 100.0 * int(hits.sum()) / hits.numel() if hits.numel() else float("nan")


@dataclass(frozen=True)
class ClassRow:
    """Results on one class, in percent; None where there is nothing to divide by."""

    index: int
    count: int
    recall: float | None
    precision: float | None


def per_class(predicted: Tensor, labels: Tensor, num_classes: int) -> list[ClassRow]:
    """Recall and precision of each class, of class indices (n,)."""
    right = labels[predicted == labels]
    counts = (torch.bincount(x.cpu(), minlength=num_classes).tolist() for x in (right, labels, predicted))
    return [
        ClassRow(i, n, 100.0 * hit / n if n else None, 100.0 * hit / p if p else None)
        for i, (hit, n, p) in enumerate(zip(*counts, strict=True))
    ]


def confusion(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Counts (k, k): row = label, column = prediction; labels are below k."""
    index = labels.cpu() * num_classes + predicted.cpu()
    return torch.bincount(index, minlength=num_classes**2).view(num_classes, num_classes)


# -- agreement ---------------------------------------------------------------------------------------------------------


def agreement(student: Tensor, teacher: Tensor, output: Literal["logits", "embedding"]) -> float:
    """Agreement of two outputs (n, ...): the share of equal classes, or `similarity_agreement`, in percent."""
    if output == "embedding":
        return similarity_agreement(student, teacher)
    return percent(student.argmax(dim=1) == teacher.argmax(dim=1))


def similarity_agreement(student: Tensor, teacher: Tensor) -> float:
    """Correlation between the cosine similarities of all pairs of rows of the student and those of the teacher.

    Embeddings (n, d) and (n, e) need no common space, and are centred first: moving, turning or scaling either changes
    nothing, as it changes nothing for RKD. 0 where all pairs are alike for one of the two. Exact over the n (n - 1)
    ordered pairs for O(n d e) time: with rows of length 1, the sum over i and j of (s_i s_j) (t_i t_j) is |S^T T|^2.
    """
    s, t = (F.normalize(x.float() - x.float().mean(dim=0)) for x in (student, teacher))
    pairs = len(s) * (len(s) - 1)

    def mean(x: Tensor) -> float:
        return float((x.sum(0).square().sum() - x.square().sum()) / pairs)

    def covariance(x: Tensor, y: Tensor) -> float:
        own = (x.square().sum(1) * y.square().sum(1)).sum()
        return float(((x.T @ y).square().sum() - own) / pairs) - mean(x) * mean(y)

    if len(s) < 3:
        return 0.0
    spread = covariance(s, s) * covariance(t, t)
    return 100.0 * covariance(s, t) / spread**0.5 if spread > 1e-12 else 0.0
