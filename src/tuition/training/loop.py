"""The training loop: one student, one objective, batches that are already on the device."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tuition import models
from tuition.errors import UserError
from tuition.training import files, parallel
from tuition.training.batches import Batches
from tuition.training.graphs import Graphs
from tuition.training.objective import Batch, Objective
from tuition.training.schedule import Stages, cosine
from tuition.training.settings import TrainSettings
from tuition.training.student import Student

Progress = Callable[[int, int, dict[str, float]], None]


@dataclass
class State:
    """All that changes while a student is trained, beside its weights."""

    epoch: int = 0
    steps: int = 0
    images: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_epoch: int = 0
    stage: int = 0
    waited: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


# What repeats a run exactly on CUDA, at a price that is not yet measured.
@torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
def train(
    student: Student,
    objective: Objective,
    batches: Batches,
    settings: TrainSettings,
    *,
    validate: Callable[[Student], float] | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> tuple[State, dict[str, Tensor]]:
    """Train `student` in place to its last epoch.

    Args:
        student, objective: on the device of the batches; their parameters are optimised together.
        validate: a figure to maximise, in percent, read after every epoch; the later of equals is the better.
        checkpoint: file to continue from and to save to, at most every `settings.checkpoint_seconds`. Of several
            processes the first reads and writes it; as many or others may continue.
        progress: called after every epoch, in the first process, with (epochs done, epochs at most, that epoch's
            figures).

    Returns:
        The final state, and the student's weights at the best validation (the last ones without validation).

    Raises:
        UserError: a loss is no longer finite; the schedule needs a validation set that is missing; `graphs` do not fit.
    """
    parameters = [*student.parameters(), *objective.parameters()]
    device = batches.device
    optimizer = make_optimizer(parameters, settings, fused=device.type in ("cpu", "cuda"))
    state, stages = State(), Stages(settings.patience)
    if settings.schedule == "stages" and validate is None:
        raise UserError("the stages schedule needs validation; give a validation set, or use schedule: cosine.")
    best = _weights(student, objective)
    saved = parallel.first(lambda: None if checkpoint is None else files.load_checkpoint(checkpoint))
    if saved is not None:
        student.load_state_dict(saved["student"])
        objective.load_state_dict(saved["objective"])
        optimizer.load_state_dict(saved["optimizer"])
        batches.generator.set_state(saved["generator"])
        state = State(**saved["state"])
        stages.stage, stages.waited = state.stage, state.waited
        best = {name: value.to(device) for name, value in saved["best"].items()}
    saved_at = time.monotonic()

    def take(*drawn: Any) -> dict[str, Tensor]:
        return step(student, objective, optimizer, batches.batch(*drawn))

    graphs = None
    if settings.graphs:
        if device.type != "cuda" or objective.mix is not None or parallel.count() > 1:
            raise UserError(
                "graphs are for one process on CUDA, and for methods that do not mix images; use graphs: false."
            )
        graphs = Graphs(take)
        optimizer.param_groups[0]["lr"] = torch.zeros((), device=device)

    steps = settings.epochs * len(batches)
    while state.epoch < settings.epochs and not stages.finished:
        begun = time.perf_counter()
        student.train()
        sums: dict[str, Tensor] = {}
        rate = settings.learning_rate
        for drawn in batches.draw():
            factor = cosine(state.steps, steps) if settings.schedule == "cosine" else stages.factor
            rate = settings.learning_rate * factor
            set_rate(optimizer, rate)
            for name, value in (graphs or take)(*drawn).items():
                sums[name] = sums[name] + value if name in sums else value
            state.steps += 1
            state.images += len(drawn[0])
        state.epoch += 1
        parallel.average(list(sums.values()))
        parallel.average_buffers(student.model, objective)
        terms = {name: float(total) / len(batches) for name, total in sums.items()}
        for name, mean in terms.items():
            if not abs(mean) < float("inf"):
                raise UserError(
                    f"the loss term {name} became {mean} in epoch {state.epoch} at learning rate {rate:.3g}; "
                    "lower the learning rate."
                )
        row: dict[str, float] = {"epoch": state.epoch, "learning_rate": rate, "loss": sum(terms.values()), **terms}
        if validate is not None:
            row["validation"] = validate(student)
            improved = state.best is None or row["validation"] > state.best
            # The later of equals is the better: it has been trained for longer.
            if improved or row["validation"] == state.best:
                state.best, state.best_epoch = row["validation"], state.epoch
                best = _weights(student, objective)
            # After the last stage the last weights stay, for they are evaluated too.
            if settings.schedule == "stages" and stages.update(improved) and not stages.finished:
                _restore(student, objective, best)
                optimizer.state.clear()
                if graphs is not None:
                    graphs.forget()
        state.seconds += time.perf_counter() - begun
        row |= {"images": state.images, "seconds": round(state.seconds, 3)}
        state.history.append(row)
        if progress is not None and parallel.rank() == 0:
            progress(state.epoch, settings.epochs, row)
        due = time.monotonic() - saved_at >= settings.checkpoint_seconds
        if checkpoint is not None and due and parallel.rank() == 0:
            state.stage, state.waited = stages.stage, stages.waited
            files.save_checkpoint(
                checkpoint,
                {
                    "student": student.state_dict(),
                    "objective": objective.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "generator": batches.generator.get_state(),
                    "state": vars(state),
                    "best": best,
                },
            )
            saved_at = time.monotonic()
    if validate is None:
        state.best_epoch, best = state.epoch, _weights(student, objective)
    return state, {name.removeprefix("0."): value for name, value in best.items() if name.startswith("0.")}


def make_optimizer(parameters: list[nn.Parameter], settings: TrainSettings, fused: bool) -> torch.optim.Optimizer:
    shared: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay, "fused": fused}
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, capturable=settings.graphs, **shared)
    return torch.optim.SGD(parameters, momentum=settings.momentum, **shared)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate; where it is a tensor, which graphs read, in place."""
    held = optimizer.param_groups[0]["lr"]
    if isinstance(held, Tensor):
        held.fill_(rate)
    else:
        optimizer.param_groups[0]["lr"] = rate


def step(
    student: Student,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
) -> dict[str, Tensor]:
    """One optimizer step; returns the detached terms, still on the device.

    With several processes `batch` is a share, and the mean of the terms over the processes is theirs.
    """
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(batch.rows.device.type, torch.bfloat16, enabled=batch.rows.device.type == "cuda"):
        outputs = forward(student, batch, objective.reads)
    terms = objective(outputs, batch)
    torch.stack(list(terms.values())).sum().backward()
    parallel.average_gradients([p for group in optimizer.param_groups for p in group["params"]])
    optimizer.step()
    return {name: value.detach() for name, value in terms.items()}


def forward(student: Student, batch: Batch, reads: list[str]) -> dict[str, Tensor]:
    """The student's logits and the outputs in `reads`; the sides of groups apart, as batch norm is to see them."""
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


def _weights(*modules: nn.Module) -> dict[str, Tensor]:
    """A copy of the modules' state, prefixed "0.", "1.", ... in their order."""
    return {f"{i}.{k}": v.detach().clone() for i, m in enumerate(modules) for k, v in m.state_dict().items()}


def _restore(student: nn.Module, objective: nn.Module, weights: dict[str, Any]) -> None:
    for i, module in enumerate((student, objective)):
        module.load_state_dict({k.split(".", 1)[1]: v for k, v in weights.items() if k.startswith(f"{i}.")})
