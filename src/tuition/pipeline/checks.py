"""What is known to be wrong before a call is paid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tuition.data import Pool
from tuition.data.transfer import by_class
from tuition.errors import UserError, first_line
from tuition.pipeline import logs
from tuition.pipeline.encoder import check_neighbours
from tuition.pipeline.parts import BY_OUTPUTS
from tuition.pipeline.question import Question, question_of
from tuition.pipeline.settings import Asking, DistillSettings
from tuition.pipeline.sources import Sources
from tuition.pipeline.unasked import unasked_of
from tuition.pipeline.until import check_reachable
from tuition.store import BudgetError, address
from tuition.store.class_columns import match_classes
from tuition.teachers import NotCharged, Teacher
from tuition.training import check
from tuition.training.files import ROUNDS, RUN
from tuition.training.methods import teacher_layers
from tuition.training.task_classes import check_width


@dataclass(frozen=True)
class Checked:
    """What a job needs to ask, loaded and checked."""

    teacher: Teacher
    question: Question
    test: Pool | None = None
    unasked: Pool | None = None


def check_ask(settings: Asking, sources: Sources) -> Checked:
    """Refuse what cannot be asked.

    Raises:
        UserError: a teacher that cannot be asked about these inputs, or a budget that does not suffice.
    """
    teacher = sources.teacher(settings)
    question = question_of(settings, sources, teacher)
    check_answer(teacher, question.inputs)
    check_budget(settings, teacher, question.inputs)
    return Checked(teacher, question)


def check_distill(settings: DistillSettings, out: Path | None, sources: Sources) -> Checked:
    """As `check_ask`; refuse a student, a method and a folder that do not fit, too."""
    teacher = sources.teacher(settings)
    sources.train_pool(settings)
    if out is not None and not settings.in_rounds and (out / ROUNDS).exists() and not (out / RUN).exists():
        raise UserError(f"{out} holds a run that asks in rounds, and is not finished; choose another folder.")
    test = sources.test_pool(settings.data)  # the sentence about a missing split comes before that about classes
    question = question_of(settings, sources, teacher)
    if settings.until is not None:
        own = settings.data.validation is None
        check_reachable(settings.until, question.validates_on, calls=own)
    logs.check(settings)
    answer = None
    if teacher.local:
        layers = teacher_layers(settings.method, settings.student, settings.options)
        answer = try_blank(teacher.with_layers(layers), question.inputs, 1)
    else:
        check_answer(teacher, question.inputs)
        if teacher.hard_labels and teacher.class_names:
            answer = {"votes": torch.eye(len(teacher.class_names))[:1]}
    if settings.paid_mixes and answer is not None and "logits" not in answer:
        raise UserError("paid mixes need a teacher that answers with logits; set paid_mixes: 0.")
    unasked = unasked_of(settings, sources, question.inputs, question.measured, test)
    check_neighbours(settings, question.inputs)
    checked = Checked(teacher, question, test, unasked)
    check_fit(settings, checked, answer, out)
    check_budget(settings, teacher, question.inputs)
    return checked


def check_fit(
    settings: DistillSettings, checked: Checked, answer: Mapping[str, Tensor] | None, out: Path | None = None
) -> None:
    """Refuse what does not fit the teacher's answer to one input; None if that is not known yet."""
    if (
        settings.in_rounds
        and answer is not None
        and checked.question.inputs.labels is None
        and by_class(answer) is None
    ):
        by_classes = [f"select: {settings.ask.select}"] if settings.ask.select in BY_OUTPUTS else []
        by_classes += ["until"] if settings.until is not None else []
        if by_classes:
            raise UserError(
                f"{' and '.join(by_classes)} go by classes, and the answers are embeddings alone; use select: coverage "
                "and a number of rounds."
            )
    check(
        settings.student,
        checked.question.inputs,
        settings.method,
        answer=answer,
        validation=checked.question.validation,
        test=checked.test,
        unasked=checked.unasked,
        seed=settings.data.seed,
        out=out,
        options=settings.options,
        described=described(settings, checked.teacher.name, checked.teacher.fingerprint),
        start=settings.student_start,
        **settings.train.model_dump(),
    )


def described(settings: DistillSettings, teacher_name: str, fingerprint: str) -> dict[str, Any]:
    """What a run records beside the settings of its training; `teacher` is as it was given."""
    training = {"seed", "student", "method", "options", *type(settings.train).model_fields}
    values = {name: value for name, value in settings.flat(free=False).items() if name not in training}
    return values | {"teacher_name": teacher_name, "fingerprint": fingerprint}


def check_budget(settings: Asking, teacher: Teacher, inputs: Pool) -> None:
    """Refuse what does not fit in the budget before a store is made for it; a store that exists does so itself."""
    new, budget = teacher.calls_per_input * len(set(inputs.digests)), settings.ask.budget
    if budget is not None and new > budget and not address.exists(settings.ask.store):
        raise BudgetError(
            f"{new} new calls do not fit in the budget of {budget}; nothing was asked, raise the budget to "
            f"{new} or ask about less."
        )


def check_answer(teacher: Teacher, pool: Pool) -> None:
    """Refuse a teacher that cannot be asked about such inputs, before a call is paid.

    Raises:
        UserError: it cannot be asked about such inputs.
    """
    if teacher.local:
        try_blank(teacher, pool, 1)
    else:
        try:
            teacher.check(pool.blank(1))
        except NotCharged as error:
            raise UserError(f"the teacher cannot be asked about {pool.name}: {error}.") from None


def try_blank(teacher: Teacher, pool: Pool, count: int) -> Mapping[str, Tensor]:
    """The answer of a local teacher to blank inputs, or to a text of the pool.

    Raises:
        UserError: it cannot read such inputs, or its answers are not what a pool like this needs.
    """
    try:
        answer = teacher(pool.blank(count))
    except NotCharged as error:
        raise UserError(
            f"the teacher cannot answer inputs of {pool.name} ({first_line(error)}); use a teacher of such data."
        ) from error
    vectors = answer.get("embedding") if by_class(answer) is None else by_class(answer)
    if vectors is None or vectors.ndim != 2:
        raise UserError(
            "the teacher must return logits of shape (n, classes), or an embedding (n, width); wrap it in a module "
            "that does."
        )
    if not bool(vectors.isfinite().all()):
        raise UserError("the teacher answers a blank input with NaN or infinity; fix it before asking.")
    if by_class(answer) is not None:
        check_width(vectors)
        match_classes(teacher, pool, width=vectors.shape[1])
    return answer
