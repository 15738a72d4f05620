"""What is known to be wrong before a call is paid."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from tuition.data import Pool
from tuition.errors import UserError
from tuition.pipeline.settings import (
    AskSettings,
    DistillSettings,
    described,
)
from tuition.pipeline.sources import load_data, question, test_data, train_columns
from tuition.pipeline.teacher import named_teacher
from tuition.store import BudgetError, address
from tuition.store.class_columns import match_classes
from tuition.teachers import NotCharged, Teacher
from tuition.training import TrainSettings, check
from tuition.training.methods import teacher_layers
from tuition.training.task_classes import check_width


def preflight(settings: DistillSettings, out: Path | None) -> Teacher:
    """The teacher, once everything is known to fit that can be known before a call is paid."""
    teacher = named_teacher(settings)
    load_data(settings.data, "train", settings.size, train_columns(settings))
    test_data(settings)  # a split that is missing is told before classes that differ
    pool = question(settings, teacher).inputs
    if settings.log_dir is not None:
        from tuition.training import tensorboard

        tensorboard.check(settings.log_dir)
    if not teacher.local:
        check_answer(teacher, pool)
    check_fit(settings, teacher, pool, out, blank_answer(teacher, settings, pool))
    return teacher


def check_fit(
    settings: DistillSettings, teacher: Teacher, pool: Pool, out: Path | None, answer: Mapping[str, Tensor] | None
) -> None:
    """Refuse what does not fit the teacher's answer to one input; None if that is not known yet."""
    check(
        settings.student,
        pool,
        settings.method,
        answer=answer,
        test=test_data(settings),
        seed=settings.seed,
        out=out,
        options=settings.options,
        described=described(settings, teacher.name, teacher.fingerprint),
        **settings.model_dump(include=set(TrainSettings.model_fields)),
    )


def check_budget(settings: AskSettings, inputs: Pool) -> None:
    """Refuse what does not fit in the budget before a store is made for it; one that is there says so itself."""
    new = len(set(inputs.digests))
    if settings.budget is not None and new > settings.budget and not address.exists(settings.store):
        raise BudgetError(
            f"{new} new calls do not fit in the budget of {settings.budget}; nothing was asked, raise the budget to "
            f"{new} or ask about less."
        )


def check_answer(teacher: Teacher, pool: Pool) -> None:
    """Find out what is wrong with a teacher before a call is paid; with a local one as `try_blank`.

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


def blank_answer(teacher: Teacher, settings: DistillSettings, pool: Pool) -> Mapping[str, Tensor] | None:
    """A local teacher's answer to a blank input, with the maps that are needed; a remote one would be paid for it."""
    if not teacher.local:
        return None
    layers = teacher_layers(settings.method, settings.student, settings.options)
    return try_blank(teacher.with_layers(layers), pool, 1)


def try_blank(teacher: Teacher, pool: Pool, count: int) -> Mapping[str, Tensor]:
    """What a local teacher says to blank inputs, or to a text of the pool.

    Raises:
        UserError: it cannot read such inputs, or its answers are not what a pool like this needs.
    """
    try:
        answer = teacher(pool.blank(count))
    except NotCharged as error:
        why = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"the teacher cannot answer inputs of {pool.name} ({why}); use a teacher of such data."
        ) from error
    vectors = answer.get("logits", answer.get("embedding"))
    if vectors is None or vectors.ndim != 2:
        raise UserError(
            "the teacher must return logits of shape (n, classes), or an embedding (n, width); wrap it in a module "
            "that does."
        )
    if not bool(vectors.isfinite().all()):
        raise UserError("the teacher answers a blank input with NaN or infinity; mend it before asking.")
    if "logits" in answer:
        check_width(vectors)
        match_classes(teacher, pool, width=vectors.shape[1])
    return answer
