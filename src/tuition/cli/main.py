"""The command line. Heavy imports stand in the commands that need them, so that `tuition --help` is instant."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer import Option

from tuition import crash, escape, stopping
from tuition.cli import asking, lists, output, reports, runs, sharing, store, store_files, students, studies, watching
from tuition.cli.output import say, show
from tuition.cli.signatures import prints
from tuition.errors import UserError

app = typer.Typer(
    help="Distil an expensive teacher into a small student, paying for as few teacher calls as possible.",
    no_args_is_help=True,
    epilog="Exit codes: 0 done, 1 failed, 2 refused, 3 out of time, 70 unexpected error, 130 interrupted.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(requested: bool) -> None:
    if requested:
        from tuition import __version__

        show(f"tuition {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[bool, Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
    traced: Annotated[bool, Option("--traceback", help="Show the traceback of an error that is not expected.")] = False,
) -> None:
    if _processes() > 1 and context.invoked_subcommand not in ("teach", "distill"):
        raise UserError(f"tuition {context.invoked_subcommand} runs in one process; start it without torchrun.")


PANELS: dict[str, tuple[Any, ...]] = {
    "Distil": (studies.demo, students.teach, students.import_teacher, asking.ask, asking.check, students.distill),
    "Compare": (studies.study, reports.report, reports.plan, watching.watch),
    "Use a student": (runs.predict, runs.evaluate, sharing.export, sharing.push),
    "Look up": (lists.settings, lists.methods, lists.models, lists.data),
}
for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel, add_help_option=False)(prints(command))
stores = typer.Typer(no_args_is_help=True, help="Look after a store of answers: usage, verify, export, import, prune.")
for command in (store.usage, store.verify, store_files.export, store_files.import_, store.prune):
    stores.command(command.__name__.rstrip("_"), add_help_option=False)(prints(command))
app.add_typer(stores, name="store", rich_help_panel="Look up")

RESUMED = ("ask", "distill", "study", "teach")  # commands that find what they did before

LONGEST_MESSAGE = 1000  # characters
FILED = (*RESUMED, "demo", "report")  # commands whose results are files

# All that can be wrong with a command line; newer typers carry a click of their own.
UsageError: Any = typer.BadParameter.__base__


def main() -> int:
    """Run the command line. Returns its exit code: what the user can fix is one sentence and 2."""
    output.prepare()
    words = [word for word in sys.argv[1:] if word != crash.OPTION]
    traced = len(words) < len(sys.argv) - 1

    def outcome() -> tuple[int, str]:
        return _outcome(words)

    def last_resort(error: Exception) -> tuple[int, str]:
        if traced:
            output.ERR.write(crash.shown(error))
        return crash.EXIT_CODE, crash.sentence(error, words)

    with stopping.handled():
        try:
            if _processes() > 1:
                from tuition.cli.processes import launched

                code, message = launched(outcome, last_resort)
            else:
                code, message = outcome()
        except Exception as error:
            code, message = last_resort(error)
        if stopping.received() is not None and code != 0:  # whatever a library made of the signal
            # Of several processes one alone has its say.
            code, message = 128 + (stopping.received() or 0), message and _stopped(words)
        if code == 0 and output.OUT.lost:
            code = 0 if words[0] in FILED else 2
            message = f"Error: standard output cannot be written to: {output.OUT.lost}; free space or name a file."
        if message:
            say(escape.shorten(message, LONGEST_MESSAGE))
        return code


def _processes() -> int:
    """How many processes torchrun has started, of which this is one."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


def _outcome(words: list[str]) -> tuple[int, str]:
    """The exit code of a command, and what is wrong."""
    try:
        code = app(args=words, prog_name="tuition", standalone_mode=False)
        if code == 130:  # newer typers turn Ctrl-C into this
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0, ""
    except UsageError as error:
        return 2, _sentence(error)
    except UserError as error:
        return 2, f"Error: {error}"
    except (KeyboardInterrupt, typer.Abort):
        return 128 + (stopping.received() or signal.SIGINT), _stopped(words)
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # nobody reads what typer itself prints, such as the help
            return 0, ""
        raise
    except MemoryError:
        return 2, "Error: there is not enough memory for this; take fewer or smaller inputs, or a smaller model."
    except OSError as error:
        if error.filename is None or error.strerror is None:
            raise
        return 2, f"Error: {error.filename}: {error.strerror.lower()}; correct this, or name another place."


def _stopped(words: Sequence[str]) -> str:
    """What a stopped command can say truly."""
    return "Stopped. Give the same command again to resume." if words and words[0] in RESUMED else "Stopped."


def _sentence(error: Any) -> str:
    """What is wrong with a command line; the help, where nothing was given."""
    if type(error).__name__ == "NoArgsIsHelpError":
        output.ERR.write(error.format_message() + "\n")
        return ""
    return f"Error: {error.format_message().rstrip('.?')}; see `{error.ctx.command_path} --help`."
