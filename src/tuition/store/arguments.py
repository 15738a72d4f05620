"""What `ask`, `plan` and `reask` are called with: a sentence that says what to pass where it is something else."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from os import PathLike
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tuition.data.pool import Pool
from tuition.data.transfer import TransferSet
from tuition.errors import UserError


def check_question(teacher: Any, pool: Any) -> None:
    """
    Raises:
        UserError: one of them is not what its name says, or the pool is empty.
    """
    if isinstance(teacher, Pool):
        raise UserError("the teacher comes first, then the pool; pass them in this order.")
    if not _is_teacher(teacher):
        raise UserError(f"the teacher is {_kind(teacher)}; {_how_to_make_a_teacher(teacher)}.")
    if not isinstance(pool, Pool):
        raise UserError(f"the inputs are {_kind(pool)}, not a pool; {_how_to_make_a_pool(pool)}.")
    if len(pool) == 0:
        raise UserError("there is nothing to ask about; give at least one input.")


def check_budget(budget: int | None, pool: Pool) -> int:
    """
    Raises:
        UserError: it is missing or makes no sense.
    """
    if budget is None:
        raise UserError(f"say how many calls may be paid for this teacher in all; pass budget={len(pool)}.")
    return _at_least(0, budget, "budget")


def check_limits(batch_size: int, concurrency: int) -> None:
    """
    Raises:
        UserError: one of them makes no sense.
    """
    _at_least(1, batch_size, "batch size")
    _at_least(1, concurrency, "concurrency")


def _at_least(least: int, value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise UserError(f"the {what} is a whole number, not {value!r}; correct it.")
    if value < least:
        raise UserError(f"the {what} is at least {least}, not {value}; choose another.")
    return int(value)


def _is_teacher(teacher: Any) -> bool:
    named = (getattr(teacher, name, None) for name in ("name", "fingerprint"))
    return callable(teacher) and all(isinstance(text, str) for text in named)


def _how_to_make_a_teacher(thing: Any) -> str:
    if isinstance(thing, nn.Module):
        return "pass teachers.from_torch(model)"
    if isinstance(thing, str | PathLike):
        return 'pass teachers.load("kind:name")'
    if callable(thing):
        return 'pass teachers.from_callable(function, fingerprint="version 1")'
    return "pass what one of tuition.teachers makes"


def _how_to_make_a_pool(thing: Any) -> str:
    if isinstance(thing, TransferSet):
        return "pass its pool, transfer.pool"
    if isinstance(thing, str | PathLike):
        return "pass data.load(name)"
    if isinstance(thing, DataLoader | Dataset):
        return "pass data.from_tensors(inputs, labels) of what it yields, or data.load of its folder"
    if isinstance(thing, Tensor | np.ndarray | Sequence):
        return "pass data.from_tensors(inputs)"
    return "pass data.from_tensors(inputs), or data.load(name)"


def _kind(thing: Any) -> str:
    if isinstance(thing, list | tuple) and thing:
        return f"a {type(thing).__name__} of {type(thing[0]).__name__}"
    name = type(thing).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
