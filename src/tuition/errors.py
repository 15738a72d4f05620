"""The error that a user can fix, the interrupt of a signal, and passwords removed from messages."""

import re


class UserError(ValueError):
    """Something the user can fix. The message is one sentence: what is wrong, and what to do.

    The command line prints it without a traceback and exits with code 2.
    """


class Stopped(KeyboardInterrupt):
    """A signal asks the process to stop: send and begin nothing more, keep what was paid and learned, raise it further.

    The command line raises it in the main thread at the first SIGINT, SIGTERM or SIGHUP; see `tuition.stopping`.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class Notice(UserWarning):
    """Something a user should know, while the command continues. The command line prints it as a line."""


def needs_extra(what: str, extra: str, error: ImportError) -> UserError:
    """The error that a package of an extra is missing, to raise."""
    return UserError(f"{what} needs an extra ({error}); pip install 'tuition[{extra}]'.")


def first_line(error: BaseException) -> str:
    """What an exception says, for a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    line = lines[0].strip().rstrip(".:")
    return line if len(line) <= 200 else f"{line[:197]}..."


_SECRETS = (
    # Of a database every character up to the last @ of the line, since people type passwords without encoding them.
    (re.compile(r"(postgres\w*(?:\+\w+)?://[^\s:/@]*):[^\n]*@"), r"\1:***@"),
    (re.compile(r"(://[^\s:/@]*):\S*@"), r"\1:***@"),
    (re.compile(r"((?:password|passwd|pwd)=)[^&\s'\"]*", re.IGNORECASE), r"\1***"),
)


def without_passwords(text: str) -> str:
    """The text with every password in an address or a query replaced by ***."""
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return text
