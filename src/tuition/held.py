"""Signals that wait until a step of training, or a transaction of the store, is complete."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any, Self

from tuition.stopping import SIGNALS, TOGETHER


class Held:
    """Within, a first SIGINT, SIGTERM or SIGHUP is kept in `arrived`; a second one takes effect at once.

    Python runs handlers between any two instructions, so without this a signal could end a step halfway, and leave
    weights that are neither those before it nor those after it. `deliver` lets a signal do what it would have done.
    In a thread other than the main one no signal arrives, and nothing is changed.
    """

    def __init__(self) -> None:
        self.arrived, self._since = 0, 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                handler = signal.getsignal(number)
                if handler is not None and handler != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._keep)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()
        if self.arrived:
            self.deliver()

    def deliver(self, number: int = 0) -> None:
        """Give the signal that arrived, or this one, to the previous handler; continue if that returns."""
        number, self.arrived = number or self.arrived, 0
        waited = self._restore()
        signal.raise_signal(number)
        for other in waited:
            self._before[other] = signal.signal(other, self._keep)

    def _keep(self, number: int, frame: FrameType | None) -> None:
        if not self.arrived:
            self.arrived, self._since = number, time.monotonic()
        elif time.monotonic() - self._since > TOGETHER:
            self.deliver(number)

    def _restore(self) -> list[int]:
        """Put the handlers back; returns whose."""
        before, self._before = self._before, {}
        for number, handler in before.items():
            signal.signal(number, handler)
        return list(before)
