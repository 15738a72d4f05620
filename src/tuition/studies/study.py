"""Running a study: teachers trained, answers paid once, runs made in parallel, each written down as it ends."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shlex
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from tuition import disk, factories, models
from tuition.data import Pool
from tuition.errors import UserError, without_passwords
from tuition.identity import code_digest
from tuition.pipeline import job
from tuition.pipeline.checks import preflight
from tuition.pipeline.settings import Columns, DistillSettings, TeachSettings
from tuition.pipeline.sources import load_data, question, test_data, train_columns
from tuition.pipeline.teacher import find_teacher, named_teacher
from tuition.store import ResponseStore, address
from tuition.studies import cluster
from tuition.studies.executor import run_parallel
from tuition.studies.finished import FinishedRuns, record_of
from tuition.studies.grid import Identify, Pair, PlannedRun, RecordId, Study, StudyPlan, images, plan
from tuition.studies.records import Record
from tuition.training import Student, files
from tuition.training.preflight import pick_device
from tuition.training.run import versions

SIGNS = ("runs.csv", "responses.db", "teachers", "unfinished")  # of a study's folder
LITTLE = 20_000  # images of a run that is sooner made again than kept in checkpoints
Progress = Callable[[str, int, int], None]  # called with what is counted, how much of it is done, and the total


class DeadlineError(Exception):
    """Raised inside whatever takes long when a study's time is up."""


@dataclass(frozen=True)
class StudyResult:
    """What came of a study: runs that are done, those that failed, and how many are left where time ran out."""

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
    """Make every run of a study that is not known yet; it stands in OUT/runs.csv as soon as it has ended.

    Killed or stopped at any moment, the same call goes on from there; runs under way continue from their checkpoints.

    Args:
        out: folder for runs.csv, responses.db and, where the study trains them, its teachers.
        teachers: folders made by `tuition teach`, to take instead of training.
        continue_from: folders of other studies, whose finished runs are not made again.
        workers: runs at a time; by default one a core.
        retry: make failed runs again.
        minutes: stop after so long, and leave the rest to the next call.
        executor: "local" for processes of this machine, "ray" for the nodes of a Ray cluster. These need `out`, the
            teachers' folders and the data at the same paths, and a store in PostgreSQL; this process writes runs.csv.

    Raises:
        UserError: settings, data or teachers that do not fit, or a budget that does not suffice; nothing is asked then.
    """
    disk.check_ours(out, SIGNS, "a study")
    with disk.hold(out):
        return _run(study, out, teachers, continue_from, workers, retry, minutes, executor, progress)


def _run(
    study: Study,
    out: Path,
    teachers: Sequence[Path],
    continue_from: Sequence[Path],
    workers: int | None,
    retry: bool,
    minutes: float,
    executor: str,
    progress: Progress | None,
) -> StudyResult:
    deadline = time.time() + 60 * minutes
    show = progress or (lambda what, done, total: None)

    def watch(what: str, done: int, total: int) -> None:
        show(what, done, total)
        if time.time() > deadline:
            raise DeadlineError

    study, folders = place(study, out, teachers)
    if executor == "ray":
        cluster.check_store(study.settings["store"])
        cluster.connect()
    finished = FinishedRuns(study, out, continue_from, retry=retry)
    made = 0
    try:
        for name, folder in folders.items():
            if not is_ready(folder):
                _teach(study, name, Path(folder), watch)
        identify = identities(folders, trust_code=bool(study.settings.get("trust_code", False)))
        now = plan(study, finished.find, identify)
        wanted = [with_teacher_path(planned.settings, folders) for planned in (*now.ready, *now.later)]
        check(wanted)
        out.mkdir(parents=True, exist_ok=True)
        if executor == "ray" and wanted:
            _check_nodes(wanted, out)
        _pay(wanted, watch)
        while now.ready:
            finished.write(now.rows)
            total = made + len(now.ready) + len(now.later)
            watch("runs", made, total)
            for _ in _make(now, finished, folders, workers, deadline, executor):
                made += 1
                show("runs", made, total)
            now = plan(study, finished.find, identify)
        finished.write(now.rows)
    except DeadlineError:
        now = plan(study, finished.find, identities(folders, trust_code=bool(study.settings.get("trust_code", False))))
    found = {planned.key: record for planned in now.rows.values() if (record := finished.find(planned)) is not None}
    failed = [record for record in found.values() if record.status == "failed"]
    return StudyResult(len(found) - len(failed), failed, len(now.ready) + len(now.later))


def note_command(out: Path, arguments: Sequence[str]) -> None:
    """Keep the command that makes a study beside its runs, for the report; each once."""
    from tuition.studies.report import COMMAND

    path = out / COMMAND
    line = without_passwords(shlex.join(["tuition", *arguments]))
    there = path.read_text().splitlines() if path.exists() else []
    if line not in there:
        files.write(path, "".join(f"{each}\n" for each in [*there, line]).encode())


# -- one run, in a process of its own ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunTask:
    """A run to make before `deadline` (as time.time()), in a folder if its checkpoints are to be kept."""

    settings: DistillSettings
    folder: Path | None
    deadline: float
    spectrum: bool


def train(task: RunTask) -> tuple[dict[str, Any], list[float] | None] | None:
    """The figures of one run and, where wanted, its spectrum; None if its time was up first."""

    def watch(*_: Any) -> None:
        if time.time() > task.deadline:
            raise DeadlineError

    settings = task.settings
    try:
        watch()
        teacher = named_teacher(settings)
        transfer, validation = job.ask(settings, teacher)
        transfer = job.complete(settings, teacher, transfer)
        run = job.train_student(settings, transfer, validation, task.folder, watch)
    except DeadlineError:
        return None
    figures = {name: math.nan if value is None else value for name, value in run.results().items()}
    figures |= {
        "paid": run.accounts.paid + run.accounts.served,
        "curve": [[row["epoch"], row["loss"], row["validation"]] for row in run.history],
    }
    del figures["best_epoch"], figures["teacher_inputs"]
    test = test_data(settings) if task.spectrum else None
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


# -- steps -------------------------------------------------------------------------------------------------------------


def place(study: Study, out: Path, teachers: Sequence[Path] = ()) -> tuple[Study, dict[str, str]]:
    """The study with the names of its teachers, and where each of them is, or will be trained.

    Raises:
        UserError: a folder given that no pair has a use for.
    """
    trust_code = bool(study.settings.get("trust_code", False))
    folders = {_architecture(folder, trust_code): str(folder.resolve()) for folder in teachers}
    pairs = []
    for pair in study.pairs:
        name = pair.teacher
        if (Path(name) / files.RUN).exists():
            name = _architecture(Path(pair.teacher), trust_code)
            folders.setdefault(name, str(Path(pair.teacher).resolve()))
        pairs.append(Pair(teacher=name, student=pair.student))
    named = list(dict.fromkeys(pair.teacher for pair in pairs))
    for name, folder in folders.items():
        if name not in named:
            raise UserError(f"{folder} is a {name}, and the teachers of this study are {', '.join(named)}.")
    folders |= {
        name: name if ":" in name else str((out / "teachers" / name).resolve()) for name in named if name not in folders
    }
    settings = {"data": "digits", "store": str(out / "responses.db"), **study.settings}
    for name in ("data", "features"):
        if isinstance(settings.get(name), str) and os.path.isdir(settings[name]):
            settings[name] = str(Path(settings[name]).resolve())
    return study.model_copy(update={"pairs": pairs, "settings": settings}), folders


def _architecture(folder: Path, trust_code: bool) -> str:
    made = files.read_run(folder)["settings"]["student"]
    name = made["name"] if isinstance(made, dict) else made
    factories.refuse_untrusted(name, str(folder), trust_code)
    return name


def is_ready(teacher: str) -> bool:
    """Whether a teacher can be asked: a finished run, or no folder at all."""
    folder = Path(teacher)
    return ":" in folder.name or ((folder / files.RUN).exists() and files.read_run(folder)["status"] == "done")


TAUGHT = {
    "data",
    "size",
    "test",
    "device",
    "text_column",
    "label_column",
    "image_column",
}  # settings of its teachers too


def _teach(study: Study, name: str, folder: Path, watch: Progress) -> None:
    shared = {k: v for k, v in study.settings.items() if k in TAUGHT}
    settings = TeachSettings.of({"model": name, **shared, **study.teaching})
    job.teach(settings, folder, lambda done, total, _: watch(f"epochs of {name}", done, total))


def identities(folders: Mapping[str, str], *, trust_code: bool = False) -> Identify:
    """What tells runs apart beside their settings: the teacher's fingerprint, and the data's content."""

    @cache
    def fingerprint(teacher: str) -> str:
        if not is_ready(folders[teacher]):
            return "to be trained"
        return find_teacher(folders[teacher], trust_code=trust_code).fingerprint

    def identify(settings: DistillSettings) -> dict[str, str]:
        found = {
            "teacher": fingerprint(settings.teacher or ""),
            "data": _content(settings.data, settings.test, settings.size, train_columns(settings), settings.columns),
        }
        if factories.is_factory(settings.student):
            found["student"] = str(code_digest(factories.find(settings.student)))
        if settings.features is not None:
            found["features"] = hashlib.sha256((Path(settings.features) / files.RUN).read_bytes()).hexdigest()
        return found

    return identify


@cache
def _content(data: str, test: str | None, size: int | None, train_columns: Columns, columns: Columns) -> str:
    total = hashlib.sha256()
    for split, which in (("train", train_columns), (test, columns)):
        pool = None if split is None else load_data(data, split, size, which)
        if pool is not None:
            total.update(b"".join(pool.digests))
            total.update(b"" if pool.labels is None else pool.labels.numpy().tobytes())
    return total.hexdigest()


def with_teacher_path(settings: DistillSettings, folders: Mapping[str, str], **changes: Any) -> DistillSettings:
    """The settings with the teacher's place instead of its name."""
    return settings.model_copy(update={"teacher": folders[settings.teacher or ""], **changes})


def check(wanted: Iterable[DistillSettings]) -> None:
    """Find out what does not fit, once for each pair and method, before a call is paid."""
    largest = {
        (s.teacher, s.student, s.method, json.dumps(s.options)): s for s in sorted(wanted, key=lambda s: s.calls)
    }
    for settings in largest.values():
        preflight(settings, None)


def _check_nodes(wanted: Sequence[DistillSettings], out: Path) -> None:
    """Refuse nodes of the cluster on which the runs would be others."""
    places = list({(s.teacher, s.data, s.test, s.size): s for s in wanted}.values())
    here = _look(places, out.absolute())
    for node, there in cluster.on_every_node(_look, places, out.absolute()).items():
        for what, value in here.items():
            if there.get(what) != value:
                raise UserError(f"node {node} of the cluster has another {what} than this machine; give it the same.")


def _look(places: Sequence[DistillSettings], out: Path) -> dict[str, str]:
    """All that runs depend on beside their settings, as this machine has it."""
    if not out.is_dir():
        raise UserError(f"it does not see {out}; put the study's folder where all nodes see it.")
    found = {f"version of {name}": version for name, version in versions().items()}
    for settings in places:
        ResponseStore(settings.store)
        found[f"teacher {settings.teacher}"] = named_teacher(settings).fingerprint
        found[f"content of {settings.data}"] = _content(
            settings.data, settings.test, settings.size, train_columns(settings), settings.columns
        )
    return found


def _asks(wanted: Iterable[DistillSettings]) -> list[DistillSettings]:
    """Settings that between them ask all that `wanted` do; random draws of one seed are nested."""

    def same(s: DistillSettings) -> tuple[Any, ...]:
        apart = () if s.select == "random" and not s.paid_mixes else (s.calls, s.paid_mixes)
        return s.teacher, s.data, s.seed, s.select, s.features, s.view, s.labels, *apart

    return list({same(settings): settings for settings in sorted(wanted, key=lambda s: s.calls)}.values())


def calls(wanted: Iterable[DistillSettings]) -> dict[str, tuple[int, int]]:
    """Calls to pay for, and calls paid before, by teacher; paid mixes count as if none were stored.

    Raises:
        UserError: a budget that does not suffice.
    """
    seen: dict[str, set[bytes]] = defaultdict(set)
    found: dict[str, tuple[int, int]] = {}
    for settings in _asks(wanted):
        name = settings.teacher or ""
        inputs = question(settings).inputs
        fresh = inputs[[row for row, digest in enumerate(inputs.digests) if digest not in seen[name]]]
        seen[name].update(inputs.digests)
        new, paid = len(set(fresh.digests)), 0
        if is_ready(name) and address.exists(settings.store):
            known = ResponseStore(settings.store).plan(find_teacher(name, trust_code=settings.trust_code), fresh)
            new, paid = known.new, known.paid
        found[name] = found.get(name, (0, 0))[0] + new + settings.paid_mixes, paid
        if settings.budget is not None and sum(found[name]) > settings.budget:
            raise UserError(
                f"the study needs {found[name][0]:,} new calls of {Path(name).name} or more, {paid:,} are paid, and "
                f"the budget is {settings.budget:,}; raise it, or take fewer calls or seeds."
            )
    return found


def _pay(wanted: Sequence[DistillSettings], watch: Progress) -> None:
    """Ask all that is needed. The runs are served from the store then, and can pay for nothing."""
    if not any(new for new, _ in calls(wanted).values()):
        return
    for settings in _asks(wanted):
        teacher = named_teacher(settings)
        transfer, _ = job.ask(settings, teacher, partial(watch, "calls"))
        if settings.paid_mixes:
            job.complete(settings, teacher, transfer)


def _make(
    now: StudyPlan,
    finished: FinishedRuns,
    folders: Mapping[str, str],
    workers: int | None,
    deadline: float,
    executor: str,
) -> Iterator[Record]:
    """Make the runs that are ready, and write each down as it ends. What time did not suffice for is left out."""
    ends: dict[str, dict[RecordId, PlannedRun]] = defaultdict(dict)
    for end, planned in now.rows.items():
        ends[end.key][end] = planned
    gpus = 0 if executor == "ray" else torch.cuda.device_count()
    jobs = []
    for i, planned in enumerate(now.ready):
        share = {"device": f"cuda:{i % gpus}"} if gpus > 1 and planned.settings.device == "auto" else {}
        settings = with_teacher_path(planned.settings, folders, budget=0, **share)
        # Named after all that a checkpoint is bound to, which knows data and teachers by their places.
        name = hashlib.sha256(f"{planned.key} {settings.data} {settings.teacher}".encode()).hexdigest()[:32]
        if settings.log_dir is not None:
            log = f"{planned.row}-{settings.calls}-seed{settings.seed}-{planned.key[:8]}"
            settings = settings.model_copy(update={"log_dir": str(Path(settings.log_dir).absolute() / log)})
        folder = finished.out.absolute() / "unfinished" / name if images(settings) > LITTLE else None
        jobs.append(RunTask(settings, folder, deadline, finished.keep_spectra))
    spread = cluster.run_on_cluster if executor == "ray" else run_parallel
    with closing(spread(train, jobs, workers=workers)) as outcomes:  # type: ignore[type-var]
        for outcome in outcomes:
            if outcome.result is None and outcome.error is None:
                continue  # its time was up
            planned, folder = now.ready[outcome.index], jobs[outcome.index].folder
            figures, found = outcome.result or (None, None)
            record = record_of(planned, figures, outcome.error)
            finished.add(record, found)
            finished.write(ends[planned.key])
            if folder is not None and folder.exists():
                shutil.rmtree(folder)
            yield record
