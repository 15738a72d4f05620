"""What several commands print: runs, accounts, plans, reports."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuition import escape
from tuition.cli.output import new_table, say, show, show_table

if TYPE_CHECKING:
    from tuition.data import Accounts, Bill, Pool, TransferSet
    from tuition.training import Run


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def print_run(run: Run, title: str, *, priced: bool = False) -> None:
    """The closing table of a run."""
    table = new_table(title, "", "")
    for name, value in (
        ("test accuracy, best validation", run.accuracy),
        ("test accuracy, last epoch", run.accuracy_last),
        ("test top-5", run.top5),
        ("calibration error", run.calibration_error),
        (f"validation {_measure(run)}, best (epoch {run.best_epoch})", run.validation),
        ("agreement with the teacher on the transfer set", run.agreement),
    ):
        if value is not None:
            table.add_row(name, f"{value:.2f} %")
    if run.teacher_accuracy is not None:
        table.add_row(f"teacher's accuracy on {run.teacher_inputs:,} labels", f"{run.teacher_accuracy:.2f} %")
    table.add_row("images seen", f"{run.images_seen:,}")
    table.add_row("seconds of training", f"{run.seconds:,.1f}")
    if any(run.accounts.as_dict().values()):
        for name, count in run.accounts.in_words().items():
            table.add_row(f"teacher calls {name}", f"{count:,}")
        for what, amount in billed(run.bill, priced):
            table.add_row(what, amount)
    show_table(table)
    say(f"Files are in {run.directory}.")


def _measure(run: Run) -> str:
    """What validation measured: accuracy, or agreement."""
    return run.measured.get("validation", "accuracy").split()[0]


def print_accounts(accounts: Accounts, bill: Bill | None = None, *, priced: bool = False) -> None:
    rest = "" if bill is None else "".join(f", {name} {value}" for name, value in billed(bill, priced))
    say(f"Teacher calls: {accounts}{rest}.")


def billed(bill: Bill, priced: bool) -> list[tuple[str, str]]:
    """What calls cost, where a price was set, and the tokens they used, where the server counted them."""
    from tuition.store.price import money

    found = [("cost", money(bill.cost))] if priced else []
    if bill.input_tokens or bill.output_tokens or bill.metered:
        found += [("tokens in", f"{bill.input_tokens:,}"), ("tokens out", f"{bill.output_tokens:,}")]
    return found


def say_refused(transfer: TransferSet, validation: Pool | TransferSet, store: str) -> None:
    from tuition.data import TransferSet
    from tuition.store import refusals
    from tuition.store.address import parse

    if transfer.refused:
        further = len(validation) if isinstance(validation, TransferSet) else 0
        place = parse(store)
        path = Path(place.database or "") if place.get_backend_name() == "sqlite" else None
        asked = len(transfer) + further + len(transfer.refused)
        say(refusals.sentence(transfer.refused, asked, refusals.beside(path)))


def say_further(validation: Pool | TransferSet) -> None:
    from tuition.data import TransferSet

    if isinstance(validation, TransferSet):
        say(f"There are no labels, so {len(validation)} further calls choose the best epoch, by agreement with them.")


def print_plan(plan: Any) -> None:
    table = new_table("Before asking", "", "")
    for name, value in plan.rows():
        table.add_row(name, value)
    show_table(table)


def print_forecast(ahead: Any) -> None:
    hours, minutes = divmod(math.ceil(ahead.seconds / 60), 60)
    table = new_table("Before the study", "", "")
    table.add_row("runs to make", f"{ahead.runs:,}")
    table.add_row("runs finished already", f"{ahead.known:,}")
    table.add_row("teachers to train first", ", ".join(ahead.teachers) or "none")
    table.add_row("new teacher calls", f"{ahead.new:,}")
    table.add_row("teacher calls paid so far, in the study's store", f"{ahead.paid:,}")
    table.add_row("time to train students, about (less where it stops early)", f"{hours:,} h {minutes} min")
    show_table(table)


def print_report(folders: list[Path], out: Path) -> None:
    """Build the report; print mean and deviation by method and calls, and where to look."""
    from tuition.studies import records, statistics
    from tuition.studies import report as reports

    page = reports.build(folders, out)
    for section in records.sections(records.read(*folders)):
        show(escape.line(f"{section.title}: test accuracy (%), mean ± standard deviation over seeds, by teacher calls"))
        show(escape.line(section.conditions))
        table = new_table("", "method", *map(str, section.calls))
        for method, curve in section.curves.items():
            cells = (statistics.summarise(list(curve.get(calls, {}).values())) for calls in section.calls)
            table.add_row(method, *map(_mean_and_spread, cells))
        show_table(table)
    say(f"Report: {page}. Figures, tables and runs.csv are beside it.")


def _mean_and_spread(found: Any) -> str:
    """Of a summary over seeds; one seed has no spread."""
    if not found.n:
        return "-"
    return f"{found.mean:.1f}" if found.n == 1 else f"{found.mean:.1f} ±{found.std:.1f}"
