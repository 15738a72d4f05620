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
from tuition.studies.records import SPECTRAL, Spectra
from tuition.training import Deadline, Student, UnfinishedError
from tuition.training.preflight import pick_device

CURVE = ("epoch", "loss", "validation", "offset")


@dataclass(frozen=True)
class RunTask:
    """A run to finish before `deadline` (as time.time()), with a folder if its checkpoints are kept."""

    settings: DistillSettings
    folder: Path | None
    deadline: float
    spectra: bool


def train(task: RunTask, sources: Sources) -> tuple[dict[str, Any], Spectra | None] | None:
    """The figures of one run and, if the task asks for them, its spectra; None if its time was up first."""
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
    test = sources.test_pool(settings.data) if task.spectra else None
    return figures, None if test is None else spectra(run.student.to(pick_device(settings.device)), test)


@torch.inference_mode()
def spectra(student: Student, pool: Pool) -> dict[str, list[float]]:
    """Singular values, descending, of what a student makes of a pool, centred (figure 5).

    Returns:
        Those of its penultimate features (n, d) and of its logits (n, k), as numbers of min(n, d) and min(n, k).
    """
    path = f"{models.classifier(student.model)}:input"
    parts: dict[str, list[torch.Tensor]] = {output: [] for output in SPECTRAL}
    with models.Capture(student.model, [path]) as captured:
        for batch in pool.asked_tensor().split(256):
            parts["logits"].append(student.logits(batch).double().cpu())
            parts["features"].append(captured[path].double().cpu())
    outputs = {output: torch.cat(batches) for output, batches in parts.items()}
    return {output: torch.linalg.svdvals(rows - rows.mean(dim=0)).tolist() for output, rows in outputs.items()}
