"""A teacher by its name: `KIND:NAME` of an adapter, or the user's own `package.module:factory`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, ValidationError, validate_call
from torch import nn

from tuition import factories
from tuition.errors import UserError
from tuition.teachers.function import with_code
from tuition.teachers.onnx import from_onnx
from tuition.teachers.open_inference import from_v2
from tuition.teachers.openai import from_openai
from tuition.teachers.protocol import Teacher
from tuition.teachers.pytorch import from_torch
from tuition.teachers.timm import from_timm
from tuition.teachers.transformers import from_transformers

KINDS: dict[str, Callable[..., Teacher]] = {
    "onnx": from_onnx,
    "openai": from_openai,
    "timm": from_timm,
    "transformers": from_transformers,
    "v2": from_v2,
}


def load(name: str, **options: Any) -> Teacher:
    """The teacher that `--teacher NAME` means; `--set teacher.OPTION=VALUE` are its options.

    The folder of `tuition teach` is a model, not a name: pass `from_torch(tuition.load(folder))`.

    Args:
        name: a kind of `KINDS` and what its adapter takes first, as in "openai:gpt-4o-mini" or "onnx:teacher.onnx"; or
            "package.module:factory", whose code is run. A factory returns a model, or a teacher.
        options: keyword arguments of the adapter (`from_openai` and so on), or of the factory.

    Raises:
        UserError: an unknown name or option, an option of another type, a missing extra, or a factory that fails.
    """
    kind, colon, rest = name.partition(":")
    if colon and kind in KINDS:
        return _adapter(kind, rest, options)
    if (module := factories.own_module(name)) is not None:
        raise UserError(f"{name!r} is a module; name a function, as in {module}:FUNCTION.")
    if not factories.is_factory(name):
        if Path(name).is_dir():
            raise UserError(f"{name!r} is a folder; in Python pass teachers.from_torch(tuition.load({name!r})).")
        known = ", ".join(f"{kind}:..." for kind in KINDS)
        raise UserError(f"{name!r} is not a teacher; name a folder, {known} or package.module:factory.")
    made = factories.find(name)
    if not isinstance(made, nn.Module):
        check_options(name, made, options)
        made = factories.call(name, made, **options)
    if isinstance(made, nn.Module):
        return from_torch(made)
    try:
        return with_code(made)
    except UserError as error:
        returned = factories.kind(made)
        raise UserError(f"{name} returned {returned}, not a teacher; return teachers.from_callable(...).") from error


def _adapter(kind: str, name: str, options: dict[str, Any]) -> Teacher:
    adapter = KINDS[kind]
    check_options(f"{kind}:...", adapter, options)
    try:
        return validate_call(config=ConfigDict(arbitrary_types_allowed=True))(adapter)(name, **options)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option, why = first["loc"][0], first["msg"]
        raise UserError(f"the teacher's option {option} does not fit: {why}; correct it.") from None


def check_options(name: str, function: Callable[..., Any], options: dict[str, Any]) -> None:
    """Raises UserError where a function takes no keyword argument of the name of an option."""
    if not options:
        return
    parameters = inspect.signature(function).parameters.values()
    if any(it.kind is it.VAR_KEYWORD for it in parameters):
        return
    known = [it.name for it in parameters if it.kind is it.KEYWORD_ONLY or it.default is not it.empty]
    for option in options:
        if option not in known:
            near = get_close_matches(option, known)
            hint = f"; did you mean {near[0]}?" if near else f"; its options are {', '.join(known) or 'none'}."
            raise UserError(f"{name} has no option {option}{hint}")
