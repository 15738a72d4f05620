"""The names of splits, as people write them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from tuition.errors import UserError

WORDS = {
    "train": "train", "training": "train", "trn": "train",
    "validation": "validation", "validate": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "devel": "validation", "development": "validation",
    "eval": "validation", "evaluation": "validation",
    "test": "test", "testing": "test", "tst": "test",
}  # fmt: skip
FILLERS = (
    "set", "sets", "data", "dataset", "split", "folder", "images", "image", "imgs", "img", "pictures", "pics",
    "photos", "files", "samples", "examples", "texts",
)  # fmt: skip
_GLUED = {word + filler: split for word, split in WORDS.items() for filler in FILLERS}


def canonical(name: str) -> str | None:
    """ "train", "validation" or "test", where a name says just this (`Train`, `test_set`, `val2017`); else None."""
    words = [word for word in _words(name) if word not in FILLERS]
    splits = {WORDS.get(word) or _GLUED.get(word) for word in words}
    return splits.pop() if len(splits) == 1 else None


def hinted(names: Iterable[str]) -> set[str]:
    """The splits whose words stand in any of the names, whatever else does (`seg_train`)."""
    return {split for name in names for word in _words(name) if (split := WORDS.get(word) or _GLUED.get(word))}


class SplitError(UserError):
    """A data set has no such split; `splits` are those it has."""

    def __init__(self, message: str, splits: Collection[str]) -> None:
        super().__init__(message)
        self.splits = tuple(splits)


def choose(split: str, splits: Collection[str], name: str) -> str:
    """What the data set `name` calls `split` among its `splits`.

    Raises:
        SplitError: it has no such split.
        UserError: it has several.
    """
    if split in splits:
        return split
    meant = canonical(split)
    candidates = [] if meant is None else [it for it in splits if canonical(it) == meant]
    if len(candidates) > 1:
        names = ", ".join(candidates)
        raise UserError(f"{name} has several splits of {meant}: {names}; name one of them as the split.")
    if not candidates:
        raise SplitError(f"{name} has no split {split!r}; choose one of: {', '.join(splits)}.", splits)
    return candidates[0]


def _words(name: str) -> list[str]:
    """The words of a name in lower case, whether they are joined by signs or by capitals; numbers do not count."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]
