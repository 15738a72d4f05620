"""A finished run: what a student learned, what it cost, and the files that say so."""

from __future__ import annotations

import csv
import platform
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tuition import models
from tuition.data import Accounts, Bill
from tuition.data.readable import Readable, counted
from tuition.training import files, model_card, parallel
from tuition.training.objective import Objective
from tuition.training.student import Student, load

STUDENT, TEACHER = "student.safetensors", "teacher.safetensors"
OBJECTIVE = "objective.safetensors"
RESULTS = (
    "accuracy",
    "accuracy_last",
    "validation",
    "top5",
    "calibration_error",
    "agreement",
    "teacher_accuracy",
    "teacher_inputs",
    "best_epoch",
    "epochs",
    "steps",
    "images_seen",
    "seconds",
)


@dataclass(frozen=True, eq=False, repr=False)
class Run(Readable):
    """A finished run. Accuracies and errors are in percent; what was not measured is None.

    Attributes:
        student: with the weights of the best validation (of the last epoch, without validation).
        method: what it was trained by.
        accuracy: test top-1 at the best validation.
        accuracy_last: test top-1 after the last epoch.
        validation: best validation figure; top-1, or agreement with the teacher's further answers.
        top5, calibration_error: on test data, at the best validation.
        agreement: with the teacher on the views that it answered (see `evaluation.agreement`).
        best_epoch, epochs, steps, images_seen, seconds: how long it was trained.
        accounts: teacher calls of the ask that made the transfer set, when the run began.
        bill: what these calls cost, and the tokens they used.
        history: one row an epoch, as in metrics.csv.
        directory: the run's folder, or None.
        teacher_accuracy, teacher_inputs: share of the transfer set's labels that the teacher's answers agree with, and
            of how many; None and 0 without labels or logits.
        measured: on what agreement, validation and accuracy were measured.
        rounds: the lines of rounds.csv, of a run that asked in rounds.
    """

    student: Student
    method: str
    accuracy: float | None
    accuracy_last: float | None
    validation: float | None
    top5: float | None
    calibration_error: float | None
    agreement: float | None
    best_epoch: int
    epochs: int
    steps: int
    images_seen: int
    seconds: float
    accounts: Accounts
    bill: Bill
    history: list[dict[str, float]]
    directory: Path | None
    teacher_accuracy: float | None = None
    teacher_inputs: int = 0
    measured: dict[str, str] = field(default_factory=dict)
    rounds: list[dict[str, Any]] = field(default_factory=list)

    def results(self) -> dict[str, Any]:
        """The figures alone."""
        return {name: getattr(self, name) for name in RESULTS}

    def lines(self) -> list[str]:
        recipe = self.student.card()["model"]
        name = type(self.student.model).__name__ if recipe is None else recipe["name"]
        where = "" if self.directory is None else f", in {self.directory}"
        figures = {"accuracy": self.accuracy, "validation": self.validation, "agreement": self.agreement}
        shown = [f"{figure} {value:.2f} %" for figure, value in figures.items() if value is not None]
        shown += [f"{counted(self.epochs, 'epoch')} in {self.seconds:,.1f} s"]
        shown += [f"{counted(self.accounts.paid, 'teacher call')} paid"]
        return [f"Run: {name} trained by {self.method}{where}", ", ".join(shown)]


def write_run(run: Run, objective: Objective, record: dict[str, Any], weights: str, keep_checkpoint: bool) -> None:
    """The run's files. run.json says that the others are complete; what is drawn comes after it and changes nothing."""
    directory = run.directory
    assert directory is not None
    models.save_weights(run.student, directory / weights)
    if objective.state_dict():  # projectors, memories, variances
        models.save_weights(objective, directory / OBJECTIVE)
    if isinstance(run.student.preprocess, models.TextReader):
        for name, content in run.student.preprocess.files().items():
            files.write(directory / name, content)
    files.write_rows(directory / files.METRICS, run.history)
    record = record | {
        "status": "done",
        "results": run.results(),
        "measured": run.measured,
        "student": run.student.card() | {"weights": weights},
        "versions": versions(),
    }
    files.write_json(directory / files.RUN, record)
    files.finish(directory, keep_checkpoint)
    _show(run, directory, record)


def reopen(directory: Path, record: dict[str, Any], student: Student, keep_checkpoint: bool) -> Run:
    """The finished run that a folder holds, as `distill` returned it. What a kill left undone there is finished."""
    parallel.first(lambda: files.finish(directory, keep_checkpoint))
    with (directory / files.METRICS).open(newline="") as file:
        history = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    run = Run(
        student=load(directory, model=student.model, preprocess=student.preprocess),
        method=record["settings"]["method"],
        accounts=Accounts(**record["accounts"]),
        bill=Bill.from_dict(record["bill"]),
        history=history,
        directory=directory,
        measured=record["measured"],
        rounds=record.get("rounds", []),
        **record["results"],
    )
    parallel.first(lambda: _show(run, directory, record))
    return run


def _show(run: Run, directory: Path, record: dict[str, Any]) -> None:
    """What people look at: made from the other files, where it is not there."""
    from tuition.training.curves import try_to_draw

    model_card.write(directory, record)
    path = directory / files.CURVES
    if run.history and not path.exists():
        try_to_draw(run.history, path)


def versions() -> dict[str, str]:
    """What made a run."""
    return {
        "tuition": metadata.version("tuition"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
