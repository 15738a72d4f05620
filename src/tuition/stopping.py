"""Signals that end a command: the first lets paid answers and training be kept, a later one ends the process at once.

Nothing here is used by the Python API, where Ctrl-C is a plain KeyboardInterrupt.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

from tuition.errors import Stopped

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
TOGETHER = 0.1  # seconds in which further signals belong to the first: a terminal and a launcher both send one

CALLER = "teacher call"  # name of a thread that waits for an answer

_received: tuple[int, float] | None = None  # the first signal, and when it came
_keeping = _deferring = 0  # how many `keeping` and `deferred` blocks are entered
_nothing_to_keep = False


def install() -> None:
    """Handle the signals from here on, as process 1 of a container too. One that the parent ignores stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)
    sys.unraisablehook = _unraisable


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Handle the signals inside, as a process that has received none."""
    global _received
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, hook, _received = {number: signal.getsignal(number) for number in SIGNALS}, sys.unraisablehook, None
    install()
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def restore() -> None:
    """Handle the signals again, if a library (Ray) has replaced these handlers."""
    if sys.unraisablehook is _unraisable:
        install()


def received() -> int | None:
    """The first signal received, if any."""
    return None if _received is None else _received[0]


def requested() -> bool:
    """Whether a signal was received."""
    return _received is not None


def check() -> None:
    """Raise `Stopped` if a signal was received: some library may have swallowed the first one."""
    if _received is not None:
        raise Stopped(_received[0])


@contextlib.contextmanager
def keeping() -> Iterator[None]:
    """Inside, paid answers or training must be kept, even while a module is being imported."""
    global _keeping
    _keeping += 1
    try:
        yield
    finally:
        _keeping -= 1


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Inside, the first signal interrupts nothing: the code there checks `requested` often and ends by itself."""
    global _deferring
    _deferring += 1
    try:
        yield
    finally:
        _deferring -= 1
    check()


def at_once() -> None:
    """From here on the first signal ends the process, because its work is done."""
    global _nothing_to_keep
    _nothing_to_keep = True


def leave(code: int) -> int:
    """End the process with this code, if calls are still waiting; else return it.

    They are threads of Python that may stand in code of C++. Where such a thread comes back while Python is ending, the
    process is aborted.
    """
    if any(thread.name == CALLER for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # closed, or nobody reads
                stream.flush()
        os._exit(code)
    return code


def _handle(number: int, frame: FrameType | None) -> None:
    global _received
    now = time.monotonic()
    if _received is None:
        _received = number, now
        if _deferring:
            return
        # An exception inside an import may end in another one, or in a traceback of C++.
        if _nothing_to_keep or (not _keeping and _importing(frame)):
            _end(number, b"Stopped.\n")
        raise Stopped(number)
    if now - _received[1] > TOGETHER:
        _end(number, b"")


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _end(number: int, message: bytes) -> NoReturn:
    """End as a kill would, without a traceback; accounts stay exact as after a kill."""
    with contextlib.suppress(OSError):
        os.write(2, (b"\x1b[?25h" if os.isatty(2) else b"") + message)  # a progress bar hides the cursor
    os._exit(128 + number)


def _unraisable(report: Any) -> None:
    """A `Stopped` that was raised where nothing can be raised is not reported; `check` raises it again."""
    if not isinstance(report.exc_value, Stopped):
        sys.__unraisablehook__(report)
