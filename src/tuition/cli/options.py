"""Options that several commands take, and the settings that options make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from tuition.cli.output import show
from tuition.errors import UserError
from tuition.pipeline.settings import CommandSettings


def _help(context: typer.Context, requested: bool) -> None:
    if requested:
        show(context.get_help())
        raise typer.Exit


Config = Annotated[
    Path | None,
    Option("--config", rich_help_panel="Data and model", help="YAML file of settings; options given here override it."),
]
Sets = Annotated[
    list[str] | None,
    Option(
        "--set",
        metavar="NAME=VALUE",
        rich_help_panel="Data and model",
        help="Any other setting (see `tuition settings`), such as momentum=0.8 or options.anchor=0.2.",
    ),
]
TrustCode = Annotated[
    bool,
    Option(
        "--trust-code",
        metavar="",
        rich_help_panel="Data and model",
        help="Run code that a folder or a file of settings names.",
    ),
]
Yes = Annotated[bool, Option("--yes", "-y", metavar="", rich_help_panel="Output", help="Answer yes to questions.")]
DryRun = Annotated[
    bool, Option("--dry-run", metavar="", rich_help_panel="Output", help="Print the plan and its price; do nothing.")
]
Json = Annotated[
    bool, Option("--json", metavar="", rich_help_panel="Output", help="Print one JSON object in place of tables.")
]
Quiet = Annotated[
    bool, Option("--quiet", "-q", metavar="", rich_help_panel="Output", help="Print results and errors alone.")
]
Help = Annotated[
    bool,
    Option(
        *("--help", "-h"),
        metavar="",
        is_eager=True,
        callback=_help,
        rich_help_panel="Output",
        help="Show this message.",
    ),
]


def settings_of(
    model: type[CommandSettings],
    config: Path | None,
    values: Mapping[str, Any],
    sets: list[str] | None,
    *,
    trust_code: bool,
) -> Any:
    """Settings from a YAML file, then --set, then options; the later replace the earlier."""
    from tuition.pipeline.settings_file import read_settings, refuse_code

    read = {} if config is None else read_settings(config)
    refuse_code(read, str(config), trust_code)
    chosen = {name: value for name, value in values.items() if value is not None}
    if trust_code and "trust_code" in model.known():
        chosen["trust_code"] = True
    return model.of(model.flat_names(read) | model.flat_names(pairs(sets)) | chosen)


def pairs(sets: Iterable[str] | None) -> dict[str, Any]:
    """The settings in NAME=VALUE, values as in YAML."""
    import yaml

    from tuition.pipeline.settings_file import load_yaml

    values = {}
    for pair in sets or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"--set takes NAME=VALUE, not {pair!r}; write for example --set momentum=0.8.")
        try:
            values[name] = load_yaml(value)
        except (yaml.YAMLError, ValueError):  # ValueError: a date that does not exist
            raise UserError(f"--set {pair} is not valid YAML after the sign; put the value in quotes.") from None
    return values
