"""Commands that ask a teacher: ask, check."""

from __future__ import annotations

from typing import Annotated, Any

from typer import Argument, Option

from tuition.cli.options import (
    Budget,
    Calls,
    Config,
    Cost,
    Data,
    Executor,
    Labels,
    Pictures,
    Seed,
    Sets,
    Spread,
    Store,
    Teacher,
    Texts,
    TokenCost,
    TrustCode,
    settings_of,
)
from tuition.cli.output import new_table, say, show_table
from tuition.cli.progress import counting
from tuition.cli.tables import print_accounts, print_plan, say_further, say_refused


def ask(
    config: Config = None,
    data: Data = None,
    teacher: Teacher = None,
    calls: Calls = None,
    seed: Seed = None,
    store: Store = None,
    budget: Budget = None,
    select: Annotated[str | None, Option(help="random, stratified, k-centre or medoids.")] = None,
    cost_per_call: Cost = None,
    cost_per_million_tokens: TokenCost = None,
    executor: Spread = Executor.local,
    workers: Annotated[int | None, Option(min=1, help="With ray: processes at a time; by default one a core.")] = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Say what it would cost, and ask nothing.")] = False,
    text_column: Texts = None,
    label_column: Labels = None,
    image_column: Pictures = None,
    trust_code: TrustCode = False,
    sets: Sets = None,
) -> None:
    """Ask a teacher about inputs of a data set, and keep the answers."""
    from tuition.pipeline import job
    from tuition.pipeline.checks import check_ask
    from tuition.pipeline.plan import plan
    from tuition.pipeline.settings import TransferSettings
    from tuition.pipeline.sources import Sources
    from tuition.studies import cluster_ask

    given: dict[str, Any] = {"data": data, "teacher": teacher, "calls": calls, "seed": seed, "store": store}
    given |= {"budget": budget, "select": select, "cost_per_call": cost_per_call}
    given |= {"cost_per_million_tokens": cost_per_million_tokens}
    given |= {"text_column": text_column, "label_column": label_column, "image_column": image_column}
    settings = settings_of(TransferSettings, config, given, sets, trust_code=trust_code)
    sources, store, priced = Sources(), settings.ask.store, settings.ask.price is not None
    if dry_run:
        print_plan(plan(settings, sources))
        return
    checked = check_ask(settings, sources)
    if executor == Executor.ray:
        with counting("calls") as advance:
            whole = cluster_ask.ask(settings, checked, workers=workers, progress=advance)
        accounts = whole.accounts
        say(f"{accounts.paid - accounts.unknown + accounts.served} answers of {checked.teacher.name} are in the store.")
        print_accounts(accounts, whole.bill, priced=priced)
        return
    with counting("calls") as advance:
        transfer, validation = job.ask(settings, checked, advance)
    say(f"{len(transfer)} answers of {transfer.teacher} are in {store}.")
    say_refused(transfer, validation, store)
    say_further(validation)
    if transfer.teacher_accuracy is not None:
        say(f"The teacher is right for {transfer.teacher_accuracy:.2f} % of {len(transfer):,} labelled inputs.")
    print_accounts(transfer.accounts, transfer.bill, priced=priced)


def check(
    teacher: Annotated[str, Argument(help="As for --teacher of `tuition ask`.")],
    data: Data = None,
    calls: Annotated[int, Option(min=1, help="Random inputs to try it on, each one teacher call.")] = 16,
    seed: Seed = None,
    store: Store = None,
    budget: Budget = None,
    cost_per_call: Cost = None,
    cost_per_million_tokens: TokenCost = None,
    text_column: Texts = None,
    label_column: Labels = None,
    image_column: Pictures = None,
    trust_code: TrustCode = False,
    sets: Sets = None,
) -> None:
    """Try a teacher on a few inputs: what it takes and gives, how fast it is, and how often it is right."""
    from tuition.pipeline import check_teacher
    from tuition.pipeline.settings import TransferSettings

    given: dict[str, Any] = {"data": data, "teacher": teacher, "calls": calls, "seed": seed, "store": store}
    given |= {"budget": budget, "cost_per_call": cost_per_call, "cost_per_million_tokens": cost_per_million_tokens}
    given |= {"text_column": text_column, "label_column": label_column, "image_column": image_column}
    settings = settings_of(TransferSettings, None, given, sets, trust_code=trust_code)
    found = check_teacher.check(settings)
    table = new_table(f"{found.transfer.teacher} on {len(found.transfer):,} inputs of {settings.data.data}", "", "")
    for what, figure in found.rows():
        table.add_row(what, figure)
    show_table(table)
    say(found.verdict)
    print_accounts(found.transfer.accounts, found.transfer.bill, priced=settings.ask.price is not None)
