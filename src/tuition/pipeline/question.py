"""The inputs that a teacher is asked about, and those held out to validate on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tuition.data import Pool, select
from tuition.data.classes import numbers
from tuition.errors import UserError
from tuition.pipeline.settings import Asking, AskSettings
from tuition.pipeline.sources import Sources
from tuition.store.class_columns import local_width, match_classes
from tuition.teachers import Teacher
from tuition.training import load


def draw(pool: Pool, ask: AskSettings, seed: int, *, validates: bool = True) -> tuple[Tensor, Tensor]:
    """Rows to ask about, and, if it `validates`, a fourth as many for that, disjoint (the paper's 80 and 20 %).

    Both are nested when drawn at random: of one seed, a draw of more calls holds every smaller one.
    """
    held_out = -(-ask.calls // 4) if validates else 0
    most = len(pool) * 4 // 5 if validates else len(pool)
    if ask.calls + held_out > len(pool):
        raise UserError(
            f"{ask.calls} calls and {held_out} inputs for validation do not fit in the {len(pool)} of "
            f"{pool.name}; choose at most {most} calls."
        )
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))
    validation = order[len(pool) - held_out :]
    if ask.select == "random":
        return order[: ask.calls], validation
    rest = order[: len(pool) - held_out]
    features = None
    if ask.features is not None:
        features = load(ask.features, trust_code=ask.trust_code).features(pool[rest])
    chosen = select(pool[rest], ask.calls, method=ask.select, features=features, seed=seed)
    return rest[chosen], validation


@dataclass(frozen=True)
class Question:
    """What a teacher is asked: the `calls` inputs of the transfer set and, without labels, those to validate on."""

    inputs: Pool
    calls: int
    validation: Pool | None  # labelled inputs to choose the epoch by


def question_of(settings: Asking, sources: Sources, teacher: Teacher | None = None) -> Question:
    """The inputs that these settings ask about, as this teacher answers them.

    Raises:
        UserError: the teacher's classes, as far as they are known, are not those of the data.
    """
    data, ask = settings.data, settings.ask
    pool = sources.train_pool(settings)
    other = sources.validation_pool(data)
    rows, held_out = draw(pool, ask, data.seed, validates=other is None)
    labelled = ask.labels and pool.labels is not None
    if not labelled:
        # Validation measures agreement with the teacher, which takes further answers.
        rows = torch.cat([rows, held_out])
    # Views are drawn for the whole pool, so that they are nested as the rows are.
    viewed = pool.view(pool.augment, seed=data.seed) if ask.view == "random" else pool
    inputs = viewed[rows] if labelled else viewed[rows].without_labels
    validation = other if other is not None else pool[held_out] if labelled else None
    if teacher is not None:
        names = teacher.class_names
        if ask.classes == "teacher" and labelled:
            width = local_width(teacher, inputs)
            if names is None and width is None:
                raise UserError("this teacher does not name its classes; pass class_names=, or drop classes: teacher.")
            names = names if names is not None else numbers(width or 0)
            inputs = inputs.in_classes(names, "the teacher")
            validation = None if validation is None else validation.in_classes(names, "the teacher")
        inputs = match_classes(teacher, inputs).pool
    return Question(inputs, ask.calls, validation)
