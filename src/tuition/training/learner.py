"""One step: a student and what it learns by, from a batch to weighted loss terms, to new weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tuition import models
from tuition.training import parallel
from tuition.training.objective import Batch, Objective
from tuition.training.settings import TrainSettings
from tuition.training.student import Student


class Learner(nn.Module):
    """A student and its objective in one module, from a batch to the weighted loss terms.

    Of several processes, each forwards the inputs of its share. The outputs are gathered, and in every process the
    terms are those of the complete batch.
    """

    def __init__(self, student: Student, objective: Objective) -> None:
        super().__init__()
        self.student, self.objective = student, objective

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        with torch.autocast(batch.rows.device.type, torch.bfloat16, enabled=batch.rows.device.type == "cuda"):
            outputs = forward(self.student, batch, self.objective.reads)
        if batch.own is not None:
            outputs = {name: parallel.gather(x, batch.own, len(batch.rows)) for name, x in outputs.items()}
        terms: dict[str, Tensor] = self.objective(outputs, batch)
        return terms


def forward(student: Student, batch: Batch, reads: list[str]) -> dict[str, Tensor]:
    """The student's logits and the outputs in `reads`. Batch norm sees the two sides of groups apart."""
    if batch.groups is None:
        return _outputs(student, batch.inputs, reads)
    p, q = batch.groups
    left = len(batch.inputs) * p // (p + q)
    sides = [_outputs(student, side, reads) for side in (batch.inputs[:left], batch.inputs[left:])]
    return {name: torch.cat([side[name] for side in sides]) for name in sides[0]}


def _outputs(student: Student, inputs: Tensor, reads: list[str]) -> dict[str, Tensor]:
    if not reads:
        return {"logits": student(inputs)}
    with models.Capture(student.model, reads) as captured:
        logits = student(inputs)
        return {"logits": logits, **{name: captured[name] for name in reads}}


def step(learner: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> dict[str, Tensor]:
    """One optimizer step of a `Learner`; returns the detached terms, still on the device."""
    optimizer.zero_grad(set_to_none=True)
    terms = learner(batch)
    torch.stack(list(terms.values())).sum().backward()
    optimizer.step()
    return {name: value.detach() for name, value in terms.items()}


def make_optimizer(
    parameters: list[nn.Parameter], settings: TrainSettings, device: torch.device
) -> torch.optim.Optimizer:
    shared: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    shared["fused"] = device.type in ("cpu", "cuda")
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **shared)
    return torch.optim.SGD(parameters, momentum=settings.momentum, **shared)
