"""One step: a student and what it learns by, from a batch to weighted loss terms, to new weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tuition import losses, models
from tuition.training import parallel
from tuition.training.objective import Batch, Beside, Objective
from tuition.training.settings import TrainSettings
from tuition.training.student import Student
from tuition.training.trained import parameter_groups

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
UNASKED = "unasked"  # the term on inputs without answers


class Learner(nn.Module):
    """A student and its objective in one module, from a batch to the weighted loss terms.

    Of several processes, each forwards the inputs of its share. The outputs are gathered, and in every process the
    terms are those of the complete batch.

    Args:
        precision: of the student's forward pass; the objective computes in float32.
    """

    def __init__(self, student: Student, objective: Objective, precision: str = "auto") -> None:
        super().__init__()
        self.student, self.objective, self.precision = student, objective, precision

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        with self.autocast(batch.rows.device):
            outputs = forward(self.student, batch, self.objective.reads)
        if batch.own is not None:
            outputs = {name: parallel.gather(x, batch.own, len(batch.rows)) for name, x in outputs.items()}
        terms: dict[str, Tensor] = self.objective(outputs, batch)
        return terms if batch.beside is None else terms | {UNASKED: self._on_unasked(batch.beside)}

    def _on_unasked(self, beside: Beside) -> Tensor:
        with self.autocast(beside.inputs.device):
            outputs = self.student(beside.inputs)
        if beside.own is not None:
            outputs = parallel.gather(outputs, beside.own, len(beside.target))
        return beside.weight * losses.consistency(outputs, beside.target)

    def autocast(self, device: torch.device) -> torch.autocast:
        """The precision of forward passes in training."""
        precision = ("bf16" if device.type == "cuda" else "float32") if self.precision == "auto" else self.precision
        return torch.autocast(device.type, HALVES.get(precision), enabled=precision in HALVES)


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


def step(
    learner: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    clip_norm: float | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> dict[str, Tensor]:
    """One optimizer step of a `Learner`; returns the detached terms, still on the device.

    Args:
        clip_norm: longest gradient, as the norm over all parameters of the optimizer.
        scaler: of the loss, in half precision.
    """
    optimizer.zero_grad(set_to_none=True)
    terms = learner(batch)
    loss = torch.stack(list(terms.values())).sum()
    (loss if scaler is None else scaler.scale(loss)).backward()
    if clip_norm is not None:
        if scaler is not None:
            scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip_norm)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
    return {name: value.detach() for name, value in terms.items()}


def make_optimizer(learner: Learner, settings: TrainSettings, device: torch.device) -> torch.optim.Optimizer:
    """The optimizer of all that is trained; its groups have a `factor` of the learning rate each."""
    groups = parameter_groups(learner.student, learner.objective, settings)
    shared: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    shared["fused"] = device.type in ("cpu", "cuda")
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, **shared)
    return torch.optim.SGD(groups, momentum=settings.momentum, **shared)


def make_scaler(settings: TrainSettings, device: torch.device) -> torch.amp.GradScaler | None:
    """What keeps small gradients of float16 above 0; None in other precisions."""
    return torch.amp.GradScaler(device.type) if settings.precision == "fp16" else None
