"""A pool's classes and a teacher's: which column of its answers is which class."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from tuition.data.classes import arrange
from tuition.data.pool import Pool
from tuition.data.transfer import by_class
from tuition.errors import UserError, first_line
from tuition.teachers.protocol import NotCharged, Teacher

BLOCK = 65536  # rows that are reordered at a time


@dataclass(frozen=True)
class ClassColumns:
    """A pool with the class names of its answers.

    Attributes:
        columns: the teacher's column of each class; None where these are in the same order.
        names: the teacher's own, None where it names none.
    """

    pool: Pool
    columns: list[int] | None
    names: tuple[str, ...] | None

    @property
    def width(self) -> int | None:
        """The number of columns that answers should have: the teacher's, else those of labels; None if not known."""
        if self.names is not None:
            return len(self.names)
        return None if self.pool.labels is None else self.pool.num_classes

    def check_width(self, width: int) -> None:
        """
        Raises:
            UserError: the teacher, which names no classes, answers with another number of them than the labels have.
        """
        if self.names is None and self.pool.labels is not None:
            arrange(self.pool.class_names, None, width, pool=self.pool.name, labelled=True)

    def responses(self, responses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Responses as read, with the columns of logits in the order of the pool's classes; changed in place."""
        logits = by_class(responses)
        if self.columns is not None and logits is not None:
            if logits.shape[1] != len(self.columns):
                raise UserError(
                    f"the teacher names {len(self.columns)} classes, but answered with logits of {logits.shape[1]}; "
                    "correct its class_names."
                )
            for rows in logits.split(BLOCK):
                rows.copy_(rows[:, self.columns])
        return responses


def match_classes(teacher: Teacher, pool: Pool, *, width: int | None = None, notice: bool = False) -> ClassColumns:
    """The pool as this teacher's answers are read.

    Args:
        width: columns of the teacher's logits, where known.
        notice: whether to say which names are matched that are not written alike.

    Raises:
        UserError: their classes differ.
    """
    held = teacher.class_names
    width = len(held) if held is not None else width
    labelled = pool.labels is not None
    names, columns = arrange(pool.class_names, held, width, pool=pool.name, labelled=labelled, notice=notice)
    return ClassColumns(replace(pool, class_names=names), columns, held)


def local_width(teacher: Teacher, pool: Pool) -> int | None:
    """The columns of a local teacher's logits, by its answer to one input, which costs nothing; else None.

    Raises:
        UserError: it cannot read such inputs.
    """
    if not teacher.local or pool.labels is None:
        return None
    try:
        logits = by_class(teacher(pool.asked(slice(0, 1))))
    except NotCharged as error:
        raise UserError(
            f"the teacher cannot answer inputs of {pool.name} ({first_line(error)}); use a teacher of such data."
        ) from error
    return logits.shape[1] if isinstance(logits, Tensor) and logits.ndim == 2 else None
