"""What follows a run while it is trained: logs, deadlines, progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tuition import progress
from tuition.errors import UserError

if TYPE_CHECKING:
    from tuition.training.run import Run


class UnfinishedError(UserError):
    """A callback has stopped a training before its end."""


class Callback:
    """Follows a run while it is trained. Every method does nothing until it is overridden, and returns nothing.

    Of several processes that train one student, the first alone calls its callbacks. An exception raised here ends the
    training, after a checkpoint is written.

    Attributes:
        stop: set this to True, and the training ends after the epoch: a checkpoint is written, and `distill` raises an
            `UnfinishedError`. The same call of `distill` resumes. After the last epoch it changes nothing.
    """

    stop: bool = False

    def on_epoch(self, row: Mapping[str, float]) -> None:
        """After every epoch, with its row of metrics.csv: "epoch", counted from 1, "loss", "validation" and others."""

    def on_round(self, row: Mapping[str, Any]) -> None:
        """After every round of asking and training, with its row of rounds.csv: "round", "calls", "validation", ..."""

    def on_end(self, run: Run) -> None:
        """After the training, when the files of the run are written."""


class WithoutEnd(Callback):
    """Follows one of several trainings for a callback whose `on_end` comes after the last."""

    def __init__(self, callback: Callback) -> None:
        self.callback = callback

    def on_epoch(self, row: Mapping[str, float]) -> None:
        self.callback.on_epoch(row)
        self.stop = self.callback.stop


class Deadline(Callback):
    """Stops a training after the first epoch that ends later than `moment`, as time.time() counts seconds."""

    def __init__(self, moment: float) -> None:
        self.moment = moment

    def on_epoch(self, row: Mapping[str, float]) -> None:
        self.stop = time.time() > self.moment


class Shown(Callback):
    """Shows every epoch by `show`, a function of (epochs done, epochs at most, the epoch's row)."""

    def __init__(self, show: Callable[[int, int, Mapping[str, float]], None], epochs: int) -> None:
        self.show, self.epochs = show, epochs

    def on_epoch(self, row: Mapping[str, float]) -> None:
        self.show(int(row["epoch"]), self.epochs, row)


@contextmanager
def bar(epochs: int) -> Iterator[Shown]:
    """A bar of epochs on standard error, until the block ends."""
    with progress.training() as show:
        yield Shown(show, epochs)
