"""Class names: whether two sides name the same classes, and where each class of one stands on the other.

Names decide. They are compared as they are written; where that leaves some over, without regard to case, to spaces at
the ends, and to whether words are joined by spaces, `_` or `-`, if no other name of either side is equal then.
Names that only count ("0", "1", "2", ...) stand for classes that nobody named: beside other names they are not names,
unless they hold all of these.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tuition import escape
from tuition.errors import Notice, UserError

Names = Sequence[str]

SHOWN, LONGEST = 5, 60  # names that a sentence lists, and the characters of one
INSTEAD = "learn the teacher's classes without labels (--set labels=false, in Python pool.without_labels)"


def numbers(count: int) -> tuple[str, ...]:
    """The names that `count` classes have where nobody named them."""
    return tuple(map(str, range(count)))


def only_count(names: Names) -> bool:
    """Whether these are the names of classes that nobody named."""
    return tuple(names) == numbers(len(names))


def comparable(one: Names | None, other: Names | None) -> bool:
    """Whether both sides have names that can be compared."""
    if one is None or other is None:
        return False
    if only_count(one) == only_count(other):
        return True
    counted, named = (one, other) if only_count(one) else (other, one)
    return set(named) <= set(counted)


@dataclass(frozen=True)
class Match:
    """Where names stand among those of another side.

    Attributes:
        places: for each name its index on the other side, None where that lacks it.
        missing: names that the other side lacks.
        extra: names that only the other side has.
        loose: pairs (name, other name) that are equal except in case, spaces, `_` and `-`.
    """

    places: tuple[int | None, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    loose: tuple[tuple[str, str], ...]

    @property
    def same(self) -> bool:
        return not self.missing and not self.extra

    @property
    def columns(self) -> list[int]:
        """The places, where nothing is missing."""
        return [place for place in self.places if place is not None]


def match(names: Names, others: Names) -> Match:
    """Find each name among those of the other side.

    Raises:
        UserError: a name stands for two classes, and the two sides are not equal name by name.
    """
    names, others = tuple(map(str, names)), tuple(map(str, others))
    if names == others:
        return Match(tuple(range(len(others))), (), (), ())
    for side in (names, others):
        twice = [name for name, count in Counter(side).items() if count > 1]
        if twice:
            raise UserError(f"the class name {shown(twice)} stands for two classes; give each class its own name.")
    places = {name: others.index(name) for name in names if name in set(others)}
    rest = [name for name in others if name not in places]
    plain_names, plain_others = Counter(map(plain, names)), Counter(map(plain, others))
    loose = []
    for name in names:
        if name not in places and plain_names[plain(name)] == plain_others[plain(name)] == 1:
            other = next(one for one in rest if plain(one) == plain(name))
            places[name] = others.index(other)
            loose.append((name, other))
    used = set(places.values())
    return Match(
        places=tuple(places.get(name) for name in names),
        missing=tuple(name for name in names if name not in places),
        extra=tuple(name for i, name in enumerate(others) if i not in used),
        loose=tuple(loose),
    )


def plain(name: str) -> str:
    """A name without what people write differently: case, spaces around it, and what joins its words."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def shown(names: Sequence[str]) -> str:
    """Names as a sentence lists them: the first few, and how many more there are."""
    listed = ", ".join(escape.shorten(name, LONGEST) for name in names[:SHOWN])
    return listed if len(names) <= SHOWN else f"{listed} and {len(names) - SHOWN} more"


def arrange(
    names: Names | None, held: Names | None, width: int | None, *, pool: str, labelled: bool, notice: bool = True
) -> tuple[tuple[str, ...] | None, list[int] | None]:
    """The class names of a pool that a teacher answers, and the teacher's column of each; None for all as they are.

    Args:
        names: the pool's.
        held: the teacher's, in the order of its columns.
        width: the number of its columns, where that is known.
        pool: what the pool is called.
        labelled: whether the pool's labels count; without them the teacher's classes are taken as they are.
        notice: whether to say which names are matched that are not written alike.

    Raises:
        UserError: the classes differ by name, or in number where they cannot be compared by name.
    """
    if not comparable(names, held) or names is None or held is None:
        if labelled and names is not None and width not in (None, len(names)):
            raise _other_number(width, pool, len(names))
        if names is not None and width not in (None, len(names)):
            names = None
        own = names is not None and (held is None or not only_count(names))
        chosen = names if own else held
        return None if chosen is None else tuple(chosen), None
    matched = match(names, held)
    if not matched.same:
        if not labelled:
            return tuple(held), None
        if only_count(names) and only_count(held):
            raise _other_number(len(held), pool, len(names))
        raise UserError(_difference(matched, pool))
    if notice:
        say_loose(matched, pool)
    return tuple(names), None if matched.columns == list(range(len(held))) else matched.columns


def _other_number(width: int | None, pool: str, count: int) -> UserError:
    return UserError(
        f"the teacher answers with {width} classes, but {pool} has {count}; use a teacher of this data, name all its "
        f"classes, or {INSTEAD}."
    )


def _difference(matched: Match, pool: str) -> str:
    """The sentence about classes that differ, and what to do."""
    parts = [f"lacks {shown(matched.missing)}"] if matched.missing else []
    parts += [f"also knows {shown(matched.extra)}"] if matched.extra else []
    sentence = f"the teacher's classes are not those of {pool}: it {' and '.join(parts)}; {INSTEAD}"
    return sentence + (", or all of the teacher's with --set classes=teacher." if not matched.missing else ".")


def say_loose(matched: Match, pool: str) -> None:
    """Say where names were matched that are not written alike."""
    if matched.loose:
        pairs = [f"{name!r} with {other!r}" for name, other in matched.loose]
        warnings.warn(
            f"class names of {pool} are matched although they are written differently: {shown(pairs)}.",
            Notice,
            stacklevel=3,
        )


def relabel(names: Names, known: Names, used: Sequence[int], *, pool: str, who: str = "the model") -> list[int] | None:
    """Where each class of a pool stands among the classes known, -1 for none; None where nothing moves.

    Args:
        names: the pool's.
        known: those of who is measured on it, or learns from it.
        used: the pool's classes that rows have.
        pool: what the pool is called.
        who: who knows these classes.

    Raises:
        UserError: rows have a class that is not known.
    """
    if not comparable(names, known):
        if len(names) > len(known) or (len(names) != len(known) and not only_count(names)):
            raise UserError(
                f"{pool} has {len(names)} classes, but {who} knows {len(known)} of other names; "
                f"give data of {who}'s classes."
            )
        return None
    matched = match(names, known)
    unknown = [names[i] for i in used if matched.places[i] is None]
    if unknown and only_count(names) and only_count(known):
        raise UserError(
            f"the labels run to {max(used)}, but {who} knows {len(known)} classes, 0 to {len(known) - 1}; "
            "give data of the kind it was trained for."
        )
    if unknown:
        raise UserError(f"{pool} has the class {shown(unknown)}, which {who} does not know; leave such rows out.")
    say_loose(matched, pool)
    places = [-1 if place is None else place for place in matched.places]
    return None if places == list(range(len(places))) else places
