"""Labels as files have them: words or whole numbers, and the order of the classes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal
from typing import Any

from tuition.data.pool import MAX_CLASSES
from tuition.errors import UserError

_NUMBER = re.compile(r"[+-]?[0-9]{1,99}(\.[0-9]{1,99})?")
_INDEX = re.compile(r"0|[1-9][0-9]*")
_WHOLE = re.compile(r"-?[0-9]+")
_REAL = re.compile(r"[+-]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=e))(e[+-]?[0-9]+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)


def in_order(names: Iterable[str]) -> list[str]:
    """Names of classes in order: those that are numbers as numbers (-1, 0, 2, 10), then the others by character."""
    return sorted(
        names, key=lambda name: (0, Decimal(name), name) if _NUMBER.fullmatch(name) else (1, Decimal(0), name)
    )


def words(labels: Sequence[Any], column: str, place: str) -> list[str]:
    """One label a row, as a word or a whole number.

    Raises:
        UserError: labels that are missing, lists, real numbers, or that cannot be written down; the row is named.
    """
    missing = sum(label is None or label == "" for label in labels)
    if missing:
        raise UserError(f"{missing} rows of {place} have no {column}; fill them in or leave these rows out.")
    instead = "choose another label column, or none (label_column=null)"
    found = []
    for row, label in enumerate(labels):
        if not isinstance(label, (str, int, float)):
            kind = "lists" if isinstance(label, (list, tuple)) else f"values of type {type(label).__name__}"
            shown = repr(label) if len(repr(label)) < 60 else repr(label)[:57] + "..."
            raise UserError(
                f"the column {column!r} of {place} holds {kind} ({shown} in row {row}), not one class a row; {instead}."
            )
        word = str(label)
        if not writable(word):
            raise UserError(f"the label in row {row} of {place} holds half a character (a surrogate); write it again.")
        found.append(word)
    kinds = {word: bool(_REAL.fullmatch(word)) for word in dict.fromkeys(found)}
    if any(kinds.values()) and all(real or _WHOLE.fullmatch(word) for word, real in kinds.items()):
        row = next(row for row, word in enumerate(found) if kinds[word])
        raise UserError(
            f"the column {column!r} of {place} holds real numbers ({found[row]} in row {row}), not classes; {instead}."
        )
    if all(_INDEX.fullmatch(word) for word in kinds):
        for row, word in enumerate(found):
            if len(word) > len(str(MAX_CLASSES)) or int(word) >= MAX_CLASSES:
                raise UserError(
                    f"the label {word[:40]} in row {row} of {place} is not a class index, which is below "
                    f"{MAX_CLASSES:,}; renumber the classes from 0, or name them by words."
                )
    return found


def number(labels: Sequence[str], everywhere: Iterable[str]) -> tuple[list[int], list[str]]:
    """Class indices, and one name a class, of labels that `words` gave.

    Whole numbers from 0 are the indices; numbers from 1 to k without a gap, negative ones and words are names of
    classes, in order.

    Args:
        labels: of one split.
        everywhere: of all splits: a class counts that any of them has.
    """
    known = {*labels, *everywhere}
    counted = known == {str(i) for i in range(1, len(known) + 1)} and len(known) > 1
    if known and all(_INDEX.fullmatch(word) for word in known) and not counted:
        return [int(word) for word in labels], [str(i) for i in range(max(map(int, known)) + 1)]
    names = in_order(known)
    index = {word: i for i, word in enumerate(names)}
    return [index[word] for word in labels], names


def withheld(labels: Collection[str]) -> bool:
    """Whether a split has no labels, in the hub's way of saying so: all are -1."""
    return set(labels) == {"-1"}


def writable(text: str) -> bool:
    """Whether a text can be encoded; half of a pair of surrogates cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
