"""What several commands print: runs, accounts, plans, reports."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuition.cli.printer import Fact, Printer
from tuition.cli.values import cell

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tuition.data import Accounts, Bill, Pool, TransferSet
    from tuition.training import Run


def print_run(printer: Printer, run: Run, title: str, *, priced: bool = False) -> None:
    """The closing table of a run."""
    measured = run.measured.get("validation", "accuracy").split()[0]
    figures = [
        Fact("accuracy", "test accuracy, best validation", run.accuracy),
        Fact("accuracy_last", "test accuracy, last epoch", run.accuracy_last),
        Fact("top5", "test top-5", run.top5),
        Fact("calibration_error", "calibration error", run.calibration_error),
        Fact("validation", f"validation {measured}, best (epoch {run.best_epoch})", run.validation),
        Fact("agreement", "agreement with the teacher on the transfer set", run.agreement),
        Fact("teacher_accuracy", f"teacher's accuracy on {run.teacher_inputs:,} labels", run.teacher_accuracy),
    ]
    facts = [fact._replace(text=f"{fact.value:.2f} %") for fact in figures if fact.value is not None]
    facts += [Fact("images_seen", "images seen", run.images_seen), Fact("seconds", "seconds of training", run.seconds)]
    if any(run.accounts.as_dict().values()):
        counts = zip(run.accounts.as_dict(), run.accounts.in_words().items(), strict=True)
        facts += [Fact(f"accounts.{key}", f"teacher calls {word}", count) for key, (word, count) in counts]
        facts += billed(run.bill, priced)
    printer.facts(title, facts)
    printer.say(f"Files are in {run.directory}.", best_epoch=run.best_epoch, epochs=run.epochs, directory=run.directory)


def print_accounts(printer: Printer, accounts: Accounts, bill: Bill | None = None, *, priced: bool = False) -> None:
    costs = [] if bill is None else billed(bill, priced)
    rest = "".join(f", {fact.label} {cell(fact.value)}" for fact in costs)
    values = {fact.key: fact.value for fact in costs}
    printer.say(f"Teacher calls: {accounts}{rest}.", accounts=accounts, **values)


def billed(bill: Bill, priced: bool) -> list[Fact]:
    """What calls cost, where a price was set, and the tokens they used, where the server counted them."""
    facts = [Fact("cost", "cost", bill.cost)] if priced else []
    if bill.input_tokens or bill.output_tokens or bill.metered:
        facts.append(Fact("input_tokens", "tokens in", bill.input_tokens))
        facts.append(Fact("output_tokens", "tokens out", bill.output_tokens))
    return facts


def print_answers(printer: Printer, transfer: TransferSet, validation: Pool | TransferSet, store: str) -> None:
    """What the teacher refused, and the further answers that stand in for labels."""
    from tuition.data import TransferSet
    from tuition.store import refusals
    from tuition.store.address import parse

    further = len(validation) if isinstance(validation, TransferSet) else 0
    if transfer.refused:
        place = parse(store)
        path = Path(place.database or "") if place.get_backend_name() == "sqlite" else None
        queries = len(transfer) + further + len(transfer.refused)
        printer.say(refusals.sentence(transfer.refused, queries, refusals.beside(path)), refused=len(transfer.refused))
    if further:
        printer.say(
            f"There are no labels, so {further} further calls choose the best epoch, by agreement with them.",
            validation_calls=further,
        )


def print_round(printer: Printer, row: Mapping[str, Any]) -> None:
    """One line for a round that has ended."""
    cost = f", cost {row['cost']}" if float(row["cost"]) else ""
    bound = "" if row["at_least"] is None else f" (at least {row['at_least']:.1f} % with 95 % confidence)"
    printer.say(
        f"Round {row['round']}: {row['calls']:,} inputs asked about, {row['paid']:,} calls paid{cost}; "
        f"validation {row['validation']:.2f} %{bound}."
    )


def print_report(printer: Printer, folders: list[Path], out: Path) -> None:
    """Build the report; print its verdict, mean and deviation by method and calls, and where to look."""
    from tuition.studies import paid_calls, records, statistics, verdict
    from tuition.studies import report as reports

    page, sections, stores = reports.build(folders, out), [], paid_calls.read(folders)
    for section in records.sections(records.read(*folders)):
        summaries = {
            method: {calls: statistics.summarise(list(curve.get(calls, {}).values())) for calls in section.calls}
            for method, curve in section.curves.items()
        }
        decided = verdict.verdict(section, stores)
        words = [] if decided is None else decided.sentences
        about = {"title": section.title, "conditions": section.conditions, "verdict": words}
        sections.append({**about, "methods": summaries})
        printer.show(f"{section.title}: {section.conditions}")
        for sentence in words:
            printer.show(f"- {sentence}")
        printer.show("")
        printer.show("Test accuracy (%), mean ± standard deviation over seeds, by teacher calls:")
        printer.table(
            "",
            {"method": "method"} | {calls: str(calls) for calls in section.calls},
            [
                {"method": method} | {calls: mean_and_spread(summary) for calls, summary in row.items()}
                for method, row in summaries.items()
            ],
        )
    for sentence in verdict.paid(stores):
        printer.show(sentence)
    printer.say(f"Report: {page}. report.md, figures and tables are beside it.", report=page, sections=sections)


def mean_and_spread(summary: Any) -> str:
    """Of a summary over seeds; one seed has no spread."""
    if not summary.n:
        return "-"
    return f"{summary.mean:.1f}" if summary.n == 1 else f"{summary.mean:.1f} ±{summary.std:.1f}"


def print_study(printer: Printer, summary: Any, out: Path) -> int:
    """What became of a study; returns the exit code."""
    for record in summary.failed:
        printer.say(
            f"Failed: {record.method}, {record.calls} calls, seed {record.seed}: {record.error.splitlines()[-1]}"
        )
    failed = len(summary.failed)
    printer.record(done=summary.done, failed=failed, left=summary.left)
    if failed:
        printer.say(f"Runs that failed: {failed}; --retry repeats them.")
    if summary.left:
        printer.say(
            f"Time is up: {summary.done} runs are done, {summary.left} or more are left. The same command resumes."
        )
        return 3
    print_report(printer, [out], out)
    if summary.best is not None:
        place, best = out / "best", summary.best
        printer.say(
            f"Best by validation: {best.method} at {best.calls:,} calls, seed {best.seed}, {best.validation:.1f} % of "
            f"validation. It is in {place}; `tuition export {place} student.onnx` makes a file of it.",
            best=place,
        )
    return 1 if failed else 0


def print_forecast(printer: Printer, ahead: Any) -> None:
    hours, minutes = divmod(math.ceil(ahead.seconds / 60), 60)
    time = "time to train students, about (less where it stops early)"
    chosen = f"{ahead.new:,}, of which {ahead.chosen:,} at most, chosen round by round" if ahead.chosen else ""
    facts = [
        Fact("runs", "runs to make", ahead.runs),
        Fact("known", "runs finished already", ahead.known),
        Fact("teachers", "teachers to train first", ahead.teachers, ", ".join(ahead.teachers) or "none"),
        Fact("new", "new teacher calls", ahead.new, chosen),
        Fact("paid", "teacher calls paid so far, in the study's store", ahead.paid),
        Fact("seconds", time, ahead.seconds, f"{hours:,} h {minutes} min"),
    ]
    printer.facts("Before the study", facts)
    printer.record(chosen=ahead.chosen)


def print_targets(printer: Printer, targets: list[Any]) -> None:
    """The calls that target accuracies need; where they are not known, the reason."""
    from tuition.studies import needed
    from tuition.studies.names import label
    from tuition.studies.table import count

    printer.record(targets=[each.values() for each in targets])
    columns = {"method": "method", "target": "target", "calls": "calls", "interval": "95 % interval", "cost": "cost"}
    if all(each.cost is None for each in targets):
        del columns["cost"]
    for title, figure in dict.fromkeys((each.of.title, each.of.figure) for each in targets):
        rows = []
        for each in targets:
            if each.of.title == title:
                shown = count(each.needed)
                beyond = "" if each.needed.measured or each.needed.why else ", by a power law"
                row = {"method": label(each.of.method), "target": f"{each.target:g} %", "calls": shown.text}
                rows.append(row | {"interval": f"{shown.detail}{beyond}", "cost": each.cost})
        printer.show(f"Calls for a {figure}: {title}")
        printer.table("", columns, rows)
    priced = any(each.cost is not None for each in targets)
    for sentence in (*needed.validated(targets, priced=priced), *needed.unknown(targets)):
        printer.say(sentence)
