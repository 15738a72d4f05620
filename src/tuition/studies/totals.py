"""Tables of all runs of a report: answers used, calls paid, and software."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from tuition.store.price import money
from tuition.studies.names import label
from tuition.studies.paid_calls import PaidCalls
from tuition.studies.records import Record
from tuition.studies.table import UNKNOWN, Cell, Table, counts


def accounts(runs: Iterable[Record]) -> Table:
    """The answers behind the runs of every section."""
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for run in {run.key: run for run in runs}.values():
        groups[run.dataset, run.teacher].append(run)
    rows, data = [], []
    for (dataset, teacher), group in groups.items():
        numbers = {"runs": len(group), "calls": sum(run.paid for run in group)}
        data.append({"dataset": dataset, "teacher": teacher, **numbers})
        rows.append([Cell(label(dataset)), Cell(label(teacher)), *counts(numbers.values())])
    note = (
        "A run uses the answers of its transfer set, and runs of one seed share them. The calls that were paid for are "
        "in the study's store, whose accounts.csv is not beside these runs."
    )
    header = ["data", "teacher", "runs", "answers used"]
    return Table("accounts", "Answers that the runs used", note, header, rows, data)


def paid(stores: Iterable[PaidCalls]) -> Table:
    """Teacher calls and money, as the studies' stores hold them."""
    data = [{"teacher": each.teacher, **each.accounts.as_dict(), **each.bill.as_dict()} for each in stores]
    rows = [
        [
            Cell(label(each.teacher)),
            *counts([each.accounts.paid, each.accounts.unknown, each.accounts.failed]),
            Cell(money(each.bill.cost), value=float(each.bill.cost)) if each.bill.cost else UNKNOWN,
        ]
        for each in stores
    ]
    header = ["teacher", "paid calls", "in flight when interrupted", "failed, not paid", "cost"]
    note = (
        "All calls of the teacher that the study's store holds, those of other commands too, and what they cost at the "
        "prices that were set; - where no price was set. Calls in flight when interrupted are among the paid ones."
    )
    return Table("paid", "Paid teacher calls", note, header, rows, data)


def versions(runs: Iterable[Record]) -> Table:
    """Software behind the runs."""
    made = Counter(tuple(sorted(run.versions.items())) for run in runs)
    names = sorted({name for versions in made for name, _ in versions})
    rows = [
        [Cell(f"{n:,}", value=n), *(Cell(str(dict(versions).get(name, "-"))) for name in names)]
        for versions, n in made.most_common()
    ]
    return Table("versions", "Versions", "Number of runs with each set of versions.", ["runs", *names], rows)
