"""What the command line shows of a job, and asks before its first paid call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from tuition.cli.asking import confirm
from tuition.cli.printer import Printer
from tuition.cli.tables import print_answers
from tuition.data import Pool, TransferSet
from tuition.pipeline.settings import DistillSettings
from tuition.pipeline.sources import Sources
from tuition.pipeline.watch import Watch
from tuition.training.loop import Progress


class Shown(Watch):
    """Progress of asking and training, and what became of the answers."""

    def __init__(self, printer: Printer) -> None:
        self.printer = printer

    def say(self, sentence: str) -> None:
        self.printer.say(sentence)

    def training(self) -> AbstractContextManager[Progress]:
        return self.printer.training()


class ShownDistillation(Shown):
    """As `Shown`, of a job that asks a teacher."""

    def __init__(self, printer: Printer, settings: DistillSettings, sources: Sources, *, yes: bool) -> None:
        super().__init__(printer)
        self.settings, self.sources, self.yes = settings, sources, yes

    @contextlib.contextmanager
    def asking(self) -> Iterator[Callable[[int, int], None]]:
        confirm(self.printer, self.settings, self.sources, yes=self.yes)
        with self.printer.counting("calls") as advance:
            yield advance

    def answered(self, transfer: TransferSet, validation: Pool | TransferSet) -> None:
        print_answers(self.printer, transfer, validation, self.settings.ask.store)
