"""What several commands print: runs, rounds, accounts, answers."""

from __future__ import annotations

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
    from tuition.training.rising import MORE, still_rising

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
    facts += [Fact("images_seen", "inputs seen", run.images_seen), Fact("seconds", "seconds of training", run.seconds)]
    if any(run.accounts.as_dict().values()):
        counts = zip(run.accounts.as_dict(), run.accounts.in_words().items(), strict=True)
        facts += [Fact(f"accounts.{key}", f"teacher calls {word}", count) for key, (word, count) in counts]
        facts += billed(run.bill, priced)
    printer.facts(title, facts)
    if still_rising([row["validation"] for row in run.history if "validation" in row]):
        printer.say(f"Note: {MORE}: give the same command with more --epochs, and it continues.")
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
        f"Round {row['round']}: {row['calls']:,} inputs to train on, {row['paid']:,} calls paid so far{cost}; "
        f"validation {row['validation']:.2f} % of {row['validation_inputs']:,}{bound}."
    )
