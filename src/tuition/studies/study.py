"""A study: teachers trained, answers paid once, runs in parallel, each recorded as it ends."""

from __future__ import annotations

import hashlib
import math
import shlex
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from tuition import disk
from tuition.errors import without_passwords
from tuition.pipeline.sources import Sources
from tuition.studies import cluster, study_calls
from tuition.studies.executor import run_parallel
from tuition.studies.finished import FinishedRuns, record_of
from tuition.studies.grid import PlannedRun, RecordId, Study, StudyPlan, images, plan
from tuition.studies.one_run import RunTask, train
from tuition.studies.records import Record
from tuition.studies.study_sources import (
    Progress,
    check,
    check_nodes,
    identities,
    place,
    train_absent,
    with_teacher_path,
)
from tuition.training import Deadline, UnfinishedError, files

SIGNS = ("runs.csv", "responses.db", "teachers", "unfinished")  # of a study's folder
CHECKPOINTED = 20_000  # images; a shorter run is repeated sooner than checkpoints are written


class DeadlineError(Exception):
    """Raised between two calls or runs when a study's time is up."""


@dataclass(frozen=True)
class StudyResult:
    """The runs of a study: how many are done, those that failed, and how many are left because time ran out."""

    done: int
    failed: list[Record]
    left: int


def run(
    study: Study,
    out: Path,
    *,
    teachers: Sequence[Path] = (),
    continue_from: Sequence[Path] = (),
    workers: int | None = None,
    retry: bool = False,
    minutes: float = math.inf,
    executor: str = "local",
    progress: Progress | None = None,
) -> StudyResult:
    """Complete a study: start every run that is not finished. A run is in OUT/runs.csv as soon as it ends.

    Killed or stopped at any moment, the same call resumes; unfinished runs continue from their checkpoints.

    Args:
        out: folder for runs.csv, responses.db and, where the study trains them, its teachers.
        teachers: folders made by `tuition teach`, instead of training.
        continue_from: folders of other studies, whose finished runs are not repeated.
        workers: runs at a time; by default one a core.
        retry: repeat failed runs.
        minutes: stop after this time, and leave the rest to the next call.
        executor: "local" for processes of this machine, "ray" for the nodes of a Ray cluster. These need `out`, the
            teachers' folders and the data at the same paths, and a store in PostgreSQL; this process writes runs.csv.

    Raises:
        UserError: settings, data or teachers that do not fit, or a budget that is too small; nothing is asked then.
    """
    disk.check_ours(out, SIGNS, "a study")
    deadline = time.time() + 60 * minutes
    show = progress or (lambda what, done, total: None)

    def watch(what: str, done: int, total: int) -> None:
        show(what, done, total)
        if time.time() > deadline:
            raise DeadlineError

    with disk.hold(out):
        study, folders = place(study, out, teachers)
        if executor == "ray":
            cluster.check_store(study.settings["store"])
            cluster.connect()
        finished, sources = FinishedRuns(study, out, continue_from, retry=retry), Sources()
        try:
            train_absent(study, folders, show, Deadline(deadline))
            identify = identities(folders, sources)
            now = plan(study, finished.find, identify)
            runs = [with_teacher_path(run.settings, folders) for run in (*now.ready, *now.later)]
            check(runs, sources)
            out.mkdir(parents=True, exist_ok=True)
            if runs:
                if executor == "ray":
                    check_nodes(runs, out)
                study_calls.pay(runs, sources, watch)
                everything = [with_teacher_path(run.settings, folders) for run in (*now.rows.values(), *now.later)]
                study_calls.note_paid(everything, sources, out)
            done = 0
            while now.ready:
                finished.write(now.rows)
                total = done + len(now.ready) + len(now.later)
                watch("runs", done, total)
                for _ in _train_ready(now, finished, folders, workers, deadline, executor):
                    done += 1
                    show("runs", done, total)
                now = plan(study, finished.find, identify)
            finished.write(now.rows)
        except (DeadlineError, UnfinishedError):
            now = plan(study, finished.find, identities(folders, sources))
    records = {run.key: record for run in now.rows.values() if (record := finished.find(run)) is not None}
    failed = [record for record in records.values() if record.status == "failed"]
    return StudyResult(len(records) - len(failed), failed, len(now.ready) + len(now.later))


def note_command(out: Path, arguments: Sequence[str]) -> None:
    """Keep the command of a study beside its runs, for the report; each once."""
    from tuition.studies.report import COMMAND

    path = out / COMMAND
    line = without_passwords(shlex.join(["tuition", *arguments]))
    there = path.read_text().splitlines() if path.exists() else []
    if line not in there:
        files.write(path, "".join(f"{each}\n" for each in [*there, line]).encode())


def _train_ready(
    now: StudyPlan,
    finished: FinishedRuns,
    folders: Mapping[str, str],
    workers: int | None,
    deadline: float,
    executor: str,
) -> Iterator[Record]:
    """Train the runs that are ready, and record each as it ends. Runs whose time was up are left out."""
    rows: dict[str, dict[RecordId, PlannedRun]] = defaultdict(dict)
    for row, run in now.rows.items():
        rows[row.key][row] = run
    gpus = 0 if executor == "ray" else torch.cuda.device_count()
    tasks = [_task(run, i % gpus if gpus > 1 else None, finished, folders, deadline) for i, run in enumerate(now.ready)]
    spread = cluster.run_on_cluster if executor == "ray" else run_parallel
    with closing(spread(partial(train, sources=Sources()), tasks, workers=workers)) as outcomes:  # type: ignore[type-var]
        for outcome in outcomes:
            if outcome.result is None and outcome.error is None:
                continue  # its time was up
            run, folder = now.ready[outcome.index], tasks[outcome.index].folder
            figures, spectrum = outcome.result or (None, None)
            record = record_of(run, figures, outcome.error)
            finished.add(record, spectrum)
            finished.write(rows[run.key])
            if folder is not None and folder.exists():
                shutil.rmtree(folder)
            yield record


def _task(
    run: PlannedRun, gpu: int | None, finished: FinishedRuns, folders: Mapping[str, str], deadline: float
) -> RunTask:
    """What a worker needs for a run, which may pay for nothing."""
    share = {} if gpu is None or run.settings.device != "auto" else {"device": f"cuda:{gpu}"}
    settings = with_teacher_path(run.settings, folders, budget=0, **share)
    if settings.log_dir is not None:
        log = f"{run.row}-{settings.ask.calls}-seed{settings.data.seed}-{run.key[:8]}"
        settings = settings.model_copy(update={"log_dir": str(Path(settings.log_dir).absolute() / log)})
    # Checkpoints know data and teachers by their places, so the name of their folder covers these too.
    name = hashlib.sha256(f"{run.key} {settings.data.data} {settings.ask.teacher}".encode()).hexdigest()[:32]
    folder = finished.out.absolute() / "unfinished" / name if images(settings) > CHECKPOINTED else None
    return RunTask(settings, folder, deadline, finished.keep_spectra)
