"""`accounts.csv`: what a study's store was paid for each of its teachers."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuition import disk, escape
from tuition.data import Accounts, Bill
from tuition.store.price import amount
from tuition.studies.records import natural, read_rows

NAME = "accounts.csv"
COUNTS = ("paid", "served", "failed", "unknown", "input_tokens", "output_tokens", "metered")


@dataclass(frozen=True)
class PaidCalls:
    """All calls of one teacher that a store holds, and their cost."""

    teacher: str
    accounts: Accounts
    bill: Bill


def write(out: Path, rows: Sequence[PaidCalls]) -> None:
    """Replace OUT/accounts.csv."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["teacher", *COUNTS, "cost"], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({"teacher": escape.cell(row.teacher)} | row.accounts.as_dict() | row.bill.as_dict())
    disk.write(out / NAME, text.getvalue().encode())


def read(directories: Iterable[Path]) -> list[PaidCalls]:
    """The rows of several folders, equal ones once; a folder without accounts.csv has none.

    Raises:
        UserError: a column is missing, or a value is not a count or an amount.
    """
    paths = [path for directory in directories if (path := Path(directory) / NAME).is_file()]
    return list(dict.fromkeys(row for path in paths for row in read_rows(path, _parse)))


def _parse(row: dict[str, str]) -> PaidCalls:
    paid, served, failed, unknown, *tokens = (natural(name, row[name]) for name in COUNTS)
    bill = Bill(amount(row["cost"]), *tokens)
    return PaidCalls(escape.shorten(escape.uncell(row["teacher"])), Accounts(paid, served, failed, unknown), bill)
