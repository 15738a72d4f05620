"""Commands that look after a store of answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from tuition.cli.options import Budget, Cost, Data, Seed, Teacher, TokenCost, TrustCode
from tuition.cli.output import new_table, say, show_table
from tuition.cli.tables import print_accounts
from tuition.errors import UserError

if TYPE_CHECKING:
    from tuition.store import ResponseStore


stores = typer.Typer(no_args_is_help=True, help="Look after a store of answers: usage, verify, export, import, prune.")

Where = Annotated[str, Argument(metavar="STORE", help="SQLite file or database URL.")]


def _store(url: str) -> ResponseStore:
    from tuition import ResponseStore
    from tuition.store import address

    if not address.exists(url):
        raise UserError(f"there is no store {url}; name the file that --store named when answers were asked for.")
    return ResponseStore(url)


@stores.command()
def usage(store: Where) -> None:
    """What a store holds of each teacher, and what it cost."""
    from tuition.data import Accounts
    from tuition.store import usage
    from tuition.store.price import money

    found = usage(_store(store))
    tokens = ("tokens in", "tokens out") if any(held.bill.metered for held in found) else ()
    columns = ("teacher", "answers", *Accounts().in_words(), "imported", *tokens, "cost", "MB")
    table = new_table(f"Answers in {store}", *columns)
    for held in found:
        counts = (held.responses, *held.accounts.as_dict().values(), held.imported)
        used = (held.bill.input_tokens, held.bill.output_tokens) if tokens else ()
        table.add_row(
            ", ".join(held.names),
            *(f"{n:,}" for n in (*counts, *used)),
            money(held.bill.cost),
            f"{held.bytes / 1e6:,.1f}",
        )
    show_table(table)


@stores.command()
def verify(
    store: Where,
    reask: Annotated[int, Option(min=0, help="Ask the teacher again about so many stored inputs, paid.")] = 0,
    teacher: Teacher = None,
    data: Data = None,
    budget: Budget = None,
    seed: Seed = None,
    cost_per_call: Cost = None,
    cost_per_million_tokens: TokenCost = None,
    trust_code: TrustCode = False,
) -> None:
    """Compare every answer with its checksum and its index; exit code 1 if something is damaged.

    With --reask K, --teacher, --data and --budget, K random inputs are asked about again, which shows a teacher that
    has changed silently.
    """
    from tuition import store as stores
    from tuition.pipeline.settings import DataSettings
    from tuition.pipeline.sources import Sources
    from tuition.pipeline.teacher import find_teacher

    opened = _store(store)
    found = stores.verify(opened)
    say(f"{found.intact:,} of {found.responses:,} answers are intact.")
    for problem in found.problems:
        say(problem)
    if reask:
        if teacher is None or data is None or budget is None:
            raise UserError("asking again takes --teacher, --data and --budget (the most calls ever paid); give all.")
        pool = Sources().pool(DataSettings.of({"data": data}), "train")
        compared = stores.reask(
            opened,
            find_teacher(teacher, trust_code=trust_code),
            pool,
            count=reask,
            budget=budget,
            seed=seed or 0,
            cost_per_call=cost_per_call,
            cost_per_million_tokens=cost_per_million_tokens,
        )
        for name, difference in compared.difference.items():
            say(f"{name} of {compared.inputs:,} inputs asked again differ by at most {difference:.3g}.")
        priced = cost_per_call is not None or cost_per_million_tokens is not None
        print_accounts(compared.accounts, compared.bill, priced=priced)
    if found.problems:
        raise typer.Exit(1)


@stores.command("export")
def export_store(
    store: Where,
    folder: Annotated[Path, Argument(help="A new folder, for safetensors and parquet files.")],
    teacher: Annotated[str | None, Option(help="Of this teacher only.")] = None,
) -> None:
    """Write the answers of a store to files that other programs read."""
    from tuition.store import export

    say(f"{export(_store(store), folder, teacher=teacher).responses:,} answers are in {folder}.")


@stores.command("import")
def import_store(store: Where, folder: Annotated[Path, Argument(help="What `tuition store export` wrote.")]) -> None:
    """Take over exported answers; they count as imported, not as paid."""
    from tuition import ResponseStore
    from tuition.store import import_
    from tuition.store.transport import check_export

    check_export(folder)
    moved = import_(ResponseStore(store), folder)
    say(f"{moved.responses:,} answers are new in {store}, {moved.known:,} were there.")


@stores.command()
def prune(
    store: Where,
    teacher: Annotated[str | None, Option(help="Drop all answers of this teacher; the accounts remain.")] = None,
    damaged: Annotated[bool, Option("--damaged", help="Drop answers that are damaged, to ask for them again.")] = False,
    yes: Annotated[bool, Option("--yes", help="Yes, drop what was paid for.")] = False,
) -> None:
    """Drop answers."""
    from tuition.store import drop_damaged, prune

    opened = _store(store)
    if (teacher is None) != damaged:
        raise UserError("say what to drop: either --teacher NAME or --damaged.")
    if teacher is None:
        say(f"{drop_damaged(opened):,} damaged answers were dropped.")
    elif not yes:
        paid = opened.accounts(teacher).paid
        raise UserError(f"this drops all answers of {teacher}, for which {paid:,} calls were paid; say --yes to do it.")
    else:
        say(f"{prune(opened, teacher):,} answers were dropped.")
