"""Commands that look things up: models, methods, data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from tuition.cli.options import Labels, Pictures, Size, Texts
from tuition.cli.output import data as write_data
from tuition.cli.output import new_table, say, show_table


def models(
    name: Annotated[str | None, Argument(help="A model to take apart.")] = None,
    classes: Annotated[int, Option(min=1, max=10**6)] = 100,
    channels: Annotated[int, Option(min=1, max=10**6)] = 3,
    size: Annotated[int, Option(min=8, max=10**4, help="Side of the input in pixels.")] = 32,
) -> None:
    """List the known models, or one model's modules with their paths and output shapes."""
    from tuition import models as zoo

    if name is None:
        table = new_table("Models", "name", "what it is", text=2)
        for pattern, what in zoo.available().items():
            table.add_row(pattern, what)
        show_table(table)
        return
    model = zoo.create(name, num_classes=classes, in_channels=channels)
    shape: tuple[int, ...] = (channels,) if name.startswith("mlp_") else (channels, size, size)
    hashing = getattr(model, "hashing", None)
    if hashing is not None:
        shape = (hashing.length,)
    title = f"{name}: {zoo.num_parameters(model):,} parameters"
    table = new_table(title, "path", "module", "output", "parameters", text=3)
    for layer in zoo.describe(model, shape):
        table.add_row(layer.path, layer.type, "x".join(map(str, layer.shape or ())), f"{layer.parameters:,}")
    show_table(table)


def methods(
    name: Annotated[str | None, Argument(help="A method, for its options.")] = None,
    markdown: Annotated[bool, Option("--markdown", help="Print the README's table.")] = False,
) -> None:
    """List the methods, or one method's options with type, default and meaning."""
    from tuition.training import methods as known

    if markdown:
        write_data(known.markdown() + "\n")
    elif name is None:
        table = new_table("Methods", "name", "what it is", text=2)
        for method in known.METHODS.values():
            table.add_row(method.name, method.summary)
        show_table(table)
        say("`tuition methods NAME` explains a method's options.")
    else:
        show_table(f"{name}: {known.summary(name)}")
        table = new_table("Options", "name", "default", "type", "what it is", text=4)
        for option in known.options(name):
            default = "none" if option.default is None else str(option.default)
            table.add_row(option.name, default, option.type, option.sentence)
        show_table(table)


def data(
    name: Annotated[str, Argument(help="digits, a folder (parquet, images, text), or a name on the hub.")],
    split: Annotated[str, Option(help="Split to look at.")] = "train",
    size: Size = None,
    text_column: Texts = None,
    label_column: Labels = None,
    image_column: Pictures = None,
    sheet: Annotated[Path | None, Option(help="Write a contact sheet to this PNG file.")] = None,
) -> None:
    """Count a data set and, with --sheet, look at it."""
    from tuition import data as sources

    chosen = {"text_column": text_column, "label_column": label_column, "image_column": image_column}
    pool = sources.load(name, split=split, size=size, **{k: v for k, v in chosen.items() if v is not None})
    table = new_table(pool.name, "", "")
    table.add_row("inputs", f"{len(pool):,}")
    table.add_row("different ones, each a teacher call", f"{len(set(pool.digests)):,}")
    if pool.kind == "texts":
        words = sorted(len(text.split()) for text in pool.texts)
        table.add_row("words, of the median text and the longest", f"{words[len(words) // 2]:,}, {words[-1]:,}")
    else:
        table.add_row("shape", " x ".join(map(str, pool.shape)))
    table.add_row("classes", "no labels" if pool.labels is None else f"{pool.num_classes:,}")
    show_table(table)
    if sheet is not None:
        sources.contact_sheet(pool, sheet)
        say(f"Contact sheet: {sheet}.")
