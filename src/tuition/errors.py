"""The one error a user can mend."""


class UserError(ValueError):
    """Something the user can mend. The message is one sentence: what is wrong, and what to do.

    The command line prints it without a traceback and exits with code 2.
    """
