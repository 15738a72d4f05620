"""Commands that make many runs: demo, study, report."""

from __future__ import annotations

import math
import shlex
import sys
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from tuition.cli.options import DryRun, Sets, TrustCode, pairs
from tuition.cli.printer import Printer
from tuition.cli.tables import print_accounts, print_forecast, print_report, print_study, print_targets
from tuition.errors import UserError


class Executor(StrEnum):
    local = "local"
    ray = "ray"


class Kept(StrEnum):
    best = "best"
    all = "all"
    none = "none"


Spread = Annotated[
    Executor,
    Option(
        "--executor",
        rich_help_panel="Output",
        help="local: this machine. ray: the Ray cluster at RAY_ADDRESS, or one on this machine.",
    ),
]


def paper_studies() -> list[str]:
    """Their names, for the shell to complete; `grid.names` would import torch."""
    files = (file.name for file in resources.files("tuition.studies").joinpath("paper").iterdir())
    return sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml") and name[0] != "_")


def demo(
    printer: Printer,
    out: Annotated[Path, Option(help="Folder for the results.")] = Path("demo"),
    workers: Annotated[int | None, Option(min=1, help="Processes at a time; by default one a core.")] = None,
) -> None:
    """Distil a small net for handwritten digits in two minutes: six methods at 20 to 320 teacher calls.

    Example: tuition demo --out demo
    """
    from tuition.data import Accounts
    from tuition.studies import demo as study

    with printer.counting("students") as advance:
        summary = study.run(out, workers=workers, progress=advance)
    printer.record(**summary)
    methods: dict[str, dict[Any, str]] = {}
    for row in summary["results"]:
        cells = methods.setdefault(row["method"], {"method": row["method"]})
        cells[row["calls"]] = f"{row['mean']:.1f} ±{row['std']:.1f}"
    title = f"Test accuracy (%) by teacher calls, mean ± std of {study.SEEDS} seeds"
    printer.table(title, {key: str(key) for key in next(iter(methods.values()))}, list(methods.values()))
    print_accounts(printer, Accounts(**summary["accounts"]))
    printer.say(f"The teacher's accuracy is {summary['teacher_accuracy']:.1f} %. It took {summary['seconds']:.0f} s.")
    printer.say(f"Figure: {out / 'accuracy.png'}. Results: {out / 'summary.json'}.")


def study(
    printer: Printer,
    name: Annotated[
        str,
        Argument(
            help="A study of the paper, such as figure2-wrn or table1, or a YAML file.", autocompletion=paper_studies
        ),
    ],
    out: Annotated[Path, Option(help="Folder for the study; a study in it resumes.")],
    fast: Annotated[bool, Option("--fast", help="A cosine of fixed length, fewer budgets and seeds.")] = False,
    as_authors: Annotated[
        bool, Option("--as-authors", help="The authors' protocol to the letter; docs/deviations.md says what differs.")
    ] = False,
    smoke: Annotated[bool, Option("--smoke", help="Minutes on two cores, to see that it works.")] = False,
    data: Annotated[str | None, Option(help="digits (with its own pair and budgets), a folder, or a name.")] = None,
    teacher: Annotated[
        list[Path] | None, Option(help="Folder made by `tuition teach`, instead of training; give one for each.")
    ] = None,
    accounting: Annotated[str | None, Option(help="published, matched or both.")] = None,
    workers: Annotated[int | None, Option(min=1, help="Runs at a time; by default one a core.")] = None,
    executor: Spread = Executor.local,
    continue_from: Annotated[
        list[Path] | None, Option(help="Another study's folder; its runs are not repeated.")
    ] = None,
    retry: Annotated[bool, Option("--retry", help="Repeat failed runs.")] = False,
    keep: Annotated[
        Kept, Option(help="Students to keep: best (by validation, as OUT/best), all (in OUT/students too), or none.")
    ] = Kept.best,
    max_minutes: Annotated[
        float | None, Option(min=0, help="Stop after this time with exit code 3; the same command resumes.")
    ] = None,
    dry_run: DryRun = False,
    trust_code: TrustCode = False,
    sets: Sets = None,
) -> int:
    """Run a grid of methods, budgets and seeds, resumably, and report on it.

    --set replaces an axis too, and a list makes one: --set seed=[0,1,2].

    Example: tuition study figure2-wrn --smoke --data digits --out study
    """
    from tuition.studies import forecast, grid
    from tuition.studies import study as studies
    from tuition.studies.watching import noted

    digits = data == "digits" and "digits" in grid.variants_of(name)
    words = {"fast": fast, "as_authors": as_authors, "digits": digits, "smoke": smoke}
    variants = [word for word, chosen in words.items() if chosen]
    changes = pairs(sets) | ({} if data is None else {"data": data})
    if accounting is not None:
        changes["accounting"] = ["published", "matched"] if accounting == "both" else accounting
    if trust_code:
        changes["trust_code"] = True
    chosen = grid.read(name, variants, changes, trust_code=trust_code)
    shared: dict[str, Any] = {"teachers": teacher or [], "continue_from": continue_from or []}
    shared |= {"workers": workers, "retry": retry}
    if dry_run:
        print_forecast(printer, forecast.forecast(chosen, out, **shared))
        return 0
    minutes = math.inf if max_minutes is None else max_minutes
    with printer.phases() as progress:
        summary = studies.run(
            chosen, out, minutes=minutes, executor=executor, keep=keep.value, progress=noted(out, progress), **shared
        )
    studies.note_command(out, sys.argv[1:])
    return print_study(printer, summary, out)


def report(
    printer: Printer,
    folders: Annotated[list[Path], Argument(help="Folders of studies, or the folder of one run.")],
    out: Annotated[
        Path | None, Option(help="Folder for report.html; by default a study's own, or `report` in that of a run.")
    ] = None,
    trust_code: TrustCode = False,
) -> None:
    """Build the report of studies, or of one run: a verdict in words, figures and tables, as a page and in Markdown.

    Of a run it shows curves, calibration, the worst classes, and inputs about which student and teacher disagree, by
    answers that the store holds. Nothing is asked.

    Example: tuition report study --out report
    """
    if not (folders[0] / "run.json").is_file():
        if out is None and len(folders) > 1:
            raise UserError("a report of several studies needs a folder of its own; name it with --out.")
        print_report(printer, folders, folders[0] if out is None else out)
        return
    if len(folders) > 1:
        raise UserError("a report is of one run, or of studies; name one folder of a run.")
    from tuition.studies import run_report

    page, report = run_report.build(folders[0], folders[0] / "report" if out is None else out, trust_code=trust_code)
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
