"""What commands on studies print: reports, results, plans."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from tuition.cli.printer import Fact, Printer


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
