"""The process of the command line. Signals are handled before anything heavy is imported."""

import sys

from tuition import stopping


def main() -> int:
    """Run the command line. Returns its exit code."""
    stopping.install()
    from tuition import cli

    code = cli.main()
    stopping.at_once()
    return code


if __name__ == "__main__":
    sys.exit(main())
