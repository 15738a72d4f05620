"""Options of methods: their types, and what a method's signature says about each.

An option is declared once, in the signature of its method: `anchor: Annotated[Weight, "what it does"] = 0.1`.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from pydantic import Field

Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Name = Annotated[str, Field(min_length=1)]

# Options of several methods.
KDWeight = Annotated[Weight, "weight of KD on the teacher's logits"]
CEWeight = Annotated[Weight, "weight of the cross-entropy on labels"]
Temperature = Annotated[Positive, "temperature of KD, which softens both distributions"]
TeacherWeight = Annotated[Weight, "weight of the term on the teacher's answers"]
LabelWeight = Annotated[Weight, "weight of the term on labels"]
Recentre = Annotated[bool, "shift the student's last bias, so that its mean logits equal the mean target"]
Reads = Annotated[Name, "the student's output that is compared: logits, or a module path such as classifier:input"]
Answer = Annotated[Name, "the teacher's answer that is compared: logits, embedding or a layer"]
Pairs = Annotated[
    Annotated[dict[Name, Name], Field(min_length=1)] | None,
    "student layer: teacher layer, by module path; by default layers of the same name",
]

WORDS = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    dict: "mapping",
    list: "list",
    Decimal: "number",
    tuple: "IN,OUT",
}
LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


class Option(NamedTuple):
    """An option of a method, as people read it."""

    name: str
    type: str
    default: Any
    sentence: str


def options_of(function: Callable[..., Any]) -> list[Option]:
    """The options of a method: the keyword arguments of its function."""
    hints = get_type_hints(function, include_extras=True)
    return [
        Option(name, words(hints.get(name, Any)), default, _sentence(hints.get(name, Any)))
        for name, default in defaults_of(function).items()
    ]


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters
    return {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}


def _sentence(annotation: Any) -> str:
    return next((part for part in getattr(annotation, "__metadata__", ()) if isinstance(part, str)), "")


def words(annotation: Any) -> str:
    """A type and its limits in words, such as "number, at least 0"."""
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(words(part) if part is not type(None) else "none" for part in get_args(annotation))
    plain = annotation.__origin__ if hasattr(annotation, "__metadata__") else annotation
    if get_origin(plain) in (Union, types.UnionType):
        return words(plain)
    if get_origin(plain) is Literal:
        return " or ".join(map(str, get_args(plain)))
    said = [WORDS.get(get_origin(plain) or plain, "any value")]
    for field in getattr(annotation, "__metadata__", ()):
        for limit in getattr(field, "metadata", ()):
            said += [f"{word} {getattr(limit, name):,}" for name, word in LIMITS.items() if hasattr(limit, name)]
    return ", ".join(said)
