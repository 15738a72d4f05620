"""Commands that make many runs: demo, study, report."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from tuition.cli.options import Executor, Sets, Spread, TrustCode, pairs
from tuition.cli.output import new_table, say, show_table
from tuition.cli.progress import counting, phases
from tuition.cli.tables import print_accounts, print_forecast, print_report


def demo(
    out: Annotated[Path, Option(help="Folder for the results.")] = Path("demo"),
    workers: Annotated[int | None, Option(min=1, help="Processes at once; by default one a core.")] = None,
) -> None:
    """Distil a small net for handwritten digits in two minutes: five methods at 20 to 320 teacher calls."""
    from tuition.data import Accounts
    from tuition.studies import demo as study

    with counting("students") as advance:
        summary = study.run(out, workers=workers, progress=advance)
    methods = list(dict.fromkeys(row["method"] for row in summary["results"]))
    budgets = sorted({row["calls"] for row in summary["results"]})
    cells = {(row["method"], row["calls"]): row for row in summary["results"]}
    table = new_table(
        f"Test accuracy (%) by teacher calls, mean ± std of {study.SEEDS} seeds", "method", *map(str, budgets)
    )
    for method in methods:
        row = [cells[method, calls] for calls in budgets]
        table.add_row(method, *(f"{c['mean']:.1f} ±{c['std']:.1f}" for c in row))
    show_table(table)
    print_accounts(Accounts(**summary["accounts"]))
    say(f"The teacher's own accuracy is {summary['teacher_accuracy']:.1f} %. It took {summary['seconds']:.0f} s.")
    say(f"Figure: {out / 'accuracy.png'}. Results: {out / 'summary.json'}.")


def study(
    name: Annotated[str, Argument(help="A study of the paper, such as figure2-wrn or table1, or a YAML file.")],
    out: Annotated[Path, Option(help="Folder for the study; what it holds already is gone on with.")],
    fast: Annotated[bool, Option("--fast", help="A cosine of fixed length, fewer budgets and seeds.")] = False,
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
    retry: Annotated[bool, Option("--retry", help="Make failed runs again.")] = False,
    max_minutes: Annotated[
        float | None, Option(min=0, help="Stop in time; the same command goes on. Exit code 3.")
    ] = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Say what it would take, and do nothing.")] = False,
    trust_code: TrustCode = False,
    sets: Sets = None,
) -> None:
    """Run a grid of methods, budgets and seeds, resumably, and report on it.

    --set takes the place of an axis too, and a list makes one: --set seed=[0,1,2].
    """
    from tuition.studies import forecast, grid
    from tuition.studies import study as studies

    variants = [word for word, given in (("fast", fast), ("digits", data == "digits"), ("smoke", smoke)) if given]
    if "digits" not in grid.variants_of(name):
        variants = [word for word in variants if word != "digits"]
    changes = pairs(sets) | ({} if data is None else {"data": data})
    if accounting is not None:
        changes["accounting"] = ["published", "matched"] if accounting == "both" else accounting
    if trust_code:
        changes["trust_code"] = True
    chosen = grid.read(name, variants, changes, trust_code=trust_code)
    shared: dict[str, Any] = {"teachers": teacher or [], "continue_from": continue_from or []}
    shared |= {"workers": workers, "retry": retry}
    if dry_run:
        print_forecast(forecast.forecast(chosen, out, **shared))
        return
    minutes = math.inf if max_minutes is None else max_minutes
    with phases() as progress:
        found = studies.run(chosen, out, minutes=minutes, executor=executor, progress=progress, **shared)
    studies.note_command(out, sys.argv[1:])
    for record in found.failed:
        say(f"Failed: {record.method}, {record.calls} calls, seed {record.seed}: {record.error.splitlines()[-1]}")
    if found.failed:
        say(f"Runs that failed: {len(found.failed)}; --retry makes them again.")
    if found.left:
        say(f"Time is up: {found.done} runs are done, {found.left} or more are left. The same command goes on.")
        sys.exit(3)
    print_report([out], out)
    if found.failed:
        sys.exit(1)


def report(
    folders: Annotated[list[Path], Argument(help="Folders of studies, with runs.csv.")],
    out: Annotated[Path, Option(help="Folder for figures, tables and report.html.")],
) -> None:
    """Rebuild figures, tables and the page from run records."""
    print_report(folders, out)
