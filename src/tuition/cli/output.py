"""What the command line prints. A terminal that is gone, narrow or poor in characters undoes no work."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import sys
from typing import Any, TextIO

from tuition import escape
from tuition.errors import UserError

GONE = (errno.EPIPE, errno.EIO, errno.ENXIO, errno.EBADF)  # whoever read has gone, as `head` does


class Stream(io.TextIOBase):
    """Standard output or standard error, whichever it is now; what cannot be written there is dropped."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.lost = ""  # why something could not be written, though somebody reads

    @property
    def _stream(self) -> TextIO | None:
        return getattr(sys, self._name)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            return self._stream is not None and self._stream.isatty()
        return False

    def write(self, text: str) -> int:
        try:
            write(self._stream, text)
        except OSError as error:
            self.lost = "" if error.errno in GONE else (error.strerror or str(error)).lower()
        except ValueError:  # it is closed
            pass
        return len(text)

    def flush(self) -> None:
        self.write("")


OUT: Any = Stream("stdout")
ERR: Any = Stream("stderr")


def write(stream: TextIO | None, text: str) -> None:
    """Write and flush, with escapes for characters that the stream's encoding lacks.

    Raises:
        OSError: it cannot be written to; nothing more is, then.
    """
    if stream is None:
        return
    try:
        try:
            stream.write(text)
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except OSError:
        _silence(stream)
        raise


def _silence(stream: TextIO) -> None:
    """Let what is still in the stream's buffer go nowhere, or the interpreter would complain of it at its end."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()


def prepare() -> None:
    """Messages of the logs of libraries are escaped as those of `say`; nothing was lost so far."""
    OUT.lost = ERR.lost = ""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_OneLine())


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return escape.line(record.getMessage())


def say(text: str) -> None:
    """One line to standard error, where progress goes too: standard output is for data."""
    ERR.write(escape.line(text) + "\n")


def show(text: str) -> None:
    """Lines that are our own, to standard output."""
    OUT.write(text if text.endswith("\n") else f"{text}\n")


def data(text: str) -> None:
    """What was asked for, to standard output.

    Raises:
        UserError: it cannot be written there, for another reason than that nobody reads it any more.
    """
    try:
        write(sys.stdout, text)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in GONE:
            why = (error.strerror or str(error)).lower()
            raise UserError(f"standard output cannot be written to: {why}; free space or name a file.") from error


def new_table(title: str, *columns: str, text: int = 1) -> Any:
    """A table whose first `text` columns are text, the others numbers; without column names, two columns of facts."""
    from rich import box
    from rich.table import Table

    class Escaped(Table):
        def add_row(self, *cells: Any, **options: Any) -> None:
            super().add_row(*map(escape.line, cells), **options)

    style: dict[str, Any] = {"title_justify": "left", "title_style": "bold", "box": box.SIMPLE_HEAD, "show_edge": False}
    table = Escaped(title=escape.line(title), show_header=any(columns), pad_edge=False, **style)
    for i, column in enumerate(columns):
        table.add_column(escape.line(column), justify="left" if i < text else "right", overflow="fold")
    return table


def show_table(table: Any) -> None:
    from rich.console import Console

    Console(file=OUT, markup=False, highlight=False).print(table, "")
