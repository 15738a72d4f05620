"""Threads that call a teacher, and the answers as they come."""

from __future__ import annotations

import threading
from queue import Empty, SimpleQueue
from typing import Any

from tuition import stopping
from tuition.store.ledger import Flight
from tuition.teachers.protocol import Teacher


class Callers:
    """Calls a teacher from up to `concurrency` threads, or in this one where that is one and `inline`.

    The threads are daemons, so that an interrupt does not wait for an answer that may never come.
    """

    def __init__(self, teacher: Teacher, concurrency: int, *, inline: bool) -> None:
        self._teacher, self._inline = teacher, inline and concurrency == 1
        self._asked: SimpleQueue[tuple[Flight, Any] | None] = SimpleQueue()
        self._arrived: SimpleQueue[tuple[Flight, Any]] = SimpleQueue()
        self._busy, self._threads = 0, 0

    def send(self, flight: Flight, inputs: Any) -> None:
        """Ask about inputs; the answer arrives some time."""
        if self._inline:
            self._arrived.put((flight, self._call(inputs)))
            return
        self._asked.put((flight, inputs))
        self._busy += 1
        if self._busy > self._threads:
            self._threads += 1
            threading.Thread(target=self._work, daemon=True, name=stopping.CALLER).start()

    def arrived(self, most: int, timeout: float | None = 0.0) -> list[tuple[Flight, Any]]:
        """Answers that have arrived; waits for the first of them, None for as long as it takes."""
        arrivals: list[tuple[Flight, Any]] = []
        while len(arrivals) < most:
            try:
                arrivals.append(self._arrived.get(timeout=timeout) if timeout != 0 else self._arrived.get_nowait())
            except Empty:
                break
            timeout = 0.0
        self._busy -= len(arrivals)
        return arrivals

    def close(self) -> None:
        """Let the threads end, each when its teacher has answered."""
        for _ in range(self._threads):
            self._asked.put(None)

    def _work(self) -> None:
        while (request := self._asked.get()) is not None:
            flight, inputs = request
            try:
                answer = self._call(inputs)
            except KeyboardInterrupt as error:  # the teacher's own: a user's interrupt comes to the main thread
                answer = error
            self._arrived.put((flight, answer))

    def _call(self, inputs: Any) -> Any:
        """The answer, or the error in its place: also those that would end a thread, and leave the ask waiting."""
        try:
            return self._teacher(inputs)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return error
