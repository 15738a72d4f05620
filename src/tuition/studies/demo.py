"""The demo: a small net for handwritten digits from few answers of a larger one, six methods at five budgets."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch

from tuition import data, disk
from tuition.data import Pool
from tuition.errors import Notice, UserError, first_line
from tuition.pipeline import job
from tuition.pipeline.settings import Asking, DistillSettings
from tuition.pipeline.sources import Sources
from tuition.store import ResponseStore
from tuition.studies import figures, needed, study_calls
from tuition.studies.executor import run_parallel
from tuition.training import files, train_teacher

TEACHER, STUDENT = "cnn_32", "cnn_8"
CALLS = (20, 40, 80, 160, 320)
METHODS: dict[str, dict[str, Any]] = {
    **{name: {"method": name} for name in ("ce", "kd", "mse", "ckd_published", "ckd")},
    "ckd_rounds": {"method": "ckd", "rounds": 3, "unasked": "all"},
}
SEEDS = 3


class Parts(Sources):
    """The digits, of which each seed has a third, so that seeds share no input and are independent replicates."""

    def train_pool(self, settings: Asking) -> Pool:
        return part(settings.data.seed)


def run(out: Path, *, workers: int | None = None, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Train the teacher, ask it, train all students in parallel; write `accuracy.png` and `summary.json` to `out`.

    Returns:
        The summary. Accuracies are in percent, of test data at the best validation.
    """
    disk.check_ours(out, ("teacher", "responses.db", "summary.json"), "a demo")
    with disk.hold(out):
        return _run(out, workers, progress)


def _run(out: Path, workers: int | None, progress: Callable[[int, int], None] | None) -> dict[str, Any]:
    begun = time.monotonic()
    validation, train = data.load("digits").split(200, seed=0, stratified=True)
    taught = train_teacher(
        TEACHER, train, validation=validation, test=data.load("digits", split="test"), out=out / "teacher", epochs=20
    )
    students = {key: settings_of(out, *key) for key in product(METHODS, CALLS, range(SEEDS))}
    study_calls.pay(list(students.values()), Parts(), lambda *_: None)

    # The longest first, so that no core waits for a late one.
    tasks = sorted(students, key=lambda key: (-students[key].rounds, -key[1]))
    accuracies: dict[tuple[str, int], list[float]] = {(m, c): [] for m, c in product(METHODS, CALLS)}
    settings = [students[key] for key in tasks]
    for done, outcome in enumerate(run_parallel(train_student, settings, workers=workers), start=1):
        method, calls, seed = tasks[outcome.index]
        if outcome.result is None:
            kind = RuntimeError if "\n" in str(outcome.error) else UserError  # a traceback, or a sentence
            raise kind(f"the student {method}, {calls} calls, seed {seed} failed: {outcome.error}")
        accuracies[method, calls].append(outcome.result)
        if progress is not None:
            progress(done, len(tasks))

    curves = {m: {c: dict(enumerate(accuracies[m, c])) for c in CALLS} for m in METHODS}
    results = [
        {"method": m, "calls": c, "mean": statistics.mean(a), "std": statistics.stdev(a), "seeds": len(a)}
        for (m, c), a in accuracies.items()
    ]
    assert taught.accuracy is not None
    summary = {
        "results": results,
        "teacher_accuracy": taught.accuracy,
        "seconds": round(time.monotonic() - begun, 1),
        "accounts": ResponseStore(str(out / "responses.db")).accounts("teacher").as_dict(),
    }
    files.write_json(out / "summary.json", summary)
    try:
        figures.calls_and_accuracy(
            results,
            needed.along(curves),
            out / "accuracy.png",
            title="Handwritten digits",
            reference={"teacher": taught.accuracy},
        )
    except Exception as error:  # any error of the drawing library, its fonts or the disk
        warnings.warn(
            f"accuracy.png was not drawn ({first_line(error)}); summary.json is complete.", Notice, stacklevel=2
        )
    return summary


def settings_of(out: Path, method: str, calls: int, seed: int) -> DistillSettings:
    """Those of one student. Only what is asked in rounds is paid for as it is trained."""
    row = METHODS[method]
    return DistillSettings.of(
        {
            **{"data": "digits", "teacher": str(out / "teacher"), "store": str(out / "responses.db")},
            **{"student": STUDENT, "calls": calls, "seed": seed, "accounting": "matched", "check_answers": False},
            **row,
        }
    )


def part(seed: int) -> Pool:
    """A third of the pool for each seed."""
    pool = data.load("digits")
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(0))
    return pool[order.tensor_split(SEEDS)[seed]]


def train_student(settings: DistillSettings) -> float:
    """Test accuracy of one student, in percent.

    Labelled inputs, a fourth of the number of calls, choose its best epoch.
    """
    accuracy = job.run(settings, None, Parts()).accuracy
    assert accuracy is not None
    return accuracy
