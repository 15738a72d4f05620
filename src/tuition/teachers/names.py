"""The names of a teacher's classes, in the order of its logits."""

from __future__ import annotations

from collections.abc import Iterable

from tuition.errors import UserError


def class_names(names: Iterable[object] | None, count: int | None = None) -> tuple[str, ...] | None:
    """The names as strings; None where none are known.

    Args:
        names: one a class, in the order of the logits.
        count: the number of classes, where it is known.

    Raises:
        UserError: a text in place of a list, an empty or repeated name, or another number of names than of classes.
    """
    if names is None:
        return None
    if isinstance(names, str):
        raise UserError(f"class_names takes one name a class, not the text {names!r}; give a list of names.")
    checked = tuple(str(name) for name in names)
    if not checked or not all(name.strip() for name in checked):
        raise UserError("class_names holds an empty name, or none; give one name a class.")
    twice = sorted({name for name in checked if checked.count(name) > 1}) if len(set(checked)) < len(checked) else []
    if twice:
        raise UserError(f"class_names holds {twice[0]!r} more than once; give each class a name of its own.")
    if count is not None and len(checked) != count:
        raise UserError(
            f"class_names holds {len(checked)} names, but the teacher answers with {count} classes; give one a class."
        )
    return checked
