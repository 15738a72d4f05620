"""What the command line shows of a job."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from tuition.cli import output, progress
from tuition.cli.tables import say_further, say_refused
from tuition.data import Pool, TransferSet
from tuition.pipeline.settings import CommandSettings, TeachSettings
from tuition.pipeline.watch import Watch
from tuition.training.loop import Progress


class Shown(Watch):
    """Progress of asking and training, and what came of the answers."""

    def __init__(self, settings: CommandSettings) -> None:
        self.store = "" if isinstance(settings, TeachSettings) else settings.flat()["store"]

    def say(self, sentence: str) -> None:
        output.say(sentence)

    def asking(self) -> AbstractContextManager[Callable[[int, int], None]]:
        return progress.counting("calls")

    def answered(self, transfer: TransferSet, validation: Pool | TransferSet) -> None:
        say_refused(transfer, validation, self.store)
        say_further(validation)

    def training(self) -> AbstractContextManager[Progress]:
        return progress.training()
