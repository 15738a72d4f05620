"""Progress on a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

from tuition import escape, stopping
from tuition.cli.output import ERR


@contextlib.contextmanager
def counting(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with rate and remaining time; called with (done, total)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    console = Console(file=ERR)
    disable = not console.is_terminal
    with (
        stopping.keeping(),
        Progress(
            *columns,
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=disable,
            redirect_stdout=False,
            redirect_stderr=False,
        ) as bar,
    ):
        task = bar.add_task(escape.line(unit), total=None, rate="")

        def advance(done: int, total: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=done, total=total, rate="" if speed is None else f"{speed:,.1f}/s")

        yield advance


@contextlib.contextmanager
def phases() -> Iterator[Callable[[str, int, int], None]]:
    """One bar after another; called with (what is counted, done, total)."""
    with stopping.keeping(), contextlib.ExitStack() as stack:
        bars: dict[str, Callable[[int, int], None]] = {}

        def advance(what: str, done: int, total: int) -> None:
            if what not in bars:
                stack.close()  # the bar before
                bars[what] = stack.enter_context(counting(what))
            bars[what](done, total)

        yield advance


@contextlib.contextmanager
def training() -> Iterator[Callable[[int, int, Mapping[str, float]], None]]:
    """A bar of epochs."""
    with counting("epochs") as bar:

        def advance(done: int, total: int, figures: Mapping[str, float]) -> None:
            stopping.check()
            bar(done, total)

        yield advance
