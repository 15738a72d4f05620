"""Signatures of commands, from which typer makes their options: those that are settings come from the settings."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from typer import Option

from tuition.cli.options import Config, Help, Json, Quiet, Sets, TrustCode, settings_of
from tuition.cli.printer import Printer
from tuition.pipeline.settings import CommandSettings, SettingInfo, fields

Command = Callable[..., Any]
Added = Mapping[str, tuple[Any, Any]]  # annotation and default of a parameter, by its name

# By the part of the settings.
PANELS = {
    "data": "Data and model",
    "": "Data and model",
    "start": "Student",
    "ask": "Teacher and budget",
    "train": "Training",
}
SHORT = {"text_column": "--text"}  # further names of options
METAVARS = {"whole number": "N", "number": "NUMBER", "IN,OUT": "IN,OUT"}  # by the type in words


def takes(model: type[CommandSettings], names: str, *, files: bool = True) -> Callable[[Command], Command]:
    """Give a command an option for each of the settings `names`, and with `files` --config and --set.

    The command has the validated settings as its argument `settings`.
    """
    known = {setting.name: setting for setting in fields(model)}
    chosen = [known[name] for name in names.split() if name != "trust_code"]
    chosen.sort(key=lambda setting: [*PANELS].index(setting.group))

    def decorate(command: Command) -> Command:
        def run(**arguments: Any) -> Any:
            values = {setting.name: _value(setting, arguments.pop(setting.name)) for setting in chosen}
            config, sets = arguments.pop("config", None), arguments.pop("sets", None)
            nothing = [name for name, value in values.items() if value == "null"]  # as in YAML
            values = {name: value for name, value in values.items() if name not in nothing}
            sets = [*(sets or []), *(f"{name}=null" for name in nothing)]
            trust_code = arguments.pop("trust_code", False)
            return command(settings=settings_of(model, config, values, sets, trust_code=trust_code), **arguments)

        added: dict[str, tuple[Any, Any]] = {setting.name: (_option(setting), None) for setting in chosen}
        added |= {"trust_code": (TrustCode, False)} if "trust_code" in names else {}
        added |= {"config": (Config, None), "sets": (Sets, None)} if files else {}
        return _signed(run, command, "settings", before=added, after={})

    return decorate


def prints(command: Command) -> Command:
    """Give a command --json and --quiet, a `Printer` as its argument `printer`, and its result as exit code."""

    def run(*, as_json: bool, quiet: bool, help: bool, **arguments: Any) -> None:
        printer = Printer(as_json=as_json, quiet=quiet)
        with printer.printing():
            code = command(printer=printer, **arguments)
        if code:
            raise typer.Exit(code)

    added = {"as_json": (Json, False), "quiet": (Quiet, False), "help": (Help, False)}
    return _signed(run, command, "printer", before={}, after=added)


def _signed(run: Command, command: Command, without: str, *, before: Added, after: Added) -> Command:
    """`run`, with the signature of `command`: without one parameter, and with others before and after."""
    hints = get_type_hints(command, include_extras=True)
    own = {
        name: (hints[name], parameter.default)
        for name, parameter in inspect.signature(command).parameters.items()
        if name != without
    }
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        for name, (annotation, default) in {**before, **own, **after}.items()
    ]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def _option(setting: SettingInfo) -> Any:
    """The type of an option, as typer reads it. Its value is text, which the settings validate."""
    choices = [str(choice) for choice in get_args(setting.annotation) if get_origin(setting.annotation) is Literal]
    words = setting.description
    if not words.startswith(str(setting.default)):  # a value is not a word
        words = words[:1].upper() + words[1:]
    words += f": {', '.join(choices)}." if choices else "."
    name, panel = f"--{setting.name.replace('_', '-')}", PANELS[setting.group]
    if isinstance(setting.default, bool):
        return Annotated[bool | None, Option(name, metavar="", rich_help_panel=panel, help=words)]
    names = [name, SHORT[setting.name]] if setting.name in SHORT else [name]
    if setting.default is not None:
        words += f" Default: {setting.default}."
    metavar = next((METAVARS[kind] for kind in METAVARS if setting.type.startswith(kind)), "TEXT")
    completion = (lambda: choices) if choices else None
    return Annotated[
        str | None, Option(*names, metavar=metavar, rich_help_panel=panel, help=words, autocompletion=completion)
    ]


def _value(setting: SettingInfo, text: Any) -> Any:
    """A number for a setting that is one; a price stays text, which keeps every digit."""
    if isinstance(text, str) and {int, float} & {setting.annotation, *get_args(setting.annotation)}:
        for kind in (int, float):
            with contextlib.suppress(ValueError):
                return kind(text)
    return text
