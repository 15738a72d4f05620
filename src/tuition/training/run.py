"""One run: a student distilled from a transfer set, or a teacher trained on labels, with the files that tell of it."""

from __future__ import annotations

import copy
import hashlib
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import tuition
from tuition import models
from tuition.data import Accounts, Pool, TransferSet
from tuition.data.pool import Inputs
from tuition.errors import UserError
from tuition.training import evaluation, files, methods
from tuition.training.batches import Batches
from tuition.training.loop import Progress, train
from tuition.training.objective import Objective
from tuition.training.settings import TrainSettings
from tuition.training.student import EVALUATION_BATCH, Student, load

WEIGHTS = "student.safetensors"
RESULTS = (
    "accuracy",
    "accuracy_last",
    "validation",
    "top5",
    "calibration_error",
    "agreement",
    "best_epoch",
    "epochs",
    "steps",
    "images_seen",
    "seconds",
)


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run. Accuracies and errors are in percent; what was not measured is None.

    Attributes:
        student: with the weights of the best validation (of the last epoch, without validation).
        accuracy: test top-1 at the best validation.
        accuracy_last: test top-1 after the last epoch.
        validation: best validation figure; top-1, or agreement with the teacher's answers without labels.
        top5, calibration_error: on test data, at the best validation.
        agreement: with the teacher's hard answers, on the transfer set as it was asked about.
        best_epoch, epochs, steps, images_seen, seconds: how long it was trained.
        accounts: teacher calls of the ask that made the transfer set.
        history: one row an epoch, as in metrics.csv.
        directory: the run's folder, or None.
    """

    student: Student
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
    history: list[dict[str, float]]
    directory: Path | None

    def results(self) -> dict[str, Any]:
        """The figures alone."""
        return {name: getattr(self, name) for name in RESULTS}


def distill(
    student: nn.Module | str,
    transfer: TransferSet,
    objective: str | Objective = "ckd",
    *,
    validation: Pool | TransferSet | None = None,
    test: Pool | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    options: dict[str, Any] | None = None,
    preprocess: nn.Module | None = None,
    progress: Progress | None = None,
    described: dict[str, Any] | None = None,
    **settings: Any,
) -> Run:
    """Train a student on a transfer set.

    Args:
        student: a model from preprocessed inputs to logits (n, k), which is copied, not changed; or a name that
            `models.create` knows.
        transfer: inputs with responses; without labels the label terms fall away (see `teacher_labels`).
        objective: the name of a method, or an `Objective`.
        validation: labelled inputs to choose the best epoch by; or a transfer set, to choose it by agreement with
            its responses.
        test: labelled inputs, evaluated twice: after the last epoch and at the best validation.
        seed: of the order of batches, augmentation and, for a name, the initial weights.
        out: folder for the run's files; a finished run there is returned, an unfinished one continued, another refused.
        options: settings of the method, such as {"anchor": 0.3}.
        preprocess: from raw inputs to the student's; by default, the channels' mean and std over the transfer set.
        progress: called after every epoch with (epochs done, epochs, figures).
        described: further settings to record with the run and compare on resume, such as where the data came from.
        **settings: see `TrainSettings`.

    Raises:
        UserError: settings, sizes or files that do not fit, or a loss that is no longer finite.
    """
    chosen = TrainSettings.of(settings)
    transfer = _labelled(transfer, chosen.teacher_labels)
    device = pick_device(chosen.device)
    num_classes = _num_classes(transfer, validation, test)
    pool = transfer.pool
    augment = pool.augment if chosen.augment else None
    sample = _tensor(pool[:2].asked())
    module = (
        models.create(student, num_classes=num_classes, in_channels=sample.shape[1], seed=seed)
        if isinstance(student, str)
        else copy.deepcopy(student)
    )
    whole = Student(
        module,
        preprocess if preprocess is not None else models.Preprocess.fit(_tensor(pool.inputs)),
        input_shape=tuple(sample.shape[1:]),
        class_names=pool.class_names,
        crop=pool.crop,
    ).to(device)
    width = _probe(whole, sample.to(device))
    if transfer.labels is not None and width < num_classes:
        raise UserError(f"the student answers with {width} classes, but the data has {num_classes}; build it for them.")
    if isinstance(objective, str):
        name = objective
        task = methods.Task(transfer.labels, transfer.responses, width, seed)
        objective = methods.create(name, task, options)
    else:
        name = type(objective).__name__
        objective = copy.deepcopy(objective)

    directory = None if out is None else Path(out)
    record: dict[str, Any] = {}
    if directory is not None:
        record = files.open_run(
            directory,
            {
                "method": name,
                "options": options or {},
                "student": getattr(module, "recipe", None) or type(module).__name__,
                "seed": seed,
                **chosen.model_dump(exclude={"device", "checkpoint_seconds"}),
                **(described or {}),
                "transfer": _digest(transfer),
                "validation": None if validation is None else _digest(validation),
                "test": None if test is None else _digest(test),
            },
        )
        if record["status"] == "done":
            return _reopen(directory, record, module)

    generator = torch.Generator().manual_seed(seed)
    objective = objective.to(device)
    batches = Batches(
        transfer,
        objective,
        batch_size=chosen.batch_size,
        augment=augment,
        num_classes=width,
        device=device,
        generator=generator,
        matched=chosen.accounting == "matched",
    )
    if sample.ndim == 4:
        whole.use_channels_last()
    state, best = train(
        whole,
        objective,
        batches,
        chosen,
        validate=_validator(validation, device),
        checkpoint=None if directory is None else directory / files.CHECKPOINT,
        progress=progress,
    )
    last = None if test is None else whole.evaluate(test)
    whole.load_state_dict(best)
    final = None if test is None else whole.evaluate(test)
    whole.cpu().eval()
    logits = transfer.responses.get("logits")
    run = Run(
        student=whole,
        accuracy=None if final is None else final.accuracy,
        accuracy_last=None if last is None else last.accuracy,
        validation=state.best,
        top5=None if final is None else final.top5,
        calibration_error=None if final is None else final.calibration_error,
        agreement=None if logits is None else _agreement(whole, transfer),
        best_epoch=state.best_epoch,
        epochs=state.epoch,
        steps=state.steps,
        images_seen=state.images,
        seconds=round(state.seconds, 3),
        accounts=transfer.accounts,
        history=state.history,
        directory=directory,
    )
    if directory is not None:
        _write(run, directory, record)
    return run


def _write(run: Run, directory: Path, record: dict[str, Any]) -> None:
    """The run's files; run.json last, for it says that the others are whole."""
    from tuition.training.curves import draw

    run.student.save(directory, WEIGHTS)
    files.write_rows(directory / files.METRICS, run.history)
    draw(run.history, directory / files.CURVES)
    files.write_json(
        directory / files.RUN,
        record
        | {
            "status": "done",
            "results": run.results(),
            "accounts": run.accounts.as_dict(),
            "student": run.student.card() | {"weights": WEIGHTS},
            "versions": versions(),
        },
    )
    (directory / files.CHECKPOINT).unlink(missing_ok=True)


def _reopen(directory: Path, record: dict[str, Any], module: nn.Module) -> Run:
    """The finished run that a folder holds, as `distill` returned it."""
    import csv

    with (directory / files.METRICS).open(newline="") as file:
        history = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    student = load(directory, model=module)
    return Run(
        student=student,
        accounts=Accounts(**record["accounts"]),
        history=history,
        directory=directory,
        **record["results"],
    )


def versions() -> dict[str, str]:
    """What made a run."""
    return {
        "tuition": tuition.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is CUDA, else Apple's MPS, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(f"there is no device {name!r} here; use device: auto or cpu.") from None
    return device


def _labelled(transfer: TransferSet, teacher_labels: bool) -> TransferSet:
    if transfer.labels is not None or not teacher_labels:
        return transfer
    if "logits" not in transfer.responses:
        raise UserError("teacher_labels needs a teacher that answers with logits.")
    return replace(transfer, pool=replace(transfer.pool, labels=transfer.responses["logits"].argmax(dim=1)))


def _num_classes(transfer: TransferSet, *others: Pool | TransferSet | None) -> int:
    """Classes of the task: as many as the teacher's logits have, else as the labels name."""
    pools = [p.pool if isinstance(p, TransferSet) else p for p in (transfer, *others) if p is not None]
    highest = max((p.num_classes or 0 for p in pools), default=0)
    logits = transfer.responses.get("logits")
    if logits is not None:
        if logits.shape[1] < highest:
            raise UserError(
                f"the teacher answers with {logits.shape[1]} classes, but the labels name {highest}; "
                "use the teacher of this data."
            )
        return logits.shape[1]
    if highest == 0:
        raise UserError("there is nothing to learn from: neither labels nor a teacher's logits.")
    return highest


def _tensor(inputs: Inputs) -> Tensor:
    if not isinstance(inputs, Tensor):
        raise UserError("this student needs images or vectors; encode the texts first.")
    return inputs


def _probe(student: Student, sample: Tensor) -> int:
    """Width of the student's logits, from a forward pass of two inputs."""
    student.eval()
    try:
        with torch.no_grad():
            logits = student(sample)
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise UserError(f"the student cannot read inputs of shape {tuple(sample.shape[1:])}: {first}") from None
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise UserError("the student must return logits of shape (n, classes).")
    return logits.shape[1]


def _validator(validation: Pool | TransferSet | None, device: torch.device) -> Callable[[Student], float] | None:
    if validation is None:
        return None
    pool = validation.pool if isinstance(validation, TransferSet) else validation
    wanted = validation.responses["logits"].argmax(dim=1) if isinstance(validation, TransferSet) else pool.labels
    if wanted is None:
        raise UserError("validation needs labels, or a transfer set with the teacher's answers.")
    inputs, wanted = _tensor(pool.asked()).to(device), wanted.to(device)

    def validate(student: Student) -> float:
        student.eval()
        with torch.inference_mode():
            predicted = torch.cat([student(batch).argmax(dim=1) for batch in inputs.split(EVALUATION_BATCH)])
        return evaluation.percent(predicted == wanted)

    return validate


def _agreement(student: Student, transfer: TransferSet) -> float:
    answered = transfer.responses["logits"].argmax(dim=1)
    return evaluation.percent(student.predict(transfer.pool) == answered)


def _digest(data: Pool | TransferSet) -> str:
    """Identity of what a run learns from or is measured on: contents, labels, responses, in their order."""
    pool = data.pool if isinstance(data, TransferSet) else data
    total = hashlib.sha256(b"".join(pool.digests))
    tensors = {} if pool.labels is None else {"labels": pool.labels}
    if isinstance(data, TransferSet):
        tensors |= data.responses
    for name, value in sorted(tensors.items()):
        total.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        total.update(value.contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:32]


__all__ = ["Run", "distill", "pick_device", "versions"]
