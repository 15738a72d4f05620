"""Labels as files have them: words or integers, and the order of the classes."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from tuition.data.pool import MAX_CLASSES
from tuition.data.splits import canonical
from tuition.errors import UserError

SHOWN = 3  # pairs of names that a warning lists

_log = logging.getLogger(__name__)

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
    """One label a row, as a word or an integer.

    Raises:
        UserError: labels that are missing, lists, real numbers, or that cannot be written down; the row is named.
    """
    missing = sum(label is None or label == "" for label in labels)
    if missing:
        raise UserError(f"{missing} rows of {place} have no {column}; fill them in or leave these rows out.")
    instead = "choose another label column, or none (label_column=null), and learn from the teacher's answers alone"
    written = []
    for row, label in enumerate(labels):
        if not isinstance(label, (str, int, float)):
            kind = "lists" if isinstance(label, (list, tuple)) else f"values of type {type(label).__name__}"
            shown = repr(label) if len(repr(label)) < 60 else repr(label)[:57] + "..."
            raise UserError(
                f"the column {column!r} of {place} holds {kind} ({shown} in row {row}), not one class a row; "
                f"keep one, {instead}."
            )
        word = str(label)
        if not writable(word):
            raise UserError(f"the label in row {row} of {place} holds half a character (a surrogate); write it again.")
        written.append(word)
    kinds = {word: bool(_REAL.fullmatch(word)) for word in dict.fromkeys(written)}
    if any(kinds.values()) and all(real or _WHOLE.fullmatch(word) for word, real in kinds.items()):
        row = next(row for row, word in enumerate(written) if kinds[word])
        raise UserError(
            f"the column {column!r} of {place} holds real numbers ({written[row]} in row {row}), not classes; "
            f"name ranges of them, {instead}."
        )
    if all(_INDEX.fullmatch(word) for word in kinds):
        for row, word in enumerate(written):
            if len(word) > len(str(MAX_CLASSES)) or int(word) >= MAX_CLASSES:
                raise UserError(
                    f"the label {word[:40]} in row {row} of {place} is not a class index, which is below "
                    f"{MAX_CLASSES:,}; renumber the classes from 0, or name them by words."
                )
    return written


def number(words: Mapping[str, Collection[str]], title: str) -> tuple[dict[str, int], list[str]]:
    """The class index of every word, and one name a class.

    Integers from 0 are the indices; numbers from 1 to k without a gap, negative ones and words are names of
    classes, in order.

    Args:
        words: the labels of each split, as `words` gives them: a class counts that any split has.
        title: of the data, for messages.
    """
    spelling = spellings(words, title)
    known = set(spelling.values())
    counted = known == {str(i) for i in range(1, len(known) + 1)} and len(known) > 1
    if known and all(_INDEX.fullmatch(word) for word in known) and not counted:
        return {word: int(word) for word in known}, [str(i) for i in range(max(map(int, known)) + 1)]
    names = in_order(known)
    place = {name: i for i, name in enumerate(names)}
    return {word: place[name] for word, name in spelling.items()}, names


def spellings(words: Mapping[str, Collection[str]], title: str) -> dict[str, str]:
    """The class of every word: names of different splits that differ in letter case alone are one class.

    It is spelled as the train split does, or else the first split that has it. Within one split, `a` and `A` are two.
    """
    order = sorted(words, key=lambda split: (canonical(split) != "train", split))
    distinct = {split: sorted(set(words[split])) for split in order}
    twice = {
        plain
        for names in distinct.values()
        for plain, count in Counter(name.casefold() for name in names).items()
        if count > 1
    }
    first: dict[str, str] = {}
    spelling: dict[str, str] = {}
    for names in distinct.values():
        for name in names:
            plain = name.casefold()
            spelling[name] = name if plain in twice else first.setdefault(plain, name)
    other = [f"{word} with {name}" for word, name in spelling.items() if word != name]
    if other:
        more = f" and {len(other) - SHOWN} more" if len(other) > SHOWN else ""
        _log.warning("%s: classes of other letter case are one class: %s%s.", title, ", ".join(other[:SHOWN]), more)
    return spelling


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
