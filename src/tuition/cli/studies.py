"""Commands that make many runs: demo, study."""

from __future__ import annotations

import math
import sys
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from tuition.cli.options import DryRun, Sets, TrustCode, pairs
from tuition.cli.printer import Printer
from tuition.cli.study_tables import print_forecast, print_study
from tuition.cli.tables import print_accounts


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
