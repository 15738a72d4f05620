"""Commands that write the answers of a store to files, and read them again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from tuition.cli.printer import Printer
from tuition.cli.store import Where, opened


def export(
    printer: Printer,
    store: Where,
    folder: Annotated[Path, Argument(help="A new folder, for safetensors and parquet files.")],
    teacher: Annotated[str | None, Option(help="Of this teacher only.")] = None,
) -> None:
    """Write the answers of a store to files that other programs read.

    Example: tuition store export responses.db exported
    """
    from tuition.store import export

    count = export(opened(store), folder, teacher=teacher).responses
    printer.say(f"{count:,} answers are in {folder}.", answers=count, folder=folder)


def import_(
    printer: Printer,
    store: Where,
    folder: Annotated[Path, Argument(help="What `tuition store export` wrote.")],
) -> None:
    """Take over exported answers; they count as imported, not as paid.

    Example: tuition store import responses.db exported
    """
    from tuition import ResponseStore
    from tuition.store import import_
    from tuition.store.transport import check_export

    check_export(folder)
    moved = import_(ResponseStore(store), folder)
    new, known = moved.responses, moved.known
    printer.say(f"{new:,} answers are new in {store}, {known:,} were there.", new=new, known=known)
