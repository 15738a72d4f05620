"""What a study starts from: its teachers and data, what identifies them, and checks before a call is paid."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from tuition import factories
from tuition.errors import UserError
from tuition.identity import code_digest
from tuition.pipeline.checks import check_distill
from tuition.pipeline.parts import DataSettings
from tuition.pipeline.settings import DistillSettings, TeachSettings
from tuition.pipeline.sources import Sources
from tuition.pipeline.teach import teach
from tuition.pipeline.watch import Followed
from tuition.store import ResponseStore
from tuition.studies import cluster
from tuition.studies.grid import Identify, Pair, Study
from tuition.training import Callback, files
from tuition.training.callbacks import Shown
from tuition.training.run import versions

Progress = Callable[[str, int, int], None]  # called with the name of what is counted, the count, and the total
TEACHER_SETTINGS = {*DataSettings.model_fields, "device"} - {"seed"}


def place(study: Study, out: Path, teachers: Sequence[Path] = ()) -> tuple[Study, dict[str, str]]:
    """The study with the names of its teachers, and the place of each, where it is or will be trained.

    Raises:
        UserError: a folder whose teacher no pair names.
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
    student = files.read_run(folder)["settings"]["student"]
    name = student["name"] if isinstance(student, dict) else student
    factories.refuse_untrusted(name, str(folder), trust_code)
    return name


def is_ready(teacher: str) -> bool:
    """Whether a teacher can be asked: it is a finished run, or not a folder."""
    folder = Path(teacher)
    return ":" in folder.name or ((folder / files.RUN).exists() and files.read_run(folder)["status"] == "done")


def train_absent(study: Study, folders: Mapping[str, str], show: Progress, *callbacks: Callback) -> None:
    """Train the teachers whose folders are not finished.

    Raises:
        UnfinishedError: a callback stopped the training.
    """
    for name, folder in folders.items():
        if not is_ready(folder):
            settings, what = _teaching(study, name), f"epochs of {name}"
            shown = Shown(partial(_as_progress, show, what), settings.train.epochs)
            teach(settings, Path(folder), Followed(shown, *callbacks))


def _as_progress(show: Progress, what: str, done: int, total: int, _: Mapping[str, float]) -> None:
    show(what, done, total)


def _teaching(study: Study, name: str) -> TeachSettings:
    shared = {k: v for k, v in study.settings.items() if k in TEACHER_SETTINGS}
    return TeachSettings.of({"model": name, **shared, **TeachSettings.flat_names(study.teaching)})


def identities(folders: Mapping[str, str], sources: Sources) -> Identify:
    """What identifies a run beside its settings: the teacher's fingerprint, and the data's content."""
    content = cache(partial(_content, sources))
    fingerprints: dict[str | None, str] = {}

    def identify(settings: DistillSettings) -> dict[str, str]:
        teacher, features = settings.ask.teacher, settings.ask.features
        if teacher not in fingerprints:
            ready, placed = is_ready(folders[teacher or ""]), with_teacher_path(settings, folders)
            fingerprints[teacher] = sources.teacher(placed).fingerprint if ready else "to be trained"
        identity = {"teacher": fingerprints[teacher], "data": content(*_data(settings))}
        if factories.is_factory(settings.student):
            identity["student"] = str(code_digest(factories.find(settings.student)))
        if factories.is_factory(settings.method):
            identity["method"] = str(code_digest(factories.find(settings.method)))
        if features is not None:
            identity["features"] = hashlib.sha256((Path(features) / files.RUN).read_bytes()).hexdigest()
        return identity

    return identify


def _data(settings: DistillSettings) -> tuple[DataSettings, bool]:
    """The data, without the seed of the draw, and whether the labels of what is asked about are read."""
    return settings.data.model_copy(update={"seed": 0}), settings.ask.labels or settings.ask.select == "stratified"


def _content(sources: Sources, data: DataSettings, labels: bool) -> str:
    """Digest of the inputs and labels of all that is read."""
    total = hashlib.sha256()
    for pool in (sources.pool(data, "train", labels=labels), sources.validation_pool(data), sources.test_pool(data)):
        if pool is not None:
            total.update(b"".join(pool.digests))
            total.update(b"" if pool.labels is None else pool.labels.numpy().tobytes())
    return total.hexdigest()


def with_teacher_path(settings: DistillSettings, folders: Mapping[str, str], **changes: Any) -> DistillSettings:
    """The settings with the teacher's place instead of its name."""
    return settings.changed(teacher=folders[settings.ask.teacher or ""], **changes)


def check(runs: Iterable[DistillSettings], sources: Sources) -> None:
    """Find out what does not fit, once for each pair, method and way of asking, before a call is paid."""
    by_calls = sorted(runs, key=lambda s: s.ask.calls)
    largest = {(s.ask.teacher, s.student, s.method, json.dumps(s.options), _way(s)): s for s in by_calls}
    for settings in largest.values():
        check_distill(settings, None, sources)


def _way(s: DistillSettings) -> tuple[Any, ...]:
    """What decides whether a run fits, beside its pair and its method."""
    return s.in_rounds, s.ask.select, s.ask.features, s.unasked, s.neighbours, s.train.average


def check_nodes(runs: Sequence[DistillSettings], out: Path) -> None:
    """Refuse nodes of the cluster on which the runs would differ."""
    different = list({(s.ask.teacher, *_data(s)): s for s in runs}.values())
    here = _as_seen(different, out.absolute())
    for node, there in cluster.on_every_node(_as_seen, different, out.absolute()).items():
        for what, value in here.items():
            if there.get(what) != value:
                raise UserError(f"node {node} of the cluster has another {what} than this machine; give it the same.")


def _as_seen(runs: Sequence[DistillSettings], out: Path) -> dict[str, str]:
    """All that runs depend on beside their settings, as this machine sees it."""
    if not out.is_dir():
        raise UserError(f"it does not see {out}; put the study's folder where all nodes see it.")
    seen = {f"version of {name}": version for name, version in versions().items()}
    sources = Sources()
    for settings in runs:
        ResponseStore(settings.ask.store)
        seen[f"teacher {settings.ask.teacher}"] = sources.teacher(settings).fingerprint
        seen[f"content of {settings.data.data}"] = _content(sources, *_data(settings))
    return seen
