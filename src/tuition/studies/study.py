"""A study: teachers trained, answers paid once, runs in parallel, each recorded as it ends."""

from __future__ import annotations

import hashlib
import math
import shlex
import shutil
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tuition import disk, escape
from tuition.errors import Notice, without_passwords
from tuition.pipeline.sources import Sources
from tuition.studies import best, cluster, study_calls
from tuition.studies.executor import Outcome, run_parallel
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

SIGNS = ("runs.csv", "responses.db", "teachers", best.UNFINISHED)  # of a study's folder
CHECKPOINTED = 20_000  # images; a shorter run is repeated sooner than checkpoints are written


class DeadlineError(Exception):
    """Raised between two calls or runs when a study's time is up."""


@dataclass(frozen=True)
class StudyResult:
    """The runs of a study: how many are done, those that failed, and how many are left because time ran out.

    Attributes:
        best: the record of the best run by validation, if its student is in OUT/best.
    """

    done: int
    failed: list[Record]
    left: int
    best: Record | None = None


def run(
    study: Study,
    out: Path,
    *,
    teachers: Sequence[Path] = (),
    continue_from: Sequence[Path] = (),
    workers: int | None = None,
    retry: bool = False,
    keep: best.Keep = "best",
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
        keep: "best": the winner by validation becomes OUT/best, the folder of a run. "all": the students of all runs
            that are made from now on are kept in OUT/students as well. "none": neither.
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
        if keep != "none":
            best.check(out)
        finished, sources = FinishedRuns(study, out, continue_from, retry=retry), Sources()
        making = _Making(finished, folders, workers, deadline, executor, keep)
        chosen, kept, late = None, None, False
        try:
            train_absent(study, folders, show, Deadline(deadline))
            identify = identities(folders, sources)
            now = plan(study, finished.find, identify)
            _prepare(now, folders, sources, out, executor, watch)
            done = 0
            while now.ready:
                finished.write(now.rows)
                total = done + len(now.ready) + len(now.later)
                watch("runs", done, total)
                for _ in making.ready(now):
                    done += 1
                    show("runs", done, total)
                now = plan(study, finished.find, identify)
            finished.write(now.rows)
            if done and any(run.settings.in_rounds for run in now.rows.values()):
                _note_paid(now, folders, sources, out)  # runs with rounds have paid as they went
            chosen = None if keep == "none" else best.winner(making.results(now))
            if chosen is not None:
                watch("best student", 0, 1)
                kept = best.keep_best(out, *chosen, partial(making.again, chosen[0]), continue_from)
        except (DeadlineError, UnfinishedError):
            late = True
            now = plan(study, finished.find, identities(folders, sources))
    records = {run.key: record for run in now.rows.values() if (record := finished.find(run)) is not None}
    failed = [record for record in records.values() if record.status == "failed"]
    left = len(now.ready) + len(now.later) + (late and chosen is not None)
    return StudyResult(len(records) - len(failed), failed, left, chosen[1] if chosen and kept else None)


def _prepare(
    now: StudyPlan, folders: Mapping[str, str], sources: Sources, out: Path, executor: str, watch: Progress
) -> None:
    """Check the runs that are ahead, and ask what they have in common."""
    runs = [with_teacher_path(run.settings, folders) for run in (*now.ready, *now.later)]
    check(runs, sources)
    out.mkdir(parents=True, exist_ok=True)
    if runs:
        if executor == "ray":
            check_nodes(runs, out)
        study_calls.pay(runs, sources, watch)
        _note_paid(now, folders, sources, out)


def _note_paid(now: StudyPlan, folders: Mapping[str, str], sources: Sources, out: Path) -> None:
    everything = [with_teacher_path(run.settings, folders) for run in (*now.rows.values(), *now.later)]
    study_calls.note_paid(everything, sources, out)


def note_command(out: Path, arguments: Sequence[str]) -> None:
    """Keep the command of a study beside its runs, for the report; each once."""
    from tuition.studies.report import COMMAND

    path = out / COMMAND
    line = without_passwords(shlex.join(["tuition", *arguments]))
    there = path.read_text().splitlines() if path.exists() else []
    if line not in there:
        files.write(path, "".join(f"{each}\n" for each in [*there, line]).encode())


@dataclass(frozen=True)
class _Making:
    """How the runs of a study are made."""

    finished: FinishedRuns
    folders: Mapping[str, str]
    workers: int | None
    deadline: float
    executor: str
    keep: best.Keep

    def ready(self, now: StudyPlan) -> Iterator[Record]:
        """Train the runs that are ready, and record each as it ends. Runs whose time was up are left out."""
        rows: dict[str, dict[RecordId, PlannedRun]] = defaultdict(dict)
        for row, run in now.rows.items():
            rows[row.key][row] = run
        gpus = 0 if self.executor == "ray" else torch.cuda.device_count()
        tasks = [self._task(run, i % gpus if gpus > 1 else None) for i, run in enumerate(now.ready)]
        with closing(self._spread(tasks)) as outcomes:  # type: ignore[type-var]
            for outcome in outcomes:
                if outcome.result is None and outcome.error is None:
                    continue  # its time was up
                run, folder = now.ready[outcome.index], tasks[outcome.index].folder
                figures, spectra = outcome.result or (None, None)
                record = record_of(run, figures, outcome.error)
                if self.keep == "all" and folder is not None and record.status == "done":
                    best.keep_one(self.finished.out, run, folder)
                self.finished.add(record, spectra)
                self.finished.write(rows[run.key])
                if folder is not None and folder.exists() and not self._leads(run, now):
                    shutil.rmtree(folder)
                yield record

    def results(self, now: StudyPlan) -> list[tuple[PlannedRun, Record]]:
        """The results so far."""
        runs = (run for row, run in now.rows.items() if row.purpose == "result")
        return [(run, record) for run in runs if (record := self.finished.find(run)) is not None]

    def again(self, run: PlannedRun) -> Path | None:
        """The folder of a finished run, which is repeated if none was kept."""
        if run.key in self.finished.elsewhere:
            warnings.warn("the best student is of another study, which did not keep it.", Notice, stacklevel=2)
            return None
        task = self._task(run, None, kept=True)
        (outcome,) = self._spread([task])
        if outcome.error is not None:
            warnings.warn(
                f"the best student was not kept: {escape.shorten(outcome.error.strip().splitlines()[-1])}",
                Notice,
                stacklevel=2,
            )
        elif outcome.result is None:
            raise DeadlineError
        return task.folder if outcome.result is not None else None

    def _leads(self, run: PlannedRun, now: StudyPlan) -> bool:
        """Whether a run may be the one to keep, so that it need not be repeated."""
        leader = best.winner(self.results(now)) if self.keep == "best" else None
        return leader is not None and leader[0].key == run.key

    def _spread(self, tasks: list[RunTask]) -> Iterator[Outcome[Any]]:
        spread = cluster.run_on_cluster if self.executor == "ray" else run_parallel
        return spread(partial(train, sources=Sources()), tasks, workers=self.workers)

    def _task(self, run: PlannedRun, gpu: int | None, *, kept: bool = False) -> RunTask:
        """What a worker needs for a run. It may pay for nothing, unless it asks in rounds."""
        pays = run.settings.in_rounds and (not kept or run.settings.until is not None)
        changes: dict[str, Any] = {} if pays else {"budget": 0}
        if gpu is not None and run.settings.device == "auto":
            changes["device"] = f"cuda:{gpu}"
        settings = with_teacher_path(run.settings, self.folders, **changes)
        if settings.log_dir is not None:
            log = f"{run.row}-{settings.ask.calls}-seed{settings.data.seed}-{run.key[:8]}"
            settings = settings.model_copy(update={"log_dir": str(Path(settings.log_dir).absolute() / log)})
        # Checkpoints know data and teachers by their places, so the name of their folder covers these too.
        name = hashlib.sha256(f"{run.key} {settings.data.data} {settings.ask.teacher}".encode()).hexdigest()[:32]
        filed = kept or self.keep == "all" or settings.in_rounds or images(settings) > CHECKPOINTED
        folder = self.finished.out.absolute() / best.UNFINISHED / name if filed else None
        return RunTask(settings, folder, self.deadline, self.finished.keep_spectra)
