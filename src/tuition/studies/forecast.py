"""What a study would take, before it is begun: runs, teacher calls, time."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch

from tuition.data import TransferSet
from tuition.pipeline.settings import Columns
from tuition.pipeline.sources import load_data, train_columns
from tuition.studies.finished import FinishedRuns
from tuition.studies.grid import PlannedRun, Study, images, plan
from tuition.studies.records import Record
from tuition.studies.study import calls, check, identities, is_ready, place, with_teacher_path
from tuition.training import distill


@dataclass(frozen=True)
class Forecast:
    """What a study would do.

    Attributes:
        runs, known: runs to make, and runs wanted that are finished already.
        teachers: those to be trained first.
        new, paid: teacher calls to pay for, and those paid before in the study's store.
        seconds: of training students, after finished runs or else a short one; at most, where training may stop early.
    """

    runs: int
    known: int
    teachers: list[str]
    new: int
    paid: int
    seconds: float


def forecast(
    study: Study,
    out: Path,
    *,
    teachers: Sequence[Path] = (),
    continue_from: Sequence[Path] = (),
    workers: int | None = None,
    retry: bool = False,
) -> Forecast:
    """Look ahead at what `run` would do. Nothing is asked, trained to keep, or written."""
    study, folders = place(study, out, teachers)
    finished = FinishedRuns(study, out, continue_from, retry=retry)
    trust_code = bool(study.settings.get("trust_code", False))
    now = plan(study, finished.find, identities(folders, trust_code=trust_code))
    todo = [*now.ready, *now.later]
    wanted = [with_teacher_path(planned.settings, folders) for planned in todo]
    check(settings for settings in wanted if is_ready(settings.teacher or ""))
    counts = calls(wanted).values()
    known = {planned.key for planned in now.rows.values() if finished.find(planned) is not None}
    return Forecast(
        runs=len(todo),
        known=len(known),
        teachers=[name for name, folder in folders.items() if not is_ready(folder)],
        new=sum(new for new, _ in counts),
        paid=sum(paid for _, paid in counts),
        seconds=_seconds(todo, finished.known.values(), workers or os.cpu_count() or 1),
    )


def _seconds(todo: Sequence[PlannedRun], known: Iterable[Record], workers: int) -> float:
    """Time that runs will take, by seconds an image of like ones."""
    measured: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for record in known:
        if record.images_seen:
            measured[record.student,].append(record)
            measured[record.student, record.settings["method"]].append(record)
    total = 0.0
    for planned in todo:
        settings = planned.settings
        like = measured.get((settings.student, settings.method)) or measured.get((settings.student,))
        if like:
            rate = sum(record.seconds for record in like) / sum(record.images_seen for record in like) / workers
        else:
            rate = _calibrate(
                settings.student,
                settings.data,
                settings.size,
                settings.batch_size,
                settings.device,
                train_columns(settings),
            )
        total += rate * images(settings)
    return total


@cache
def _calibrate(student: str, data: str, size: int | None, batch_size: int, device: str, columns: Columns) -> float:
    """Seconds an image, of training with the whole machine on a few images."""
    pool = load_data(data, "train", size, columns)[: 2 * batch_size]
    answers = {"logits": torch.zeros(len(pool), pool.num_classes or 10)}
    run = distill(student, TransferSet(pool, answers), "kd", epochs=5, batch_size=batch_size, device=device)
    # The quickest epoch: the first one warms up, and others may have been disturbed.
    return min(after["seconds"] - before["seconds"] for before, after in pairwise(run.history)) / len(pool)
