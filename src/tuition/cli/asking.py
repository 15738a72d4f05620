"""Commands that ask a teacher: ask, check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from tuition.cli.options import DryRun, Yes
from tuition.cli.printer import Fact, Printer
from tuition.cli.signatures import takes
from tuition.cli.studies import Executor, Spread
from tuition.cli.tables import print_accounts, print_answers
from tuition.errors import UserError
from tuition.pipeline.settings import Asking, TransferSettings

if TYPE_CHECKING:
    from tuition.pipeline.plan import Estimate
    from tuition.pipeline.sources import Sources

ASKED = "data validation teacher calls budget store select seed size cost_per_call cost_per_million_tokens"
COLUMNS = "class_names text_column label_column image_column trust_code"


@takes(TransferSettings, f"{ASKED} {COLUMNS}")
def ask(
    printer: Printer,
    settings: TransferSettings,
    executor: Spread = Executor.local,
    workers: Annotated[
        int | None,
        Option(min=1, rich_help_panel="Output", help="With ray: processes at a time; by default one a core."),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Ask a teacher about inputs of a data set, and keep the answers.

    Example: tuition ask --teacher teacher --data digits --calls 320 --dry-run
    """
    from tuition.pipeline import job
    from tuition.pipeline.checks import check_ask
    from tuition.pipeline.plan import plan
    from tuition.pipeline.sources import Sources
    from tuition.studies import cluster_ask

    sources, store, priced = Sources(), settings.ask.store, settings.ask.price is not None
    if dry_run:
        estimate = plan(settings, sources)
        print_plan(printer, estimate)
        estimate.check_budget()
        return
    checked = check_ask(settings, sources)
    confirm(printer, settings, sources, yes=yes)
    name = checked.teacher.name
    printer.record(teacher=name, store=store)
    if executor == Executor.ray:
        with printer.counting("calls") as advance:
            shared = cluster_ask.ask(settings, checked, workers=workers, progress=advance)
        accounts = shared.accounts
        count = accounts.paid - accounts.unknown + accounts.served
        printer.say(f"{count} answers of {name} are in the store.", answers=count)
        print_accounts(printer, accounts, shared.bill, priced=priced)
        return
    with printer.counting("calls") as advance:
        transfer, validation = job.ask(settings, checked, advance)
    count = len(transfer)
    printer.say(f"{count} answers of {transfer.teacher} are in {store}.", answers=count)
    print_answers(printer, transfer, validation, store)
    if transfer.teacher_accuracy is not None:
        accuracy = transfer.teacher_accuracy
        printer.say(
            f"The teacher is right for {accuracy:.2f} % of {count:,} labelled inputs.", teacher_accuracy=accuracy
        )
    print_accounts(printer, transfer.accounts, transfer.bill, priced=priced)


@takes(TransferSettings, f"data budget store seed size cost_per_call cost_per_million_tokens {COLUMNS}")
def check(
    printer: Printer,
    settings: TransferSettings,
    teacher: Annotated[str, Argument(help="As for --teacher of `tuition ask`.")],
    calls: Annotated[int, Option(min=1, help="Random inputs to try it on, each one teacher call.")] = 16,
    yes: Yes = False,
) -> None:
    """Try a teacher on a few inputs: what it takes and gives, how fast it is, and how often it is right.

    Example: tuition check openai:gpt-4o-mini --data reviews --calls 8
    """
    from tuition.pipeline import check_teacher
    from tuition.pipeline.sources import Sources

    settings, sources = settings.changed(teacher=teacher, calls=calls), Sources()
    confirm(printer, settings, sources, yes=yes)
    tried = check_teacher.check(settings, sources)
    transfer = tried.transfer
    facts = [Fact(f"teacher.{label}", label, text) for label, text in tried.rows()]
    printer.facts(f"{transfer.teacher} on {len(transfer):,} inputs of {settings.data.data}", facts)
    look = tried.judgement
    printer.record(accuracy=look.accuracy, chance=look.chance, seconds_per_call=tried.seconds)
    printer.say(tried.verdict, verdict=look.verdict)
    print_accounts(printer, transfer.accounts, transfer.bill, priced=settings.ask.price is not None)


def print_plan(printer: Printer, estimate: Estimate) -> None:
    plan = estimate.plan
    printer.facts("Before asking", (Fact("", label, None, text) for label, text in estimate.rows()))
    printer.record(
        plan={
            "train": estimate.trains,
            "validate": estimate.validates,
            "new": plan.new,
            "served": plan.served,
            "paid": plan.paid,
            "budget": estimate.budget,
            "cost": plan.cost,
            "tokens_per_call": plan.tokens,
            "teacher_accuracy": plan.accuracy,
            "seconds": estimate.seconds,
        }
    )


def confirm(printer: Printer, settings: Asking, sources: Sources, *, yes: bool) -> None:
    """Before the first paid call of a teacher, ask a person on a terminal whether the calls shall be paid.

    Nobody is asked with --yes or --budget, without a terminal, or about a local teacher without a price.

    Raises:
        UserError: the answer is no; nothing was asked.
    """
    from tuition.pipeline.plan import plan

    ask = settings.ask
    if yes or ask.budget is not None or ask.teacher is None or not printer.is_interactive:
        return  # without a teacher, the digits have a local one
    teacher = sources.teacher(settings)
    if teacher.local and ask.price is None:
        return
    estimate = plan(settings, sources)
    if estimate.plan.paid or not estimate.plan.new:
        return
    print_plan(printer, estimate)
    if not printer.confirms(f"Pay for {estimate.plan.new:,} calls of {teacher.name}?"):
        raise UserError("nothing was asked and nothing was paid; --budget or --yes asks without this question.")
