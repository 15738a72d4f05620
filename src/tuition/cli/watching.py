"""The command that watches a study, a run or an ask from outside."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from tuition import stopping
from tuition.cli import output
from tuition.cli.printer import Fact, Printer
from tuition.errors import Stopped

if TYPE_CHECKING:
    from tuition.studies.watching import Frame

SECONDS = 1.0  # between two looks


def watch(
    printer: Printer,
    folder: Annotated[Path, Argument(help="Folder of a study or a run, or one with the store of an ask.")],
    once: Annotated[bool, Option("--once", metavar="", help="Print one look and end, as into a pipe.")] = False,
) -> None:
    """Show how far a study, a run or an ask is, from another terminal: what runs, rate, money, best so far.

    The files of the folder are read, and nothing is written. Ctrl-C ends this, and nothing else.

    Example: tuition watch study
    """
    try:
        with stopping.keeping():  # an interrupt while a module is imported ends this as any other
            from tuition.studies.watching import frames

            looks = frames(folder)
            if once or printer.as_json or not output.OUT.isatty():
                frame = next(looks)
                printer.facts(frame.title, _facts(frame))
                return
            from rich.console import Console
            from rich.live import Live

            console = Console(file=output.OUT, markup=False, highlight=False)
            with Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
                for frame in looks:
                    live.update(_table(frame), refresh=True)
                    if not frame.ended:
                        time.sleep(SECONDS)
    except Stopped as stopped:
        if stopped.signum != signal.SIGINT:
            raise


def _facts(frame: Frame) -> list[Fact]:
    counted = [Fact(f"counts.{name.replace('.', ' ')}", name, n._asdict(), str(n)) for name, n in frame.counts.items()]
    return [*counted, *(Fact(f"facts.{name.replace('.', ' ')}", name, text) for name, text in frame.facts.items())]


def _table(frame: Frame) -> Any:
    table = output.new_table(frame.title, "", "")
    for fact in _facts(frame):
        table.add_row(fact.label, fact.text or fact.value)
    return table
