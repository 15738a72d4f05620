"""Closed-form cure of what published CKD never teaches: a constant added to all outputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tuition import models
from tuition.data import TransferSet
from tuition.errors import UserError
from tuition.training.student import Student


def recentre(student: Student, transfer: TransferSet, targets: Tensor) -> None:
    """Shift the student's last bias, in place, so that its mean output over the transfer set equals the mean target.

    A comparison loss is unchanged when a vector is added to all outputs, yet argmax reads it. This sets the vector to
    what an anchored loss would have reached. Outputs are those of evaluation mode, for inputs as the teacher was asked.

    Args:
        student: its classifier is a linear layer with a bias.
        transfer: n inputs.
        targets: (n, k) what the logits were compared with; of CKD on logits and labels, the mean of both.

    Raises:
        UserError: the last linear layer has no bias.
    """
    bias = _last_bias(student)
    gap = targets.float().mean(dim=0) - student.outputs(transfer.pool).mean(dim=0)
    with torch.no_grad():
        bias.add_(gap.to(bias))


@contextmanager
def recentred(student: Student, transfer: TransferSet, targets: Tensor | None) -> Iterator[None]:
    """Within a `with`, the student is recentred; with no targets, nothing is changed."""
    if targets is None:
        yield
        return
    bias = _last_bias(student)
    before = bias.detach().clone()
    recentre(student, transfer, targets)
    try:
        yield
    finally:
        with torch.no_grad():
            bias.copy_(before)


def _last_bias(student: Student) -> Tensor:
    layer = student.model.get_submodule(models.classifier(student.model))
    assert isinstance(layer, nn.Linear)
    if layer.bias is None:
        raise UserError("the student's last linear layer has no bias to recentre; give it one.")
    return layer.bias
