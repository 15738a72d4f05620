"""Closed-form fix of what published CKD never teaches: a constant added to all outputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tuition import models
from tuition.data import TransferSet
from tuition.data.transfer import by_class
from tuition.errors import UserError
from tuition.training import evaluation
from tuition.training.student import Student


def centre_of(transfer: TransferSet, num_classes: int, weights: tuple[float, float]) -> Tensor:
    """What an objective compares with on average: the answers (n, k) and the labels, by the `weights` of their terms.

    Since w ckd(s, z) + v ckd(s, y) = (w + v) ckd(s, (w z + v y) / (w + v)) + constant, this is the target whose mean
    the outputs should have. Without labels, or where their weight is 0, it is the answers.
    """
    answers = by_class(transfer.responses)
    answers = transfer.responses["embedding"] if answers is None else answers
    shares = transfer.responses.get("targets")  # of mixed inputs
    teacher, label = weights
    if label == 0 or (transfer.labels is None and shares is None):
        return answers
    centre = answers * (teacher / (teacher + label))
    for rows in torch.arange(len(centre)).split(evaluation.BLOCK):
        if shares is not None:
            labels = shares[rows]
        else:
            assert transfer.labels is not None
            labels = F.one_hot(transfer.labels[rows], num_classes)
        centre[rows] += labels * (label / (teacher + label))
    return centre


def recentre(student: Student, transfer: TransferSet, targets: Tensor) -> None:
    """Shift the student's last bias, in place, so that its mean output over the transfer set equals the mean target.

    A comparison loss is unchanged when a vector is added to all outputs, yet argmax reads it. This sets the vector to
    what an anchored loss would have reached. Outputs are those of evaluation mode, for inputs as the teacher was asked.

    Args:
        student: its classifier is a linear layer with a bias.
        transfer: n inputs.
        targets: (n, k) what the logits were compared with; of CKD on logits and labels, `centre_of` both.

    Raises:
        UserError: the last linear layer has no bias.
    """
    bias = last_bias(student)
    with torch.no_grad():
        bias.add_(_gap(student, transfer, targets).to(bias))


def offset(student: Student, transfer: TransferSet, targets: Tensor) -> float:
    """How far the classes are apart from where the targets have them: what a comparison loss does not teach.

    The root mean square over classes of the mean residual (targets less outputs) over the transfer set, without what
    all classes have in common, because argmax does not read that. Of a recentred student it is 0.

    Args:
        student, transfer, targets: as in `recentre`.
    """
    gap = _gap(student, transfer, targets)
    return float(gap.std(correction=0))


def _gap(student: Student, transfer: TransferSet, targets: Tensor) -> Tensor:
    """Mean residual (k,) over the transfer set, of inputs as the teacher was asked."""
    outputs = student.outputs(transfer.pool).mean(dim=0)
    return targets.float().mean(dim=0).to(outputs) - outputs


@contextmanager
def recentred(student: Student, transfer: TransferSet, targets: Tensor | None) -> Iterator[None]:
    """Within a `with`, the student is recentred; with no targets, nothing is changed."""
    if targets is None:
        yield
        return
    bias = last_bias(student)
    before = bias.detach().clone()
    recentre(student, transfer, targets)
    try:
        yield
    finally:
        with torch.no_grad():
            bias.copy_(before)


def last_bias(student: Student) -> Tensor:
    layer = student.model.get_submodule(models.classifier(student.model))
    assert isinstance(layer, nn.Linear)
    if layer.bias is None:
        raise UserError("the student's last linear layer has no bias to recentre; give it one.")
    return layer.bias
