"""One run of a study, in a process of its own."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tuition import models
from tuition.data import Pool
from tuition.pipeline import job
from tuition.pipeline.settings import DistillSettings
from tuition.pipeline.sources import Sources
from tuition.pipeline.watch import Watch
from tuition.training import Student
from tuition.training.loop import Progress
from tuition.training.preflight import pick_device


class DeadlineError(Exception):
    """Raised in long work when a study's time is up."""


@dataclass(frozen=True)
class RunTask:
    """A run to finish before `deadline` (as time.time()), with a folder if its checkpoints are kept."""

    settings: DistillSettings
    folder: Path | None
    deadline: float
    spectrum: bool


class EpochWatch(Watch):
    """Calls `progress` after every epoch."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def training(self) -> nullcontext[Progress]:
        return nullcontext(self.progress)


def train(task: RunTask, sources: Sources) -> tuple[dict[str, Any], list[float] | None] | None:
    """The figures of one run and, if the task asks for it, its spectrum; None if its time was up first."""

    def watch(*_: Any) -> None:
        if time.time() > task.deadline:
            raise DeadlineError

    settings = task.settings
    try:
        watch()
        run = job.run(settings, task.folder, sources, EpochWatch(watch))
    except DeadlineError:
        return None
    figures = {name: math.nan if value is None else value for name, value in run.results().items()}
    figures |= {
        "paid": run.accounts.paid + run.accounts.served,
        "curve": [[row["epoch"], row["loss"], row["validation"]] for row in run.history],
    }
    del figures["best_epoch"], figures["teacher_inputs"]
    test = sources.test_pool(settings.data) if task.spectrum else None
    return figures, None if test is None else spectrum(run.student.to(pick_device(settings.device)), test)


@torch.inference_mode()
def spectrum(student: Student, pool: Pool) -> list[float]:
    """Singular values, descending, of the centred penultimate features (n, d) of a pool (figure 5)."""
    path = f"{models.classifier(student.model)}:input"
    parts = []
    with models.Capture(student.model, [path]) as captured:
        for batch in pool.asked_tensor().split(256):
            student.logits(batch)
            parts.append(captured[path].double().cpu())
    features = torch.cat(parts)
    return torch.linalg.svdvals(features - features.mean(dim=0)).tolist()
