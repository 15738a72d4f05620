"""One run: a student distilled from a transfer set, or a teacher trained on labels, with the files that tell of it."""

from __future__ import annotations

import contextlib
import hashlib
import math
import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tuition import disk, models
from tuition.data import Accounts, Bill, Pool, TransferSet
from tuition.training import evaluation, files, leaks, methods, parallel
from tuition.training.batches import Batches
from tuition.training.cpu_threads import fitting_threads
from tuition.training.loop import Progress, train
from tuition.training.objective import Objective
from tuition.training.preflight import (
    build_objective,
    build_student,
    check_evaluation,
    check_responses,
    count_classes,
    further_in_order,
    in_order,
    labelled,
    learned,
    own_code,
    pick_device,
    recorded_settings,
    test_in_order,
    try_out,
)
from tuition.training.recentre import centre_of, recentre, recentred
from tuition.training.settings import TrainSettings, usual
from tuition.training.student import Student, load

STUDENT, TEACHER, CARD = "student.safetensors", "teacher.safetensors", "README.md"
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


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run. Accuracies and errors are in percent; what was not measured is None.

    Attributes:
        student: with the weights of the best validation (of the last epoch, without validation).
        accuracy: test top-1 at the best validation.
        accuracy_last: test top-1 after the last epoch.
        validation: best validation figure; top-1, or agreement with the teacher's further answers.
        top5, calibration_error: on test data, at the best validation.
        agreement: with the teacher on the transfer set as it was asked about (see `evaluation.agreement`).
        best_epoch, epochs, steps, images_seen, seconds: how long it was trained.
        accounts: teacher calls of the ask that made the transfer set, when the run was begun.
        bill: what these calls cost, and the tokens they used.
        history: one row an epoch, as in metrics.csv.
        directory: the run's folder, or None.
        teacher_accuracy, teacher_inputs: share of the transfer set's labels that the teacher's answers agree with, and
            of how many; None and 0 without labels or logits.
        measured: on what agreement, validation and accuracy were measured.
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
    bill: Bill
    history: list[dict[str, float]]
    directory: Path | None
    teacher_accuracy: float | None = None
    teacher_inputs: int = 0
    measured: dict[str, str] = field(default_factory=dict)

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
    weights: str = STUDENT,
    **settings: Any,
) -> Run:
    """Train a student on a transfer set.

    In a process group of torch.distributed, all processes call this alike and share the batches, of which `batch_size`
    is the size over all. The first writes the files, in a folder that all can read; all return the run.

    Args:
        student: a model from preprocessed inputs to logits (n, k), which is copied, not changed; or a name that
            `models.create` knows.
        transfer: inputs with responses; without labels the label terms fall away (see `teacher_labels`). From an
            "embedding" (n, d) alone, without logits or labels, a student of embeddings is made, of the same width
            where a name is given; another width meets the teacher's in a projector that the objective learns.
        objective: the name of a method, or an `Objective`, whose modules are trained in place.
        validation: labelled inputs to choose the best epoch by; or a transfer set, to choose it by agreement with
            its responses.
        test: labelled inputs, evaluated twice: after the last epoch and at the best validation.
        seed: of the order of batches, augmentation and, for a name, the initial weights.
        out: folder for the run's files; a finished run there is returned, an unfinished one continued, another refused.
            It is another run if the code of your own student, objective or preprocessing was edited.
        options: settings of the method, such as {"anchor": 0.3}.
        preprocess: from raw inputs to the student's; by default, the channels' mean and std over the transfer set.
        progress: called after every epoch with (epochs done, epochs, figures).
        described: further settings to record with the run and compare on resume, such as where the data came from.
        weights: name of the file of weights in `out`.
        **settings: see `TrainSettings`.

    Raises:
        UserError: settings, sizes or files that do not fit, or a loss that is no longer finite.
    """
    chosen = TrainSettings.of(usual(settings, transfer.pool.kind == "texts"))
    options = methods.checked(objective, options or {}) if isinstance(objective, str) else options
    check_responses(transfer)
    accuracy = transfer.teacher_accuracy
    transfer = labelled(transfer, chosen.teacher_labels)
    num_classes = count_classes(transfer, validation, test)
    if isinstance(validation, TransferSet):
        validation = further_in_order(validation, transfer, num_classes)
    else:
        validation = in_order(validation, transfer, num_classes)
    test = test_in_order(test, transfer, num_classes)
    whole = build_student(student, transfer.pool, num_classes, preprocess, seed, learned(transfer))
    check_evaluation(whole, validation, test)
    device = pick_device(chosen.device)
    method, given = objective, not isinstance(objective, str)
    objective, name = build_objective(method, whole, transfer, num_classes, options, seed)
    try_out(whole, method, transfer, chosen, num_classes, options, seed, device)

    directory = None if out is None else Path(out)
    record: dict[str, Any] = {}
    if directory is not None or parallel.count() > 1:
        digests = {
            "initial_digest": None if isinstance(student, str) else _module_digest(whole.model, preprocess),
            "own_code": own_code(whole, objective, given),
            "transfer_digest": _digest(transfer),
            "validation_digest": None if validation is None else _digest(validation),
            "test_digest": None if test is None else _digest(test),
        }
        wanted = recorded_settings(name, options, whole, seed, chosen, described) | digests
        begun = {
            "initial_weights": _tensors_digest({**whole.state_dict(), **objective.state_dict(prefix="objective.")})
        }
        parallel.check_same(**{k: v for k, v in (wanted | begun).items() if k not in files.FREE})
    with contextlib.ExitStack() as held:
        if directory is not None:
            accounts, bill = transfer.accounts.as_dict(), transfer.bill.as_dict()

            def opened() -> dict[str, Any]:
                files.find_run(directory, wanted)  # refuses another folder before it is touched
                held.enter_context(disk.hold(directory))
                return files.open_run(directory, wanted, accounts, bill)

            record = parallel.first(opened)
            if record["status"] == "done":
                parallel.first(lambda: files.finish(directory))
                run = _reopen(directory, record, whole)
                parallel.first(lambda: _draw(run, directory))  # a kill may have come before it
                return run
        leaks.warn_of_shared(transfer, validation=validation, test=test)
        task = _Task(transfer, validation, test, chosen, num_classes, device, seed, directory, record, accuracy)
        run = _train(whole, objective, task, progress)
        if directory is not None:
            parallel.first(lambda: _write(run, objective, directory, record, weights))
    return run


@dataclass(frozen=True)
class _Task:
    """What is trained on and measured on, and how."""

    transfer: TransferSet
    validation: Pool | TransferSet | None
    test: Pool | None
    chosen: TrainSettings
    num_classes: int
    device: torch.device
    seed: int
    directory: Path | None
    record: dict[str, Any]
    teacher_accuracy: float | None  # of its answers, before they stand in for labels


def _train(whole: Student, objective: Objective, task: _Task, progress: Progress | None) -> Run:
    """Train, and measure what was learned."""
    accuracy = task.teacher_accuracy
    transfer, validation, test, chosen = task.transfer, task.validation, task.test, task.chosen
    num_classes, device, directory, record = task.num_classes, task.device, task.directory, task.record
    if whole.reads_text:  # once for all epochs
        transfer = replace(transfer, pool=replace(transfer.pool, inputs=whole.read(transfer.pool)))
    whole, objective = whole.to(device), objective.to(device)
    batches = Batches(
        transfer,
        objective,
        batch_size=chosen.batch_size,
        augment=transfer.pool.augment if chosen.augment else None,
        num_classes=num_classes,
        device=device,
        generator=torch.Generator().manual_seed(task.seed),
        matched=chosen.accounting == "matched",
        aligned=chosen.aligned,
        rank=parallel.rank(),
        processes=parallel.count(),
    )
    centre = centre_of(transfer, num_classes, objective.recentre) if objective.recentre else None
    with fitting_threads(whole, math.ceil(chosen.batch_size / parallel.count())):
        state, best = train(
            whole,
            objective,
            batches,
            chosen,
            validate=None if validation is None else _validator(whole, validation, transfer, centre),
            checkpoint=None if directory is None else directory / files.CHECKPOINT,
            progress=progress,
        )
    with recentred(whole, transfer, centre):
        last = None if test is None else whole.evaluate(test)
    whole.load_state_dict(best)
    if centre is not None:
        recentre(whole, transfer, centre)
    final = None if test is None else whole.evaluate(test)
    whole.cpu().eval()
    return Run(
        student=whole,
        accuracy=None if final is None else final.accuracy,
        accuracy_last=None if last is None else last.accuracy,
        validation=state.best,
        top5=None if final is None else final.top5,
        calibration_error=None if final is None else final.calibration_error,
        agreement=_agreement(whole, transfer),
        best_epoch=state.best_epoch,
        epochs=state.epoch,
        steps=state.steps,
        images_seen=state.images,
        seconds=round(state.seconds, 3),
        accounts=Accounts(**record["accounts"]) if record else transfer.accounts,
        bill=Bill.from_dict(record.get("bill", {})) if record else transfer.bill,
        history=state.history,
        measured=_measured(whole, task),
        directory=directory,
        teacher_accuracy=accuracy,
        teacher_inputs=0 if accuracy is None else len(transfer),
    )


def teach(
    model: nn.Module | str,
    pool: Pool,
    *,
    validation: Pool,
    test: Pool | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    **others: Any,
) -> Run:
    """Train a teacher on labels by plain cross-entropy, which keeps the scale of logits that students match.

    Arguments are those of `distill`. In `out`, a card (README.md) says how the teacher was made.
    """
    run = distill(
        model,
        TransferSet(pool, {}),
        "ce",
        validation=validation,
        test=test,
        seed=seed,
        out=out,
        weights=TEACHER,
        **others,
    )
    if run.directory is not None:
        path, card = run.directory / CARD, _card(files.read_run(run.directory), len(pool)).encode()
        parallel.first(lambda: None if path.exists() else files.write(path, card))  # people add to it
    return run


def _card(record: dict[str, Any], examples: int) -> str:
    settings, results = record["settings"], record["results"]
    model = settings["student"]["name"] if isinstance(settings["student"], dict) else settings["student"]
    lines = [f"# Teacher {model}", "", f"Trained on {examples} labelled examples by plain cross-entropy.", ""]
    rows = {k: v for k, v in results.items() if v is not None} | {k: v for k, v in settings.items() if v is not None}
    lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    lines += ["", f"Made with {', '.join(f'{k} {v}' for k, v in record['versions'].items())}.", ""]
    lines += [f"Weights and preprocessing: `{TEACHER}`; `tuition.load(folder)` gives the model back.", ""]
    return "\n".join(lines)


def _write(run: Run, objective: Objective, directory: Path, record: dict[str, Any], weights: str) -> None:
    """The run's files. run.json says that the others are complete; what is drawn comes after it and changes nothing."""
    models.save_weights(run.student, directory / weights)
    if objective.state_dict():  # projectors, memories, variances
        models.save_weights(objective, directory / OBJECTIVE)
    files.write_rows(directory / files.METRICS, run.history)
    files.write_json(
        directory / files.RUN,
        record
        | {
            "status": "done",
            "results": run.results(),
            "measured": run.measured,
            "student": run.student.card() | {"weights": weights},
            "versions": versions(),
        },
    )
    files.finish(directory)
    _draw(run, directory)


def _draw(run: Run, directory: Path) -> None:
    from tuition.training.curves import try_to_draw

    path = directory / files.CURVES
    if run.history and not path.exists():
        try_to_draw(run.history, path)


def _reopen(directory: Path, record: dict[str, Any], student: Student) -> Run:
    """The finished run that a folder holds, as `distill` returned it."""
    import csv

    with (directory / files.METRICS).open(newline="") as file:
        history = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    return Run(
        student=load(directory, model=student.model, preprocess=student.preprocess),
        accounts=Accounts(**record["accounts"]),
        bill=Bill.from_dict(record.get("bill", {})),
        history=history,
        directory=directory,
        measured=record.get("measured", {}),
        **record["results"],
    )


def versions() -> dict[str, str]:
    """What made a run."""
    return {
        "tuition": metadata.version("tuition"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _measured(student: Student, task: _Task) -> dict[str, str]:
    """On what each figure was measured."""
    found = {}
    if student.output in task.transfer.responses:
        found["agreement"] = f"the {len(task.transfer):,} inputs of the transfer set"
    if isinstance(task.validation, TransferSet):
        found["validation"] = f"agreement with the teacher on {len(task.validation):,} further inputs"
    elif task.validation is not None:
        found["validation"] = f"accuracy on {len(task.validation):,} labelled inputs"
    if task.test is not None:
        found["accuracy"] = f"the {len(task.test):,} inputs of {task.test.name}"
    return found


def _validator(
    whole: Student, validation: Pool | TransferSet, transfer: TransferSet, centre: Tensor | None
) -> Callable[[Student], float]:
    """Top-1 on labels, or agreement with the teacher's answers, in percent, of the student recentred if need be.

    Of several processes each looks at its share, and all come to the same figure.
    """
    pool = validation.pool if isinstance(validation, TransferSet) else validation
    wanted = validation.responses[whole.output] if isinstance(validation, TransferSet) else pool.labels
    assert wanted is not None
    device = next(whole.parameters()).device
    mine = torch.arange(len(pool)).tensor_split(parallel.count())[parallel.rank()]
    inputs = whole.read(pool)[mine].to(device) if pool.in_memory else pool[mine]
    wanted = wanted.to(device)

    def validate(student: Student) -> float:
        with recentred(student, transfer, centre), torch.inference_mode():
            outputs = parallel.gather(student.outputs(inputs).to(device), mine.to(device), len(pool))
        if isinstance(validation, TransferSet):
            return evaluation.agreement(outputs, wanted, student.output)
        return evaluation.percent(outputs.argmax(dim=1) == wanted)

    return validate


def _agreement(student: Student, transfer: TransferSet) -> float | None:
    answers = transfer.responses.get(student.output)
    return None if answers is None else evaluation.agreement(student.outputs(transfer.pool), answers, student.output)


def _digest(data: Pool | TransferSet) -> str:
    """Identity of what a run learns from or is measured on: contents, labels, responses, in their order."""
    pool = data.pool if isinstance(data, TransferSet) else data
    tensors = {} if pool.labels is None else {"labels": pool.labels}
    if isinstance(data, TransferSet):
        tensors |= data.responses
    return _tensors_digest(tensors, b"".join(pool.digests))


def _module_digest(model: nn.Module, preprocess: nn.Module | None) -> str:
    """Identity of a student that was given as a module: its state, what stands beside it, and its structure."""
    tensors, lines = dict(model.state_dict()), []
    for part, root in (("", model), ("preprocess ", preprocess)):
        if root is None:
            continue
        if part:
            tensors |= {f"{part}{name}": value for name, value in root.state_dict().items()}
        tensors |= {f"{part}{name} buffer": value for name, value in root.named_buffers()}
        lines.append(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(root)))
        for path, module in root.named_modules():
            tensors |= {f"{part}{path}.{k} plain": v for k, v in vars(module).items() if isinstance(v, Tensor)}
            hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
            lines += [f"{path} {getattr(hook, '__qualname__', type(hook).__name__)}" for hook in hooks]
    return _tensors_digest(tensors, "\n".join(lines).encode())


def _tensors_digest(tensors: Mapping[str, Tensor], also: bytes = b"") -> str:
    total = hashlib.sha256(also)
    for name, value in sorted(tensors.items()):
        total.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()[:32]
