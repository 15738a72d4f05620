"""A pool's classes and a teacher's: which column of its answers is which class."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from tuition.data.classes import arrange
from tuition.data.pool import Pool
from tuition.errors import UserError
from tuition.teachers.protocol import NotCharged, Teacher

BLOCK = 65536  # rows that are reordered at a time


@dataclass(frozen=True)
class ClassColumns:
    """A pool with the class names of its answers, the teacher's column of each (None: as they are) and its names."""

    pool: Pool
    columns: list[int] | None
    names: tuple[str, ...] | None

    def responses(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """Responses as read, with the columns of logits in the order of the pool's classes; changed in place."""
        logits = found.get("logits")
        if self.columns is not None and logits is not None:
            if logits.shape[1] != len(self.columns):
                raise UserError(
                    f"the teacher names {len(self.columns)} classes, but answered with logits of {logits.shape[1]}; "
                    "correct its class_names."
                )
            for rows in logits.split(BLOCK):
                rows.copy_(rows[:, self.columns])
        return found


def match_classes(teacher: Teacher, pool: Pool, *, width: int | None = None) -> ClassColumns:
    """The pool as this teacher's answers are to be read.

    Args:
        width: columns of the teacher's logits, where known.

    Raises:
        UserError: their classes differ.
    """
    return match_names(getattr(teacher, "class_names", None), pool, width)


def match_names(held: tuple[str, ...] | None, pool: Pool, width: int | None) -> ClassColumns:
    """As `match_classes`, by the names of the teacher's classes."""
    width = len(held) if held is not None else width
    names, columns = arrange(pool.class_names, held, width, pool=pool.name, labelled=pool.labels is not None)
    return ClassColumns(replace(pool, class_names=names), columns, held)


def local_width(teacher: Teacher, pool: Pool) -> int | None:
    """The columns of a local teacher's logits, by its answer to one input, which costs nothing; else None.

    Raises:
        UserError: it cannot read such inputs.
    """
    if not getattr(teacher, "local", False) or pool.labels is None:
        return None
    try:
        logits = teacher(pool.asked(slice(0, 1))).get("logits")
    except NotCharged as error:
        why = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"the teacher cannot answer inputs of {pool.name} ({why}); use a teacher of such data."
        ) from error
    return logits.shape[1] if isinstance(logits, Tensor) and logits.ndim == 2 else None
