"""The demo: a small net for handwritten digits from few answers of a larger one, five methods at five budgets."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from tuition import data, disk, teachers
from tuition.data import Pool
from tuition.errors import Notice, UserError, first_line
from tuition.store import ResponseStore
from tuition.studies import figures, needed
from tuition.studies.executor import run_parallel
from tuition.training import distill, files, load, train_teacher

TEACHER, STUDENT = "cnn_32", "cnn_8"
CALLS = (20, 40, 80, 160, 320)
METHODS = ("ce", "kd", "mse", "ckd_published", "ckd")
SEEDS = 3


@dataclass(frozen=True)
class StudentTask:
    """One student."""

    out: Path
    method: str
    calls: int
    seed: int


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
    parts = [part(seed) for seed in range(SEEDS)]
    validation, train = data.load("digits").split(200, seed=0, stratified=True)
    taught = train_teacher(
        TEACHER, train, validation=validation, test=data.load("digits", split="test"), out=out / "teacher", epochs=20
    )
    teacher = teachers.from_torch(taught.student, name="teacher")
    store = ResponseStore(str(out / "responses.db"))
    for pool, calls in product(parts, CALLS):  # each ask pays only for what the one before it did not
        plan = store.plan(teacher, pool[:calls])  # which knows of calls that a kill has wasted
        store.ask(teacher, pool[:calls], budget=plan.paid + plan.new)

    # The largest first, so that no core waits for a late one.
    tasks = [StudentTask(out, *rest) for rest in product(METHODS, CALLS, range(SEEDS))]
    tasks.sort(key=lambda task: -task.calls)
    accuracies: dict[tuple[str, int], list[float]] = {(m, c): [] for m, c in product(METHODS, CALLS)}
    for done, outcome in enumerate(run_parallel(train_student, tasks, workers=workers), start=1):
        task = tasks[outcome.index]
        if outcome.result is None:
            kind = RuntimeError if "\n" in str(outcome.error) else UserError  # a traceback, or a sentence
            raise kind(f"the student {task.method}, {task.calls} calls, seed {task.seed} failed: {outcome.error}")
        accuracies[task.method, task.calls].append(outcome.result)
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
        "accounts": store.accounts("teacher").as_dict(),
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


def part(seed: int) -> Pool:
    """A third of the pool for each seed, so that seeds share no input and are independent replicates."""
    pool = data.load("digits")
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(0))
    return pool[order.tensor_split(SEEDS)[seed]]


def train_student(task: StudentTask) -> float:
    """Test accuracy of one student, in percent.

    Labelled inputs, a fourth of the number of calls, choose its best epoch. All methods see the same number of images.
    """
    pool = part(task.seed)
    transfer = ResponseStore(str(task.out / "responses.db")).ask(_teacher(task.out), pool[: task.calls], budget=0)
    validation, test = pool[len(pool) - task.calls // 4 :], data.load("digits", split="test")
    accuracy = distill(
        STUDENT, transfer, task.method, validation=validation, test=test, seed=task.seed, accounting="matched"
    ).accuracy
    assert accuracy is not None
    return accuracy


def _teacher(out: Path) -> teachers.Teacher:
    return teachers.from_torch(load(out / "teacher"), name="teacher")
