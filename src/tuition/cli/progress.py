"""Progress of a command, which a signal may stop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

from tuition import progress, stopping
from tuition.cli.output import ERR


@contextlib.contextmanager
def counting(unit: str) -> Iterator[Callable[[int, int], None]]:
    """Called with (done, total)."""
    with stopping.keeping(), progress.counting(unit, ERR) as advance:
        yield advance


@contextlib.contextmanager
def phases() -> Iterator[Callable[[str, int, int], None]]:
    """One after another; called with (what is counted, done, total)."""
    with stopping.keeping(), progress.phases(ERR) as advance:
        yield advance


@contextlib.contextmanager
def training() -> Iterator[Callable[[int, int, Mapping[str, float]], None]]:
    """Epochs, with their figures."""
    with stopping.keeping(), progress.training(ERR) as show:

        def advance(done: int, total: int, figures: Mapping[str, float]) -> None:
            stopping.check()
            show(done, total, figures)

        yield advance
