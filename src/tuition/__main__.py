"""The process of the command line: `tuition`, and `python -m tuition`.

With `-m`, Python puts the current folder first on the import path, so that files there go before the standard library.
That ends here, first of all. What cannot be prevented: the few modules that Python itself imports before, `runpy` and
what it needs. `python -P -m tuition` and the command `tuition` have no such gap.
"""

import os
import sys


def leave_current_folder() -> None:
    """Take the current folder from the import path; where PYTHONPATH names it, or tuition lies in it, put it last."""
    try:
        here = os.path.realpath(os.getcwd())
    except OSError:  # it was deleted
        return
    named = [os.path.realpath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    own = os.path.realpath(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    sys.path[:] = [path for path in sys.path if os.path.realpath(path or ".") != here]
    if here in (*named, own):
        sys.path.append(here)


def main() -> int:
    """Run the command line. Signals are handled before anything heavy is imported. Returns its exit code."""
    leave_current_folder()
    from tuition import stopping

    stopping.install()
    from tuition.cli import main

    code = main.main()
    stopping.at_once()
    return stopping.leave(code)


if __name__ == "__main__":
    sys.exit(main())
