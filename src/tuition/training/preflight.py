"""Whether student, method, data, teacher and folder fit together, found out before a call is paid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tuition import models
from tuition.data import Pool, TransferSet, classes
from tuition.data.pool import BLOCK
from tuition.errors import UserError
from tuition.identity import code_digest
from tuition.training import files, methods, trial_step
from tuition.training.objective import Objective
from tuition.training.settings import TrainSettings, usual
from tuition.training.student import Output, Student


def check(
    student: nn.Module | str,
    pool: Pool,
    objective: str | Objective,
    *,
    answer: Mapping[str, Tensor] | None,
    test: Pool | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    options: dict[str, Any] | None = None,
    described: dict[str, Any] | None = None,
    **settings: Any,
) -> None:
    """Find out whether a student, a method and a folder fit a pool and a teacher, before the teacher is asked.

    Args:
        answer: what a local teacher returns for one blank input; None if it cannot be known before a call is paid.
        others: as `distill` takes them.

    Raises:
        UserError: what `distill` would say.
    """
    chosen = TrainSettings.of(usual(settings, pool.kind == "texts"))
    device = pick_device(chosen.device)
    options = methods.checked(objective, options or {}) if isinstance(objective, str) else options
    known = {"logits": torch.zeros(1, pool.num_classes or 2)} if answer is None else answer
    transfer = TransferSet(pool, {name: value.expand(len(pool), *value.shape[1:]) for name, value in known.items()})
    check_responses(transfer)
    transfer = labelled(transfer, chosen.teacher_labels)
    count = count_classes(transfer, pool, None if answer is None else test)
    if answer is not None or pool.class_names is not None:
        test_in_order(test, transfer, count)
    whole = build_student(student, pool, count, None, seed, learned(transfer))
    check_evaluation(whole, test)
    if whole.reads_text:
        whole.read(pool)  # no text of it is empty
    tried, name = (objective, options), objective
    if isinstance(objective, str) and set(methods.teacher_layers(objective, whole.model, options)) - set(known):
        tried = "mse", None  # a remote teacher's feature maps are seen when they arrive
    else:
        _, name = build_objective(objective, whole, transfer[:4], count, options, seed)
    try_out(whole, tried[0], transfer, chosen, count, tried[1], seed, device)
    if out is not None:
        wanted = recorded_settings(str(name), options, whole, seed, chosen, described)
        if answer is None:
            del wanted["student"]  # its number of classes may be known better
        if files.find_run(Path(out), wanted) is None:
            files.check_writable(Path(out))


def try_out(
    whole: Student,
    objective: str | Objective,
    transfer: TransferSet,
    chosen: TrainSettings,
    num_classes: int,
    options: dict[str, Any] | None,
    seed: int,
    device: torch.device,
) -> None:
    """One step of the training, on copies; see `trial_step.attempt`."""

    def build(student: Student, few: TransferSet) -> Objective:
        return build_objective(objective, student, few, num_classes, options, seed)[0]

    trial_step.attempt(whole, build, transfer, chosen, num_classes, device)


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


def labelled(transfer: TransferSet, teacher_labels: bool) -> TransferSet:
    """The transfer set; on request, and where it has no labels, with the teacher's hard answers in their place."""
    if transfer.labels is not None or not teacher_labels:
        return transfer
    if "logits" not in transfer.responses:
        raise UserError("teacher_labels needs a teacher that answers with logits.")
    return replace(transfer, pool=replace(transfer.pool, labels=transfer.responses["logits"].argmax(dim=1)))


def learned(transfer: TransferSet) -> Output:
    """What the student answers with: classes, unless there are but embeddings to learn from."""
    classes = transfer.labels is not None or "logits" in transfer.responses or "embedding" not in transfer.responses
    return "logits" if classes else "embedding"


def count_classes(transfer: TransferSet, *others: Pool | TransferSet | None) -> int:
    """The number of classes of the task: of the teacher's logits, else as the data names; of embeddings, columns.

    Raises:
        UserError: the teacher answers with another number of classes than the data has, or there are none.
    """
    if learned(transfer) == "embedding":
        return transfer.responses["embedding"].shape[1]
    logits, pool = transfer.responses.get("logits"), transfer.pool
    counted = pool.class_names is None or classes.only_count(pool.class_names)
    if logits is None and counted:  # such names are made up for the highest label seen, and another pool may go further
        pools = [p.pool if isinstance(p, TransferSet) else p for p in (transfer, *others) if p is not None]
        highest = max((p.num_classes or 0 for p in pools), default=0)
        if highest == 0:
            raise UserError("there is nothing to learn from: neither labels nor a teacher's logits.")
        return highest
    known = pool.num_classes or 0
    if logits is None:
        return known
    check_width(logits)
    width = logits.shape[1]
    if width < known or (width != known and not counted):
        raise UserError(
            f"the teacher answers with {width} classes, but the data has {known}; use a teacher of this data."
        )
    return width


def check_width(logits: Tensor) -> None:
    """Refuse logits that are not (n, k) of at least two classes: the softmax of one column is always 1."""
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise UserError(
            "the teacher answers with logits of one column, which cannot tell classes apart; answer yes or no with two "
            'columns (0, x), and a number as an "embedding".'
        )


def in_order(pool: Pool | None, transfer: TransferSet, num_classes: int) -> Pool | None:
    """A pool to measure on, with its labels in the order of the classes that the transfer set teaches.

    Raises:
        UserError: it has labels of classes that the transfer set has not.
    """
    if pool is None or pool.labels is None or learned(transfer) == "embedding":
        return pool
    return pool.in_classes(task_names(transfer.pool, num_classes) or classes.numbers(num_classes))


def test_in_order(test: Pool | None, transfer: TransferSet, num_classes: int) -> Pool | None:
    """As `in_order`, of the inputs to evaluate on, which may be left out."""
    try:
        return in_order(test, transfer, num_classes)
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')} (or evaluate nothing: --set test=null).") from error


def further_in_order(further: TransferSet, transfer: TransferSet, num_classes: int) -> TransferSet:
    """Further answers, with the columns of their logits in the order of the classes that the transfer set teaches."""
    logits, own, names = (
        further.responses.get("logits"),
        further.pool.class_names,
        task_names(transfer.pool, num_classes),
    )
    if logits is None or own is None or names is None or own == names or not classes.comparable(own, names):
        return further
    found = classes.match(names, own)
    if not found.same:
        raise UserError("the answers to validate on are of other classes; ask the same teacher for them.")
    return replace(
        further, pool=further.pool.in_classes(names), responses=further.responses | {"logits": logits[:, found.columns]}
    )


def task_names(pool: Pool, num_classes: int) -> tuple[str, ...] | None:
    """The names of the classes that a student of this pool learns; None where they are not known."""
    names = pool.class_names
    if names is not None and len(names) != num_classes:
        return classes.numbers(num_classes) if classes.only_count(names) else None
    return names


def build_student(
    model: nn.Module | str,
    pool: Pool,
    num_classes: int,
    preprocess: nn.Module | None,
    seed: int,
    output: Output = "logits",
) -> Student:
    """The student with its preprocessing, found to read the pool's inputs and to answer with enough classes.

    Embeddings may be of another width than the teacher's.
    """
    if isinstance(model, str):
        channels = pool.shape[0] if pool.kind != "texts" else 1
        model = models.create(model, num_classes=num_classes, in_channels=channels, seed=seed)
    if preprocess is None:
        preprocess = usual_preprocess(model, pool)
    if pool.kind == "texts" and not isinstance(preprocess, models.Hashing):
        raise UserError("this preprocessing is of images or vectors; give texts a models.Hashing.")
    first = pool[:2]
    sample = preprocess(first.asked()) if isinstance(preprocess, models.Hashing) else first.asked_tensor()
    model = models.copied(model)
    try:
        models.initialise(model, preprocess, sample, seed)
        student = Student(
            model,
            preprocess,
            input_shape=tuple(sample.shape[1:]),
            class_names=task_names(pool, num_classes) if output == "logits" else None,
            crop=pool.crop,
            output=output,
        ).eval()
        device = next((value.device for value in student.parameters()), torch.device("cpu"))
        with torch.no_grad():
            logits = student(sample.to(device))
            alone = student(sample[:1].to(device))
    except UserError:
        raise
    except Exception as error:  # whatever the model's own code raises
        raise UserError(
            f"the student cannot read inputs of shape {tuple(sample.shape[1:])} ({models.first_line(error)}); build it "
            "for them."
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise UserError(f"the student must return {output} of shape (n, {'classes' if output == 'logits' else 'd'}).")
    if not isinstance(alone, Tensor) or alone.shape != (1, logits.shape[1]):
        raise UserError(
            "the student drops the first dimension of a single input; let it return (1, k) then, without squeeze."
        )
    if output == "logits" and logits.shape[1] != num_classes:
        raise UserError(
            f"the student answers with {logits.shape[1]} classes, but the task has {num_classes}; build it for them."
        )
    return student


def usual_preprocess(model: nn.Module, pool: Pool) -> nn.Module:
    """Where none is given: the channels' mean and std; of texts, the hashing that the model is made for."""
    hashing = getattr(model, "hashing", None)
    if pool.kind != "texts":
        if hashing is not None:
            raise UserError(
                "this student reads text, and the inputs are images or vectors; use another, such as cnn_8."
            )
        return models.Preprocess.fit(pool.inputs)
    if not isinstance(hashing, models.Hashing):
        raise UserError("this student reads images or vectors, and the inputs are text; use another, such as bag_64.")
    return hashing


def build_objective(
    objective: str | Objective,
    student: Student,
    transfer: TransferSet,
    num_classes: int,
    options: dict[str, Any] | None,
    seed: int,
) -> tuple[Objective, str]:
    """The objective and its name."""
    if isinstance(objective, str):
        with torch.no_grad():
            example = student.preprocess(student.read(transfer.pool[:2]))
        task = methods.Task(transfer.labels, transfer.responses, num_classes, seed, student.model, example)
        return methods.create(objective, task, options), objective
    if options:
        raise UserError("options are settings of a method given by name; an Objective has its own.")
    # Not copied, for its terms would go on calling the modules it was made with.
    return objective, " + ".join(f"{term.weight:g} {term.name}({term.reads})" for term in objective.terms)


def recorded_settings(
    method: str,
    options: dict[str, Any] | None,
    student: Student,
    seed: int,
    chosen: TrainSettings,
    described: dict[str, Any] | None,
) -> dict[str, Any]:
    """What a run records, and compares when it is continued."""
    return {
        "method": method,
        "options": options or {},
        "student": getattr(student.model, "recipe", None) or type(student.model).__name__,
        "seed": seed,
        **chosen.model_dump(),
        **(described or {}),
    }


def own_code(student: Student, objective: Objective, given: bool) -> str | None:
    """Digest of the user's own code in a run: of the student, and of the loss; None where there is none.

    An objective that is `given`, not named, counts by all that its terms hold too, but not by the state they train.
    """
    parts = [(term.name, term.weight, term.reads, term.loss) for term in objective.terms]
    others = (objective.mix, objective.groups, objective.groups_drawn, objective.recentre)
    loss = code_digest(type(objective), parts, others, but=objective.state, always=given)
    model = code_digest(student.model, student.preprocess)
    return None if loss is None and model is None else f"student {model}, loss {loss}"


def check_responses(transfer: TransferSet) -> None:
    """Refuse responses of another number of rows than the inputs, and those with NaN or infinity."""
    for name, value in transfer.responses.items():
        if len(value) != len(transfer):
            raise UserError(f"there are {len(transfer)} inputs but {len(value)} responses {name!r}; give one an input.")
        if not all(bool(part.isfinite().all()) for part in value.split(BLOCK)):
            raise UserError(f"the teacher's {name} hold NaN or infinity; mend the teacher, or leave such inputs out.")


def check_evaluation(student: Student, *pools: Pool | TransferSet | None) -> None:
    """Refuse pools to evaluate on that have no labels or answers, or inputs that the student cannot read."""
    for pool in pools:
        if isinstance(pool, Pool) and student.output == "embedding":
            raise UserError(
                "a student of embeddings is validated on further answers of the teacher, a transfer set, and has no "
                "accuracy to test; leave the labelled inputs out (test: null)."
            )
        if isinstance(pool, Pool) and pool.labels is None:
            raise UserError(f"{pool.name} has no labels to evaluate by; give labelled inputs, or none.")
        if isinstance(pool, TransferSet) and student.output not in pool.responses:
            raise UserError(f"the answers to validate on have no {student.output}; ask the same teacher for them.")
        if pool is not None:
            student.outputs((pool.pool if isinstance(pool, TransferSet) else pool)[:1])
