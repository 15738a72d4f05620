"""A training whose parts fit each other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tuition.data import Pool, TransferSet
from tuition.training.batches import Batches
from tuition.training.method import Method
from tuition.training.objective import Objective
from tuition.training.settings import TrainSettings
from tuition.training.student import Student
from tuition.training.task import Task
from tuition.training.unasked import Unasked, spread, strong_view


def balanced(transfer: TransferSet, num_classes: int) -> Tensor | None:
    """Weights (k,) of the classes, n / (classes with rows * rows of the class), whose mean over the rows is 1.

    The weight of a class without rows is 0. Mixed rows count by their shares. None without labels.
    """
    if transfer.labels is None:
        return None
    shares = transfer.responses.get("targets")
    rows = torch.bincount(transfer.labels, minlength=num_classes).double() if shares is None else shares.double().sum(0)
    weights = rows.sum() / ((rows > 0).sum() * rows)
    return weights.where(rows > 0, 0.0).float()


@dataclass(frozen=True)
class Setup:
    """What `distill` trains, and what `check` looks at.

    Attributes:
        student: on the CPU, as it is before training.
        method: what it is trained by, with its `options`.
        transfer: where `teacher_labels` is set, with the teacher's answers in place of missing labels.
        validation, test: with labels in the order of the student's classes.
        num_classes: width of the student's output.
        unasked: bare inputs to learn from beside the answers, or None.
        nearness: of these to the inputs of the transfer set, where they learn their answers, or None.
        teacher_accuracy: of the answers on labels of the data.
        is_module: whether the student's weights do not follow from its name and seed.
    """

    student: Student
    method: Method
    options: dict[str, Any]
    transfer: TransferSet
    validation: Pool | TransferSet | None
    test: Pool | None
    num_classes: int
    settings: TrainSettings
    seed: int
    device: torch.device
    teacher_accuracy: float | None
    is_module: bool
    unasked: Pool | None = None
    nearness: Tensor | None = None

    def objective(self, student: Student, transfer: TransferSet) -> Objective:
        """The objective by which this student learns from these rows."""
        with torch.no_grad():
            example = student.preprocess(student.read(transfer.pool[:2]))
        weights = balanced(transfer, self.num_classes) if self.settings.class_weights == "balanced" else None
        task = Task(transfer.labels, transfer.responses, self.num_classes, self.seed, student.model, example, weights)
        return self.method.create(task, self.options)

    def encoded(self, transfer: TransferSet) -> TransferSet:
        """The same rows with texts as token ids, which are made once for all epochs."""
        return replace(transfer, pool=self._encoded(transfer.pool)) if self.student.reads_text else transfer

    def _encoded(self, pool: Pool) -> Pool:
        return replace(pool, inputs=self.student.read(pool)) if self.student.reads_text else pool

    def beside(self) -> Unasked | None:
        """Batches of the unasked inputs, on the device."""
        if self.unasked is None:
            return None
        return Unasked(
            self._encoded(self.unasked),
            strong_view(self.unasked, self.student),
            augment=self.unasked.augment if self.settings.augment else None,
            batch_size=self.settings.batch_size,
            device=self.device,
            targets=None if self.nearness is None else spread(self.nearness, self.transfer),
        )

    def batches(
        self, transfer: TransferSet, objective: Objective, *, batch_size: int, rank: int = 0, processes: int = 1
    ) -> Batches:
        """Batches of these rows, which are `encoded`, on the device."""
        return Batches(
            transfer,
            objective,
            batch_size=batch_size,
            augment=transfer.pool.augment if self.settings.augment else None,
            num_classes=self.num_classes,
            device=self.device,
            generator=torch.Generator().manual_seed(self.seed),
            matched=self.settings.accounting == "matched",
            aligned=self.settings.aligned,
            short=self.settings.last_batch == "short",
            rank=rank,
            processes=processes,
        )
