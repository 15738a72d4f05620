"""Whether student, method, data, teacher and folder fit together, known before a call is paid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tuition import models
from tuition.data import Pool, TransferSet
from tuition.data.pool import BLOCK
from tuition.errors import UserError, first_line
from tuition.training import files, methods, published, trial_step
from tuition.training.objective import Objective
from tuition.training.run_identity import recorded_settings
from tuition.training.settings import TrainSettings, optimizer_defaults
from tuition.training.setup import Setup
from tuition.training.student import Output, Student, load
from tuition.training.task_classes import (
    answers_for,
    count_classes,
    further_in_order,
    in_order,
    labelled,
    learned,
    softened,
    task_names,
    test_in_order,
)
from tuition.training.unasked import check_nearness, fitted, refuse_maps, with_average


def set_up(
    model: nn.Module | str,
    transfer: TransferSet,
    objective: str | Objective | Callable[..., Any],
    *,
    options: Mapping[str, Any] | None,
    validation: Pool | TransferSet | None = None,
    test: Pool | None = None,
    unasked: Pool | None = None,
    nearness: Tensor | None = None,
    preprocess: nn.Module | None = None,
    start: models.Start | None = None,
    seed: int,
    settings: TrainSettings,
) -> Setup:
    """Make the parts of a training fit each other, and try them for one step on copies.

    Raises:
        UserError: what does not fit.
    """
    method = methods.of(objective)
    options = method.checked(options or {})
    check_responses(transfer)
    accuracy = transfer.teacher_accuracy
    transfer = softened(labelled(transfer, settings.teacher_labels), settings.smoothing)
    num_classes = count_classes(transfer, validation, test)
    if isinstance(validation, TransferSet):
        validation = further_in_order(validation, transfer, num_classes)
    else:
        validation = in_order(validation, transfer, num_classes)
    test = test_in_order(test, transfer, num_classes)
    if settings.mean is not None and settings.std is not None:
        preprocess = models.Preprocess(settings.mean, settings.std)
    student = build_student(model, transfer.pool, num_classes, preprocess, seed, learned(transfer), start)
    check_evaluation(student, validation, test)
    device = pick_device(settings.device)
    if settings.precision == "fp16" and device.type != "cuda":
        raise UserError(f"fp16 needs a CUDA device, and this training runs on {device.type}; use precision: bf16.")
    if unasked is not None:
        settings = with_average(settings)
        unasked = fitted(unasked, transfer.pool, student, method)
    check_nearness(nearness, unasked, transfer)
    setup = Setup(
        student=student,
        method=method,
        options=options,
        transfer=transfer,
        validation=validation,
        test=test,
        num_classes=num_classes,
        settings=settings,
        seed=seed,
        device=device,
        teacher_accuracy=accuracy,
        is_module=not isinstance(model, str) or models.fine_tunes(model, start),
        unasked=unasked,
        nearness=nearness,
    )
    trial_step.attempt(setup)
    return setup


def train_settings(
    settings: TrainSettings | None, changes: dict[str, Any], student: nn.Module | str, reads_text: bool
) -> TrainSettings:
    """The settings of a training: those that were set in `settings`, then `changes`, then the defaults."""
    if settings is not None and not isinstance(settings, TrainSettings):
        raise UserError(f"settings is a TrainSettings, not a {type(settings).__name__}; pass TrainSettings(epochs=30).")
    values = {} if settings is None else settings.model_dump(exclude_unset=True)
    return TrainSettings.of(optimizer_defaults(values | changes, student, reads_text))


def check(
    student: nn.Module | str,
    pool: Pool,
    objective: str | Objective | Callable[..., Any],
    *,
    answer: Mapping[str, Tensor] | None,
    validation: Pool | TransferSet | None = None,
    test: Pool | None = None,
    unasked: Pool | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    options: dict[str, Any] | None = None,
    described: dict[str, Any] | None = None,
    start: models.Start | None = None,
    settings: TrainSettings | None = None,
    **changes: Any,
) -> None:
    """Find out whether a student, a method and a folder fit a pool and a teacher, before the teacher is asked.

    The arguments that are not listed are those of `distill`.

    Args:
        answer: what a local teacher returns for one blank input; None if it cannot be known before a call is paid.

    Raises:
        UserError: what `distill` would say.
    """
    chosen = train_settings(settings, changes, student, pool.kind == "texts")
    known = {"logits": torch.zeros(1, pool.num_classes or 2)} if answer is None else answer
    transfer = TransferSet(pool, {name: value.expand(len(pool), *value.shape[1:]) for name, value in known.items()})
    method, tried = methods.of(objective), objective
    options = method.checked(options or {})
    if unasked is not None:
        refuse_maps(method)
    if set(method.teacher_layers(student, options)) - set(known):
        tried = "mse"  # a remote teacher's feature maps are seen when they arrive
    ordered = answer is not None or pool.class_names is not None  # otherwise the classes are not known yet
    setup = set_up(
        student,
        transfer,
        tried,
        options=options if tried is objective else None,
        validation=validation if ordered else None,
        test=test if ordered else None,
        unasked=unasked,
        seed=seed,
        start=start,
        settings=chosen,
    )
    check_evaluation(setup.student, validation, test)
    if setup.student.reads_text:
        setup.student.read(pool)  # no text of it is empty
    if out is not None:
        recorded = recorded_settings(replace(setup, method=method, options=options), described)
        if answer is None:
            del recorded["student"]  # its number of classes may be known better
        if files.find_run(Path(out), recorded) is None:
            files.check_writable(Path(out))


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is CUDA, else Apple's MPS, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(f"the device {name!r} is not available; use device: auto or cpu.") from None
    return device


def build_student(
    model: nn.Module | str,
    pool: Pool,
    num_classes: int,
    preprocess: nn.Module | None,
    seed: int,
    output: Output = "logits",
    start: models.Start | None = None,
) -> Student:
    """The student with its preprocessing, once it has read inputs of the pool and answered with enough classes.

    Embeddings may be of another width than the teacher's.
    """
    recipe: dict[str, Any] | None = None
    if isinstance(model, str):
        made = make_model(model, pool, num_classes, seed, start or models.Start())
        model, recipe, preprocess = made.model, made.recipe, preprocess or made.preprocess
    elif isinstance(model, models.NamedModel):
        preprocess = preprocess or model.own_preprocess()
    if preprocess is None:
        preprocess = default_preprocess(pool)
    if pool.kind != "texts" and isinstance(preprocess, models.TextReader):
        raise UserError("this student reads text, and the inputs are images or vectors; use another, such as cnn_8.")
    if pool.kind == "texts" and not isinstance(preprocess, models.TextReader):
        raise UserError("this preprocessing is of images or vectors; give texts a models.TextReader.")
    first = pool[:2]
    sample = preprocess(first.asked()) if isinstance(preprocess, models.TextReader) else first.asked_tensor()
    model = models.copied(model)
    try:
        models.initialise(model, preprocess, sample, seed)
        student = Student(
            model,
            preprocess,
            input_shape=tuple(sample.shape[1:]),
            class_names=task_names(pool, num_classes) if output == "logits" else None,
            crop=pool.crop,
            image_size=(pool.shape[1], pool.shape[2]) if pool.kind == "images" else None,
            output=output,
            recipe=recipe,
        ).eval()
        device = next((value.device for value in student.parameters()), torch.device("cpu"))
        with torch.no_grad():
            logits = student(sample.to(device))
            alone = student(sample[:1].to(device))
    except UserError:
        raise
    except Exception as error:  # whatever the model's own code raises
        raise UserError(
            f"the student cannot read inputs of shape {tuple(sample.shape[1:])} ({first_line(error)}); build it "
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


def make_model(name: str, pool: Pool, num_classes: int, seed: int, start: models.Start) -> models.Made:
    """The model of this name, or that of a finished run."""
    if not published.is_run(name):
        channels = pool.shape[0] if pool.kind != "texts" else 1
        return models.make(name, num_classes=num_classes, in_channels=channels, seed=seed, start=start)
    earlier = load(name, trust_code=start.trust_code)
    recipe = earlier.recipe
    if recipe is not None:
        recipe = recipe | {"num_classes": num_classes}
    return models.Made(models.with_head(earlier.model, num_classes, seed), earlier.preprocess, recipe)


def default_preprocess(pool: Pool) -> nn.Module:
    """The channels' mean and std, for a model without preprocessing of its own."""
    if pool.kind == "texts":
        raise UserError("this student reads images or vectors, and the inputs are text; use another, such as bag_64.")
    return models.Preprocess.fit(pool.inputs)


def check_responses(transfer: TransferSet) -> None:
    """Refuse responses of another number of rows than the inputs, and those with NaN or infinity."""
    for name, value in transfer.responses.items():
        if len(value) != len(transfer):
            raise UserError(f"there are {len(transfer)} inputs but {len(value)} responses {name!r}; give one an input.")
        if not all(bool(part.isfinite().all()) for part in value.split(BLOCK)):
            raise UserError(f"the teacher's {name} hold NaN or infinity; fix the teacher, or leave such inputs out.")


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
        if isinstance(pool, TransferSet) and answers_for(student.output, pool.responses) is None:
            raise UserError(f"the answers to validate on have no {student.output}; ask the same teacher for them.")
        if pool is not None:
            student.outputs((pool.pool if isinstance(pool, TransferSet) else pool)[:1])
