"""The one error a user can mend, and what no message may hold."""

import re


class UserError(ValueError):
    """Something the user can mend. The message is one sentence: what is wrong, and what to do.

    The command line prints it without a traceback and exits with code 2.
    """


def without_passwords(text: str) -> str:
    """The text, with *** for the password in every address such as postgresql://user:password@host/database."""
    return re.sub(r"(://[^:/@\s]+):[^@\s]+@", r"\1:***@", text)
