"""Commands that say what came of runs and studies: report, plan."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from tuition.cli.options import TrustCode
from tuition.cli.printer import Printer
from tuition.cli.study_tables import print_report, print_targets
from tuition.errors import UserError


def report(
    printer: Printer,
    folders: Annotated[list[Path], Argument(help="Folders of studies, or the folder of one run.")],
    out: Annotated[
        Path | None, Option(help="Folder for report.html; by default a study's own, or `report` in that of a run.")
    ] = None,
    data: Annotated[str | None, Option(help="Of a run made in Python: its data, whose split test is measured.")] = None,
    teacher: Annotated[str | None, Option(help="Of a run made in Python: its teacher, as for `tuition ask`.")] = None,
    store: Annotated[str | None, Option(help="Of a run made in Python: the store of its answers.")] = None,
    trust_code: TrustCode = False,
) -> None:
    """Build the report of studies, or of one run: a verdict in words, figures and tables, as a page and in Markdown.

    Of a run it shows curves, calibration, the worst classes, and inputs about which student and teacher disagree, by
    answers that the store holds. Nothing is asked.

    Example: tuition report study --out report
    """
    given = {"data": data, "teacher": teacher, "store": store}
    named = {name: value for name, value in given.items() if value is not None}
    if not (folders[0] / "run.json").is_file():
        if named:
            raise UserError(f"a study names its own data and answers; leave out {', '.join(named)}.")
        if out is None and len(folders) > 1:
            raise UserError("a report of several studies needs a folder of its own; name it with --out.")
        print_report(printer, folders, folders[0] if out is None else out)
        return
    if len(folders) > 1:
        raise UserError("a report is of one run, or of studies; name one folder of a run.")
    from tuition.studies import run_report

    place = folders[0] / "report" if out is None else out
    page, report = run_report.build(folders[0], place, trust_code=trust_code, named=named)
    for sentence in report.verdict:
        printer.show(f"- {sentence}")
    for note in report.notes:
        printer.say(f"Left out. {note}")
    if any("--trust-code" in note for note in report.notes):
        folder = [] if out is None else ["--out", str(out)]
        printer.say(f"To run that code: {shlex.join(['tuition', 'report', str(folders[0]), *folder, '--trust-code'])}")
    printer.say(
        f"Report: {page}. report.md and figures are beside it.",
        report=page, verdict=report.verdict, left_out=report.notes,
    )  # fmt: skip


def plan(
    printer: Printer,
    folder: Annotated[Path, Argument(metavar="RUN_OR_STUDY", help="Folder of a run with --rounds, or of a study.")],
    until: Annotated[list[float], Option(min=0, max=100, metavar="PERCENT", help="Target accuracy; give one or more.")],
) -> None:
    """Print the calls that target accuracies need, with intervals, and their price where one is known.

    Inside the measured range calls are interpolated. Up to twice the calls measured they follow a power law, if it
    predicts the last measurement from the others; beyond, the reason stands in place of a number.

    Example: tuition plan study --until 90 --until 95
    """
    from tuition.studies import needed

    print_targets(printer, needed.plan(needed.measured(folder), until))
