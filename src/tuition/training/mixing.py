"""Batches mixed before the student sees them, where a loss is linear in its targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from tuition import losses
from tuition.errors import UserError
from tuition.training.objective import Batch
from tuition.training.task import Task

Mix = Annotated[
    float,
    Field(ge=0, le=1),
    "share of the batches that are mixed by Mixup: inputs, cached answers and labels alike; 0 mixes none",
]


def floating(inputs: Tensor) -> Tensor:
    """Raw inputs as they can be mixed: bytes in [0, 1], floats as they are."""
    return inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs


def linear_mix(task: Task, share: float, answer: str) -> Callable[[Batch, torch.Generator], Batch] | None:
    """Mixup of this share of the batches, for losses whose targets are linear in answers and labels."""
    if share == 0:
        return None
    if not task.example.is_floating_point():
        raise UserError("mix needs images or vectors, and the inputs are text; leave mix out.")
    name = task.target if answer == "logits" else answer
    if task.response(name).ndim != 2:
        raise UserError(f"mix needs an answer that is a vector, and {name} is a map; leave mix out.")

    def apply(batch: Batch, generator: torch.Generator) -> Batch:
        if float(torch.rand((), generator=generator)) >= share:
            return batch
        labels = [] if batch.targets is None else [batch.targets]
        inputs, answers, *labels = losses.mixup(
            floating(batch.inputs), batch.responses[name], *labels, generator=generator
        )
        responses = {**batch.responses, name: answers}
        return replace(batch, inputs=inputs, responses=responses, targets=labels[0] if labels else None)

    return apply
