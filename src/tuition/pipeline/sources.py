"""The inputs that settings name: what is asked about, validated on and tested on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from tuition import data
from tuition.data import Pool
from tuition.data.classes import numbers
from tuition.errors import UserError
from tuition.pipeline.settings import (
    AskSettings,
    Columns,
    DataSettings,
)
from tuition.store.class_columns import local_width, match_classes
from tuition.teachers import Teacher
from tuition.training import load


@lru_cache(maxsize=4)
def load_data(name: str, split: str, size: int | None = None, columns: Columns = Columns()) -> Pool:  # noqa: B008
    return data.load(
        name,
        split=split,
        size=size,
        text_column=columns.text,
        label_column=columns.label,
        image_column=columns.image,
    )


def train_columns(settings: AskSettings) -> Columns:
    """The columns of what is asked about: labels only if somebody wants them."""
    wanted = settings.labels or settings.select == "stratified"
    return settings.columns if wanted else settings.columns._replace(label=None)


def test_data(settings: DataSettings) -> Pool | None:
    """The labelled inputs to evaluate on.

    Raises:
        UserError: the data has no such split, or no labels in it.
    """
    if settings.test is None:
        return None
    try:
        pool = load_data(settings.data, settings.test, settings.size, settings.columns)
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')} (or --set test=null, to evaluate nothing).") from error
    if pool.labels is None:
        raise UserError(f"{pool.name} has no labels to evaluate by; evaluate nothing with --set test=null.")
    return pool


def draw(pool: Pool, settings: AskSettings) -> tuple[Tensor, Tensor]:
    """Rows to ask about, and a fourth as many for validation, disjoint (the paper's 80 and 20 %).

    Both are nested when drawn at random: of one seed, a draw of more calls holds every smaller one.
    """
    held_out = -(-settings.calls // 4)
    if settings.calls + held_out > len(pool):
        raise UserError(
            f"{settings.calls} calls and {held_out} inputs for validation do not fit in the {len(pool)} of "
            f"{pool.name}; choose at most {len(pool) * 4 // 5} calls."
        )
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(settings.seed))
    validation = order[len(pool) - held_out :]
    if settings.select == "random":
        return order[: settings.calls], validation
    rest = order[: len(pool) - held_out]
    features = None
    if settings.features is not None:
        features = load(settings.features, trust_code=settings.trust_code).features(pool[rest])
    chosen = data.select(pool[rest], settings.calls, method=settings.select, features=features, seed=settings.seed)
    return rest[chosen], validation


@dataclass(frozen=True)
class Question:
    """What is to be asked, before it is: `inputs` are the transfer set's, then those to validate on without labels."""

    inputs: Pool
    calls: int
    validation: Pool | None


def question(settings: AskSettings, teacher: Teacher | None = None) -> Question:
    """The inputs that these settings ask about, as this teacher answers them.

    Raises:
        UserError: the teacher's classes, as far as they are known, are not those of the data.
    """
    pool = load_data(settings.data, "train", settings.size, train_columns(settings))
    rows, held_out = draw(pool, settings)
    labelled = settings.labels and pool.labels is not None
    if not labelled:
        # Validation measures agreement with the teacher, which takes further answers.
        rows = torch.cat([rows, held_out])
    # Views are drawn for the whole pool, so that they are nested as the rows are.
    viewed = pool.view(pool.augment, seed=settings.seed) if settings.view == "random" else pool
    inputs = viewed[rows] if labelled else viewed[rows].without_labels
    validation = pool[held_out] if labelled else None
    if teacher is not None:
        names = teacher.class_names
        if settings.classes == "teacher" and labelled:
            width = local_width(teacher, inputs)
            if names is None and width is None:
                raise UserError("this teacher does not name its classes; give class_names=, or drop classes: teacher.")
            names = names if names is not None else numbers(width or 0)
            inputs, validation = (part.in_classes(names, "the teacher") for part in (inputs, pool[held_out]))
        inputs = match_classes(teacher, inputs).pool
    return Question(inputs, settings.calls, validation)
