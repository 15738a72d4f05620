"""What a job shows while it works."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from tuition.data import Pool, TransferSet
from tuition.training import Callback


class Watch:
    """Shows nothing. A caller overrides what it wants to show."""

    def say(self, sentence: str) -> None:
        """A sentence for the user."""

    def asking(self) -> AbstractContextManager[Callable[[int, int], None] | None]:
        """Entered while the teacher is asked; gives a function of calls done and all calls."""
        return nullcontext()

    def answered(self, transfer: TransferSet, validation: Pool | TransferSet) -> None:
        """All answers have arrived; `validation` is a transfer set where this ask paid for it."""

    def round(self, row: Mapping[str, Any]) -> None:
        """A round has ended; `row` is its line of rounds.csv."""

    def training(self, epochs: int) -> AbstractContextManager[Sequence[Callback]]:
        """Entered while a model is trained for at most `epochs`; gives the callbacks of the training."""
        return nullcontext(())


class Followed(Watch):
    """Shows nothing, and has callbacks follow each training."""

    def __init__(self, *callbacks: Callback) -> None:
        self.callbacks = callbacks

    def training(self, epochs: int) -> nullcontext[Sequence[Callback]]:
        return nullcontext(self.callbacks)
