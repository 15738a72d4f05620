"""What a job shows while it works."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from tuition.data import Pool, TransferSet
from tuition.training.loop import Progress


class Watch:
    """Shows nothing. A caller overrides what it wants to show, or raises an exception to stop the job."""

    def say(self, sentence: str) -> None:
        """A sentence for the user."""

    def asking(self) -> AbstractContextManager[Callable[[int, int], None] | None]:
        """Entered while the teacher is asked; gives a function of calls done and all calls."""
        return nullcontext()

    def answered(self, transfer: TransferSet, validation: Pool | TransferSet) -> None:
        """All answers have arrived."""

    def training(self) -> AbstractContextManager[Progress | None]:
        """Entered while a model is trained; gives what `distill` takes as `progress`."""
        return nullcontext()
