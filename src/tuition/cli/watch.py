"""What the command line shows of a job, and asks before its first paid call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tuition import stopping
from tuition.cli.asking import confirm
from tuition.cli.printer import Printer
from tuition.cli.tables import print_answers, print_round
from tuition.data import Pool, TransferSet
from tuition.pipeline.settings import DistillSettings
from tuition.pipeline.sources import Sources
from tuition.pipeline.watch import Watch
from tuition.training import Callback
from tuition.training.callbacks import Shown as ShownEpochs


class Signals(Callback):
    """Stops a training where a signal was received that some library has swallowed."""

    def on_epoch(self, row: Mapping[str, float]) -> None:
        self.stop = stopping.requested()


class Shown(Watch):
    """Progress of asking and training, and what became of the answers."""

    def __init__(self, printer: Printer) -> None:
        self.printer = printer

    def say(self, sentence: str) -> None:
        self.printer.say(sentence)

    @contextlib.contextmanager
    def training(self, epochs: int) -> Iterator[Sequence[Callback]]:
        with self.printer.training() as show:
            yield [ShownEpochs(show, epochs), Signals()]


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

    def round(self, row: Mapping[str, Any]) -> None:
        print_round(self.printer, row)
