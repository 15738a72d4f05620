"""Commands that look things up: settings, methods, models, data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from tuition.cli.printer import Fact, Printer
from tuition.cli.signatures import PANELS, takes
from tuition.errors import UserError
from tuition.pipeline.settings import CommandSettings, DistillSettings, TeachSettings, TransferSettings, fields


def methods(
    printer: Printer,
    name: Annotated[str | None, Argument(help="A method, to explain its options.")] = None,
) -> None:
    """List the methods, or one method's options with type, default and meaning.

    Example: tuition methods ckd
    """
    from tuition.training import methods as known

    if name is None:
        rows = [{"name": method.name, "summary": method.summary} for method in known.METHODS.values()]
        printer.table("Methods", {"name": "name", "summary": "what it is"}, rows, key="methods", text=2)
        printer.say("`tuition methods NAME` explains a method's options.")
    else:
        rows = [option._asdict() for option in known.options(name)]
        printer.record(name=name, summary=known.summary(name), options=rows)
        columns = {"name": "name", "type": "type", "default": "default", "sentence": "what it is"}
        title = f"{name}: {known.summary(name)}"
        printer.table(title, columns, map(_explained, rows), text=4)
        printer.say(f"Set one with --set options.NAME=VALUE beside --method {name}.")


def models(
    printer: Printer,
    name: Annotated[str | None, Argument(help="A model, to list its modules.")] = None,
    classes: Annotated[int, Option(min=1, max=10**6, help="Number of classes.")] = 100,
    channels: Annotated[int, Option(min=1, max=10**6, help="Channels of the input, or the width of vectors.")] = 3,
    size: Annotated[int, Option(min=8, max=10**4, help="Side of the input in pixels.")] = 32,
) -> None:
    """List the known models, or one model's modules with their paths and output shapes.

    Example: tuition models wrn_16_2 --classes 10
    """
    from tuition import models as zoo

    if name is None:
        rows = [{"name": pattern, "summary": what} for pattern, what in zoo.available().items()]
        printer.table("Models", {"name": "name", "summary": "what it is"}, rows, key="models", text=2)
        return
    model = zoo.create(name, num_classes=classes, in_channels=channels)
    shape: tuple[int, ...] = (channels,) if name.startswith("mlp_") else (channels, size, size)
    reader = model.own_preprocess() if isinstance(model, zoo.NamedModel) else None
    if isinstance(reader, zoo.TextReader):
        shape = (reader.length,)
    printer.record(name=name, parameters=zoo.num_parameters(model))
    modules: list[dict[str, Any]] = [
        {"path": layer.path, "module": layer.type, "output": "x".join(map(str, layer.shape or ()))}
        | {"parameters": layer.parameters}
        for layer in zoo.describe(model, shape)
    ]
    columns = {key: key for key in ("path", "module", "output", "parameters")}
    printer.table(f"{name}: {zoo.num_parameters(model):,} parameters", columns, modules, key="modules", text=3)


@takes(TransferSettings, "size text_column label_column image_column", files=False)
def data(
    printer: Printer,
    settings: TransferSettings,
    name: Annotated[str, Argument(help="digits, a folder (parquet, images, text), or a name on the hub.")],
    split: Annotated[str, Option(help="Split to look at.")] = "train",
    sheet: Annotated[Path | None, Option(help="Write a contact sheet to this PNG file.")] = None,
) -> None:
    """Count a data set and, with --sheet, look at it.

    Example: tuition data digits --sheet sheet.png
    """
    from tuition.data import contact_sheet
    from tuition.pipeline.sources import Sources

    pool = Sources().pool(settings.changed(data=name).data, split)
    facts = [
        Fact("inputs", "inputs", len(pool)),
        Fact("different", "different ones, each a teacher call", len(set(pool.digests))),
    ]
    if pool.kind == "texts":
        words = sorted(len(text.split()) for text in pool.texts)
        facts.append(Fact("words", "words, of the median text and the longest", [words[len(words) // 2], words[-1]]))
    else:
        shape = tuple(pool.shape)
        facts.append(Fact("shape", "shape", shape, " x ".join(map(str, shape))))
    labelled = pool.labels is not None
    facts.append(Fact("classes", "classes", pool.num_classes if labelled else None, "" if labelled else "no labels"))
    printer.facts(pool.name, facts)
    if sheet is not None:
        contact_sheet(pool, sheet)
        printer.say(f"Contact sheet: {sheet}.", sheet=sheet)


def settings(
    printer: Printer,
    command: Annotated[str | None, Argument(help="teach, ask, check, distill or study; by default all.")] = None,
) -> None:
    """Print every setting of a command with its type, default, unit and meaning.

    Example: tuition settings ask
    """
    models: dict[str, type[CommandSettings]] = {"teach": TeachSettings, "ask": TransferSettings}
    models |= {"check": TransferSettings, "distill": DistillSettings, "study": DistillSettings}
    if command is not None and command not in models:
        raise UserError(f"the command {command!r} has no settings; name one of {', '.join(models)}.")
    chosen: list[type[CommandSettings]] = [DistillSettings, TeachSettings] if command is None else [models[command]]
    rows: dict[str, dict[str, Any]] = {field.name: field._asdict() for model in chosen for field in fields(model)}
    columns = {"name": "setting", "default": "default", "about": "what it is"}
    for title in dict.fromkeys(PANELS.values()):
        part = [row for row in rows.values() if PANELS[row["group"]] == title]
        if part:
            printer.table(title, columns, map(_explained, part), text=len(columns))
    kept = ("name", "type", "default", "unit", "description", "group")
    printer.record(settings=[{key: row[key] for key in kept} for row in rows.values()])
    printer.say("Set one with --set NAME=VALUE, or in the YAML file of --config.")


def _explained(row: Mapping[str, Any]) -> dict[str, Any]:
    """A setting or an option as a row of a table: numbers with all their digits, and no value as none."""
    default = row["default"]
    words = str(default).lower() if isinstance(default, bool) else str(default)
    kind = ", ".join(filter(None, [row["type"], row.get("unit")]))
    return {**row, "default": "none" if default is None else words, "about": f"{row.get('description')} ({kind})"}
