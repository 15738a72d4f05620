"""What a study would take, before it starts: runs, teacher calls, time."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch

from tuition.data import TransferSet
from tuition.pipeline.settings import DistillSettings
from tuition.pipeline.sources import Sources
from tuition.studies.finished import FinishedRuns
from tuition.studies.grid import Study, images, plan
from tuition.studies.records import Record
from tuition.studies.study_calls import count
from tuition.studies.study_sources import check, identities, is_ready, place, with_teacher_path
from tuition.training import distill


@dataclass(frozen=True)
class Forecast:
    """What a study would do.

    Attributes:
        runs, known: runs to start, and runs of the study that are finished already.
        teachers: those to be trained first.
        new, paid: teacher calls to pay for, and those paid before in the study's store.
        chosen: how many of the new ones, at most, runs choose that ask in rounds.
        seconds: of training students, estimated from finished runs or a short trial; at most, where training may stop
            early.
    """

    runs: int
    known: int
    teachers: list[str]
    new: int
    paid: int
    chosen: int
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
    """Look ahead at what `run` would do. Nothing is asked or written, and nothing that is trained is kept."""
    study, folders = place(study, out, teachers)
    finished = FinishedRuns(study, out, continue_from, retry=retry)
    sources = Sources()
    now = plan(study, finished.find, identities(folders, sources))
    ahead = [*now.ready, *now.later]
    runs = [with_teacher_path(run.settings, folders) for run in ahead]
    check((settings for settings in runs if is_ready(settings.ask.teacher or "")), sources)
    counts = count(runs, sources).values()
    known = {run.key for run in now.rows.values() if finished.find(run) is not None}
    return Forecast(
        runs=len(ahead),
        known=len(known),
        teachers=[name for name, folder in folders.items() if not is_ready(folder)],
        new=sum(calls.new for calls in counts),
        paid=sum(calls.paid for calls in counts),
        chosen=sum(calls.chosen for calls in counts),
        seconds=_seconds(runs, finished.known.values(), workers or os.cpu_count() or 1, sources),
    )


def _seconds(runs: Sequence[DistillSettings], known: Iterable[Record], workers: int, sources: Sources) -> float:
    """Time that runs will take, by the seconds an image of similar ones."""
    measured: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for record in known:
        if record.images_seen:
            measured[record.student,].append(record)
            measured[record.student, record.settings["method"]].append(record)
    rates: dict[tuple[object, ...], float] = {}  # of short trials
    total = 0.0
    for s in runs:
        like = measured.get((s.student, s.method)) or measured.get((s.student,))
        if like:
            seconds = sum(record.seconds for record in like) / sum(record.images_seen for record in like) / workers
        else:
            key = s.student, s.data.data, s.data.size, s.train.batch_size
            if key not in rates:
                rates[key] = _calibrate(s, sources)
            seconds = rates[key]
        total += seconds * images(s)
    return total


def _calibrate(settings: DistillSettings, sources: Sources) -> float:
    """Seconds an image, of training with all cores on a few images."""
    size = settings.train.batch_size
    pool = sources.train_pool(settings)[: 2 * size]
    transfer = TransferSet(pool, {"logits": torch.zeros(len(pool), pool.num_classes or 10)})
    run = distill(settings.student, transfer, "kd", epochs=5, batch_size=size, device=settings.device)
    # The quickest epoch: the first one warms up, and others may have been disturbed.
    return min(after["seconds"] - before["seconds"] for before, after in pairwise(run.history)) / len(pool)
