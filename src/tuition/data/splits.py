"""The names of splits."""

from __future__ import annotations

from collections.abc import Collection

from tuition.errors import UserError

ALIASES = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}
NAMES = {alias for aliases in ALIASES.values() for alias in aliases}


def choose(split: str, splits: Collection[str], name: str) -> str:
    """What the data set `name` calls `split` among its `splits`.

    Raises:
        UserError: it has no such split.
    """
    for alias in ALIASES.get(split, (split,)):
        if alias in splits:
            return alias
    raise UserError(f"{name} has no split {split!r}; choose one of: {', '.join(splits)}.")
