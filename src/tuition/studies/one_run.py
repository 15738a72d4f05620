"""One run of a study, in a process of its own."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tuition import models
from tuition.data import Pool
from tuition.pipeline import job
from tuition.pipeline.settings import DistillSettings
from tuition.pipeline.sources import Sources
from tuition.pipeline.watch import Followed
from tuition.training import Deadline, Student, UnfinishedError
from tuition.training.preflight import pick_device

CURVE = ("epoch", "loss", "validation", "offset")


@dataclass(frozen=True)
class RunTask:
    """A run to finish before `deadline` (as time.time()), with a folder if its checkpoints are kept."""

    settings: DistillSettings
    folder: Path | None
    deadline: float
    spectrum: bool


def train(task: RunTask, sources: Sources) -> tuple[dict[str, Any], list[float] | None] | None:
    """The figures of one run and, if the task asks for it, its spectrum; None if its time was up first."""
    settings = task.settings
    if time.time() > task.deadline:
        return None
    try:
        run = job.run(settings, task.folder, sources, Followed(Deadline(task.deadline)))
    except UnfinishedError:
        return None
    figures = {name: math.nan if value is None else value for name, value in run.results().items()}
    figures |= {
        "paid": run.accounts.paid + run.accounts.served,
        "curve": [[row[name] for name in CURVE if name in row] for row in run.history],
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
