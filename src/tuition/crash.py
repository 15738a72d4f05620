"""The last resort: an unexpected exception becomes one sentence, and its traceback a file."""

from __future__ import annotations

import os
import platform
import re
import shlex
import tempfile
import traceback
from collections.abc import Sequence

from tuition import escape
from tuition.errors import without_passwords

EXIT_CODE = 70  # EX_SOFTWARE of sysexits.h
OPTION = "--traceback"
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)


def sentence(error: BaseException, words: Sequence[str]) -> str:
    """The message for an unexpected error of the command `words`: its type and where its traceback is."""
    command = escape.shorten(scrubbed(shlex.join(["tuition", *words, OPTION])))
    message = escape.shorten(" ".join(scrubbed(str(error)).split()), 200)
    what = f"{type(error).__name__}: {message}" if message else type(error).__name__
    place = _kept(error, words)
    where = "its traceback could not be written" if place is None else f"its traceback is in {place}"
    return f"Error: unexpected {what}; {where}, and `{command}` shows it."


def shown(error: BaseException) -> str:
    """The traceback, without secrets."""
    return scrubbed("".join(traceback.format_exception(error)))


def scrubbed(text: str) -> str:
    """The text without passwords, and without the values of variables of the environment that hold a secret."""
    for name, value in os.environ.items():
        if len(value) >= 8 and _SECRET.search(name):
            text = text.replace(value, "***")
    return "".join(escape.visible(without_passwords(line), keep="\n\t") for line in text.splitlines(keepends=True))


def _kept(error: BaseException, words: Sequence[str]) -> str | None:
    """The file in the folder for temporary files that holds the traceback; None if it cannot be written."""
    from tuition import __version__

    about = f"tuition {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
    command = scrubbed(f"{shlex.join(['tuition', *words])}\n\n")
    try:
        handle, path = tempfile.mkstemp(prefix="tuition-", suffix=".txt")  # which only this user reads
        with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(about + command + shown(error))
    except OSError:
        return None
    return path
