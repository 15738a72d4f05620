"""Progress: a bar on a terminal and in a notebook; elsewhere, as in a log file, a line every few seconds."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from html import escape as escape_html
from typing import Any

from tuition import escape

SECONDS = 5.0  # between two lines
REDRAWN = 0.1  # seconds between two states of a notebook's bar

Advance = Callable[[int, int, str], None]


@contextlib.contextmanager
def counting(unit: str, file: Any = None) -> Iterator[Callable[..., None]]:
    """Show progress in `unit` on `file` (by default standard error, in a notebook below the cell) until the block ends.

    Yields a function of (done, total) and, optionally, a note that is shown in place of the rate.
    """
    from rich.console import Console

    console = Console(file=sys.stderr if file is None else file)
    if console.is_terminal:
        with _bar(unit, console) as advance:
            yield advance
    elif console.is_jupyter and file is None:
        yield Cell(unit, _display())
    else:
        yield Lines(unit, console.file)


@contextlib.contextmanager
def phases(file: Any = None) -> Iterator[Callable[[str, int, int], None]]:
    """As `counting`, for one phase after another: yields a function of (what is counted, done, total)."""
    with contextlib.ExitStack() as stack:
        shown: dict[str, Callable[..., None]] = {}

        def advance(what: str, done: int, total: int) -> None:
            if what not in shown:
                stack.close()  # the phase before
                shown[what] = stack.enter_context(counting(what, file))
            shown[what](done, total)

        yield advance


@contextlib.contextmanager
def training(file: Any = None) -> Iterator[Callable[[int, int, Mapping[str, float]], None]]:
    """As `counting`, for epochs: yields a function of (done, total, figures), which shows loss and validation too."""
    with counting("epochs", file) as advance:

        def show(done: int, total: int, figures: Mapping[str, float]) -> None:
            advance(done, total, note(figures))

        yield show


def note(figures: Mapping[str, float]) -> str:
    """The figures of an epoch that people watch."""
    loss = f"loss {figures['loss']:#.4g}".rstrip(".")
    return f"{loss}, validation {figures['validation']:.2f} %" if "validation" in figures else loss


@contextlib.contextmanager
def _bar(unit: str, console: Any) -> Iterator[Advance]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task(escape.line(unit), total=None, note="")

        def advance(done: int, total: int, note: str = "") -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=done, total=total, note=note or ("" if speed is None else f"{speed:,.1f}/s"))

        yield advance


class Rate:
    """What is shown in words: how much is done, at which rate, and how long the rest takes."""

    def __init__(self, unit: str, clock: Callable[[], float]) -> None:
        self._unit, self._clock = escape.line(unit), clock
        self._first: tuple[float, int] | None = None  # when the first call came, and what was done then

    def __call__(self, done: int, total: int, note: str) -> str:
        now = self._clock()
        if self._first is None:
            self._first = now, done
        began, before = self._first
        rate = (done - before) / (now - began) if now > began else 0.0
        parts = [f"{self._unit}: {done:,} of {total:,}", note or (f"{rate:,.1f}/s" if rate else "")]
        if rate and done < total:
            parts.append(f"about {duration((total - done) / rate)} left")
        return ", ".join(filter(None, parts))


class Lines:
    """Writes a line of progress at most every `SECONDS`, and a last one; nothing for what takes less."""

    def __init__(self, unit: str, file: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._words, self._file, self._clock = Rate(unit, clock), file, clock
        self._last, self._written = clock(), False

    def __call__(self, done: int, total: int, note: str = "") -> None:
        now, words = self._clock(), self._words(done, total, note)
        if now - self._last < SECONDS and not (self._written and done == total):
            return
        self._last, self._written = now, True
        self._file.write(words + "\n")
        self._file.flush()


class Cell:
    """Draws a bar below a notebook's cell, redrawn in place; its last state stays. It needs no widgets."""

    def __init__(self, unit: str, display: Callable[..., Any], clock: Callable[[], float] = time.monotonic) -> None:
        self._words, self._display, self._clock = Rate(unit, clock), display, clock
        self._last = float("-inf")

    def __call__(self, done: int, total: int, note: str = "") -> None:
        now, words = self._clock(), self._words(done, total, note)
        if now - self._last < REDRAWN and done < total:
            return
        self._last = now
        bar = f'<progress value="{done}" max="{total}"></progress> {escape_html(words)}'
        self._display({"text/plain": words, "text/html": bar})


def _display() -> Callable[[dict[str, str]], None]:
    """A place below the running cell of a notebook: what is shown there takes the place of what was."""
    from IPython.display import DisplayHandle

    handle, shown = DisplayHandle(), False

    def show(forms: dict[str, str]) -> None:
        nonlocal shown
        (handle.update if shown else handle.display)(forms, raw=True)
        shown = True

    return show


def duration(seconds: float) -> str:
    """A time as people say it: 40 s, 12 min, 3 h 5 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min"
