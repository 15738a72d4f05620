"""Options that several commands take, and the settings they make."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from typer import Option

from tuition.errors import UserError

if TYPE_CHECKING:
    from tuition.pipeline.settings import CommandSettings, DataSettings

Config = Annotated[Path | None, Option("--config", help="YAML file of settings; options given here override it.")]
Sets = Annotated[
    list[str] | None,
    Option("--set", metavar="NAME=VALUE", help="Any other setting, such as learning_rate=0.1, options.anchor=0.2."),
]
Data = Annotated[str | None, Option(help="digits, a folder (parquet, images, text), or a name on the hub.")]
Size = Annotated[int | None, Option(min=8, help="Squash pictures to so many pixels a side.")]
Texts = Annotated[str | None, Option("--text-column", help="Column of texts; several are joined: title,body.")]
Labels = Annotated[str | None, Option("--label-column", help="Column of labels.")]
Pictures = Annotated[str | None, Option("--image-column", help="Column of images.")]
Seed = Annotated[int | None, Option(help="Seed of every random draw.")]
Epochs = Annotated[int | None, Option(help="Epochs of training.")]
Teacher = Annotated[
    str | None,
    Option(
        help="Folder made by `tuition teach`, timm:NAME, transformers:NAME_OR_FOLDER, onnx:FILE, "
        "openai:MODEL, v2:URL, or package.module:factory."
    ),
]
Calls = Annotated[int | None, Option(help="Inputs of the transfer set, each one teacher call.")]
Store = Annotated[str | None, Option(help="Where paid answers are kept: an SQLite file or a database URL.")]
Budget = Annotated[int | None, Option(help="Most calls ever paid for this teacher in this store.")]
TrustCode = Annotated[
    bool,
    Option("--trust-code", help="Run code that a run's folder or a file of settings names: package.module:factory."),
]
Cost = Annotated[str | None, Option("--cost-per-call", metavar="NUMBER", help="Price of one call, in any currency.")]
TokenCost = Annotated[
    str | None,
    Option("--cost-per-million-tokens", metavar="IN,OUT", help="Price of tokens that the server counts: 0.15,0.60."),
]


class Executor(StrEnum):
    local = "local"
    ray = "ray"


Spread = Annotated[
    Executor,
    Option("--executor", help="local: this machine. ray: the Ray cluster at RAY_ADDRESS, or that of this machine."),
]


S = TypeVar("S", bound="CommandSettings")


def data_settings(
    data: str, size: int | None, text_column: str | None, label_column: str | None, image_column: str | None
) -> DataSettings:
    from tuition.pipeline.settings import DataSettings

    values = {"data": data, "size": size, "text_column": text_column}
    values |= {"label_column": label_column, "image_column": image_column}
    return DataSettings.of({name: value for name, value in values.items() if value is not None})


def settings_of(
    kind: type[S],
    config: Path | None,
    arguments: Mapping[str, Any],
    sets: list[str] | None,
    *,
    trust_code: bool = False,
) -> S:
    """Settings from a YAML file, then --set, then options; what is later overrides what is earlier."""
    from tuition.pipeline.settings_file import read_settings, refuse_code

    values = {} if config is None else read_settings(config)
    refuse_code(values, str(config), trust_code)
    flat = kind.flat_names(values) | kind.flat_names(pairs(sets))
    flat |= {name: value for name, value in arguments.items() if value is not None}
    if trust_code and "trust_code" in kind.known():
        flat["trust_code"] = True
    return kind.of(flat)


def pairs(sets: list[str] | None) -> dict[str, Any]:
    """The settings in NAME=VALUE, values as in YAML."""
    import yaml

    from tuition.pipeline.settings_file import load_yaml

    values = {}
    for pair in sets or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"--set takes NAME=VALUE, not {pair!r}; write for example --set learning_rate=0.1.")
        try:
            values[name] = load_yaml(value)
        except (yaml.YAMLError, ValueError):  # ValueError: a date that does not exist
            raise UserError(f"--set {pair} is not valid YAML after the sign; put the value in quotes.") from None
    return values
