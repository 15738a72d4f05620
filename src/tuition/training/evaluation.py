"""What a student is worth: top-1, top-5, calibration error, agreement; a confusion matrix on request."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from tuition.errors import UserError

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Evaluation:
    """Results on one labelled pool, in percent.

    Attributes:
        accuracy: top-1.
        top5: the label is among the five highest logits (all classes, where there are fewer).
        calibration_error: expected calibration error of softmax, 15 bins of equal width, weighted by count
            (Guo et al., 2017).
        count: number of inputs.
    """

    accuracy: float
    top5: float
    calibration_error: float
    count: int

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def evaluate(logits: Tensor, labels: Tensor) -> Evaluation:
    """Compare logits (n, k) with class indices (n,).

    Raises:
        ValueError: no rows, or not as many labels.
        UserError: labels that no logit stands for, or logits that are not finite.
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
        top5=percent((logits.topk(min(5, classes), dim=1).indices == labels[:, None]).any(dim=1)),
        calibration_error=calibration_error(logits, labels),
        count=len(labels),
    )


def calibration_error(logits: Tensor, labels: Tensor, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error in percent: mean |confidence - accuracy| over bins of confidence, by their share."""
    confidence, predicted = logits.double().softmax(dim=1).max(dim=1)
    gap = confidence - (predicted == labels).double()
    which = (confidence * bins).ceil().long().clamp(1, bins) - 1
    sums = torch.zeros(bins, dtype=torch.float64, device=logits.device).index_add_(0, which, gap)
    return 100.0 * float(sums.abs().sum()) / len(labels)


def percent(hits: Tensor) -> float:
    """Share of true entries, in percent."""
    return 100.0 * float(hits.double().mean())


@dataclass(frozen=True)
class ClassRow:
    """Results on one class, in percent; None where there is nothing to divide by."""

    index: int
    count: int
    recall: float | None
    precision: float | None


def per_class(counts: Tensor) -> list[ClassRow]:
    """Recall and precision of each class, from a confusion matrix (k, k)."""
    hits, labelled, predicted = (v.tolist() for v in (counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)))
    return [
        ClassRow(i, n, 100.0 * hit / n if n else None, 100.0 * hit / p if p else None)
        for i, (hit, n, p) in enumerate(zip(hits, labelled, predicted, strict=True))
    ]


def confusion(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Counts (k, k): row = label, column = prediction; labels are below k."""
    index = labels.cpu() * num_classes + predicted.cpu()
    return torch.bincount(index, minlength=num_classes**2).view(num_classes, num_classes)
