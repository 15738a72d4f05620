"""Commands that look after a store of answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from tuition.cli.options import Yes
from tuition.cli.printer import Fact, Printer
from tuition.cli.signatures import takes
from tuition.cli.tables import print_accounts
from tuition.cli.values import cell
from tuition.errors import UserError
from tuition.pipeline.settings import AskSettings, TransferSettings

if TYPE_CHECKING:
    from tuition.store import ResponseStore

Where = Annotated[str, Argument(metavar="STORE", help="SQLite file or database URL.")]
USUAL = AskSettings.model_fields["store"].default


def opened(url: str) -> ResponseStore:
    from tuition import ResponseStore
    from tuition.store import address

    if not address.exists(url):
        raise UserError(f"the store {url} was not found; name the file that --store named when answers were asked for.")
    return ResponseStore(url)


def usage(printer: Printer, store: Where = USUAL) -> None:
    """Print what a store holds of each teacher, and what it cost.

    Example: tuition store usage responses.db
    """
    from tuition.data import Accounts
    from tuition.data.readable import counted
    from tuition.store import usage

    words = dict(zip(Accounts().as_dict(), Accounts().in_words(), strict=True))
    always = {"answers": "answers stored", "paid": f"calls {words.pop('paid')}"}
    where_any = {"imported": "answers imported"} | {name: f"calls {word}" for name, word in words.items()}
    where_any |= {"input_tokens": "tokens in", "output_tokens": "tokens out", "cost": "cost", "megabytes": "megabytes"}
    rows = [
        {"teacher": list(held.names), "fingerprint": held.fingerprint, "answers": held.responses}
        | held.accounts.as_dict()
        | {"imported": held.imported, "input_tokens": held.bill.input_tokens, "output_tokens": held.bill.output_tokens}
        | {"cost": held.bill.cost, "megabytes": round(held.bytes / 1e6, 1)}
        for held in usage(opened(store))
    ]
    printer.record(teachers=rows)
    printer.show(f"{store} holds answers of {counted(len(rows), 'teacher')}.")
    for row in rows:
        shown = {name: word for name, word in (always | where_any).items() if name in always or row[name]}
        printer.show(f"{cell(row['teacher'])}: {row['fingerprint']}")
        printer.facts("", [Fact("", word, None, cell(row[name])) for name, word in shown.items()])


@takes(TransferSettings, "teacher data budget seed cost_per_call cost_per_million_tokens trust_code", files=False)
def verify(
    printer: Printer,
    settings: TransferSettings,
    store: Where = USUAL,
    reask: Annotated[int, Option(min=0, help="Ask the teacher again about N stored inputs, paid.", metavar="N")] = 0,
) -> int:
    """Compare every answer with its checksum and its index; exit code 1 if something is damaged.

    With --reask N, --teacher, --data and --budget, N random inputs are asked about again, which shows a teacher that
    has changed silently.

    Example: tuition store verify responses.db
    """
    from tuition import store as stores
    from tuition.pipeline.sources import Sources

    responses = opened(store)
    checked = stores.verify(responses)
    printer.say(
        f"{checked.intact:,} of {checked.responses:,} answers are intact.",
        intact=checked.intact,
        answers=checked.responses,
        problems=list(checked.problems),
    )
    for problem in checked.problems:
        printer.say(problem)
    if reask:
        if settings.ask.teacher is None or settings.ask.budget is None or "data" not in settings.data.model_fields_set:
            raise UserError("asking again takes --teacher, --data and --budget (the most calls ever paid); give all.")
        sources = Sources()
        compared = stores.reask(
            responses,
            sources.teacher(settings),
            sources.pool(settings.data, "train"),
            count=reask,
            seed=settings.data.seed,
            **settings.ask.payment,
        )
        for name, difference in compared.difference.items():
            printer.say(f"{name} of {compared.inputs:,} inputs asked again differ by at most {difference:.3g}.")
        printer.record(inputs_asked_again=compared.inputs, difference=compared.difference)
        print_accounts(printer, compared.accounts, compared.bill, priced=settings.ask.price is not None)
    return 1 if checked.problems else 0


def prune(
    printer: Printer,
    store: Where,
    teacher: Annotated[str | None, Option(help="Drop all answers of this teacher; the accounts remain.")] = None,
    damaged: Annotated[
        bool, Option("--damaged", metavar="", help="Drop answers that are damaged, to ask for them again.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Drop answers.

    Example: tuition store prune responses.db --damaged
    """
    from tuition.store import drop_damaged, prune

    responses = opened(store)
    if (teacher is None) != damaged:
        raise UserError("say what to drop: either --teacher NAME or --damaged.")
    if teacher is None:
        count = drop_damaged(responses)
        printer.say(f"{count:,} damaged answers were dropped.", dropped=count)
        return
    if not yes:
        paid = responses.accounts(teacher).paid
        raise UserError(f"this drops all answers of {teacher}, and {paid:,} calls were paid; give --yes to do it.")
    count = prune(responses, teacher)
    printer.say(f"{count:,} answers were dropped.", dropped=count)
