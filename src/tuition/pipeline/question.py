"""The inputs that a teacher is asked about, and those held out to validate on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tuition.data import Pool, TransferSet, select
from tuition.data.classes import numbers
from tuition.errors import UserError
from tuition.pipeline.encoder import features_of
from tuition.pipeline.parts import AskSettings
from tuition.pipeline.settings import Asking, DistillSettings
from tuition.pipeline.sources import Sources
from tuition.store.class_columns import local_width, match_classes
from tuition.teachers import Teacher

VALIDATES = 500  # labelled inputs that tell whether a target is reached, where they are at most a fifth of the pool


def validation_inputs(settings: Asking, sources: Sources) -> int:
    """How many inputs of the pool are held out to validate on: a fourth of the calls, none where other data is named.

    On the way to a target more are held out, if they have labels and so take no calls.
    """
    pool, ask = sources.train_pool(settings), settings.ask
    if settings.data.validation is not None:
        return 0
    count = -(-ask.calls // 4)
    labelled = ask.labels and pool.labels is not None
    if labelled and isinstance(settings, DistillSettings) and settings.until is not None:
        return max(count, min(VALIDATES, len(pool) // 5))
    return count


def partition(pool: Pool, calls: int, held_out: int, seed: int) -> tuple[Tensor, Tensor]:
    """The rows to choose from in a random order, and `held_out` others to validate on.

    Raises:
        UserError: the pool has too few inputs.
    """
    most = len(pool) * 4 // 5 if held_out else len(pool)
    if calls + held_out > len(pool):
        raise UserError(
            f"{calls} calls and {held_out} inputs for validation do not fit in the {len(pool)} of "
            f"{pool.name}; choose at most {most} calls."
        )
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))
    return order[: len(pool) - held_out], order[len(pool) - held_out :]


def draw(pool: Pool, ask: AskSettings, held_out: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to ask about, and `held_out` others to validate on (the paper's 80 and 20 %).

    Both are nested when drawn at random: of one seed, a draw of more calls holds every smaller one.
    """
    rest, validation = partition(pool, ask.calls, held_out, seed)
    if ask.select == "random":
        return rest[: ask.calls], validation
    chosen = select(pool[rest], ask.calls, method=ask.select, features=features_of(pool[rest], ask), seed=seed)
    return rest[chosen], validation


@dataclass(frozen=True)
class Question:
    """What a teacher is asked: the `calls` inputs of the transfer set and, without labels, those to validate on."""

    inputs: Pool
    calls: int
    validation: Pool | TransferSet | None  # to choose the epoch by: labelled inputs, or answers of an earlier round

    @property
    def measured(self) -> Pool | None:
        """The inputs of `validation`."""
        return self.validation.pool if isinstance(self.validation, TransferSet) else self.validation

    @property
    def validates_on(self) -> int:
        """How many inputs are validated on, if the teacher refuses none."""
        return len(self.inputs) - self.calls if self.validation is None else len(self.validation)


def question_of(settings: Asking, sources: Sources, teacher: Teacher | None = None) -> Question:
    """The inputs that these settings ask about, as this teacher answers them.

    In rounds, random inputs stand for those that will be chosen.

    Raises:
        UserError: the teacher's classes, as far as they are known, are not those of the data.
    """
    ask = settings.ask
    if isinstance(settings, DistillSettings) and settings.in_rounds:
        ask = ask.model_copy(update={"select": "random"})
    count = validation_inputs(settings, sources)
    rows, held_out = draw(sources.train_pool(settings), ask, count, settings.data.seed)
    return question_about(settings, sources, rows, held_out, teacher)


def viewed(settings: Asking, sources: Sources) -> Pool:
    """The pool as it is asked about. Views are drawn for the whole pool, so that they are nested as the rows are."""
    pool = sources.train_pool(settings)
    return pool.view(pool.augment, seed=settings.data.seed) if settings.ask.view == "random" else pool


def question_about(
    settings: Asking, sources: Sources, rows: Tensor, held_out: Tensor, teacher: Teacher | None = None
) -> Question:
    """As `question_of`, about these rows of the pool, with those `held_out` to validate on."""
    data, ask = settings.data, settings.ask
    pool, other, calls = sources.train_pool(settings), sources.validation_pool(data), len(rows)
    labelled = ask.labels and pool.labels is not None
    if not labelled:
        # Validation measures agreement with the teacher, which takes further answers.
        rows = torch.cat([rows, held_out])
    inputs = viewed(settings, sources)[rows]
    inputs = inputs if labelled else inputs.without_labels
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
    return Question(inputs, calls, validation)
