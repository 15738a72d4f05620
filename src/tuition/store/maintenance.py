"""Looking after a store: usage, verification, pruning."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import sqlalchemy as sa

from tuition.data.readable import Readable, counted
from tuition.data.transfer import Accounts, Bill
from tuition.errors import UserError
from tuition.store import spill
from tuition.store.calls import billed, bookkeeping
from tuition.store.database import asks, blobs, layouts, names, responses, teachers
from tuition.store.price import money
from tuition.store.reading import DamagedError, every_blob, open_blob
from tuition.store.responses import index_blob, located, named
from tuition.store.store import ResponseStore


@dataclass(frozen=True, repr=False)
class Usage(Readable):
    """What a store holds of one teacher.

    Attributes:
        names: what the teacher is called.
        fingerprint: what it is.
        accounts: all calls ever.
        bill: what the calls paid have cost, and the tokens they used.
        responses: how many are stored now.
        imported: how many came from other stores.
        bytes: of the stored answers.
    """

    names: tuple[str, ...]
    fingerprint: str
    accounts: Accounts
    bill: Bill
    responses: int
    imported: int
    bytes: int

    def lines(self) -> list[str]:
        return [
            f"Usage of {', '.join(self.names)}: {counted(self.responses, 'answer')}, {self.bytes / 1e6:,.1f} MB",
            f"calls: {self.accounts}; cost {money(self.cost)}",
        ]

    @property
    def cost(self) -> Decimal:
        return self.bill.cost


@dataclass(frozen=True)
class Verification:
    """What was looked at.

    Attributes:
        responses: how many the store says it holds.
        intact: how many of them are as they were written, with a right index.
        problems: what is wrong, a sentence each.
    """

    responses: int
    intact: int
    problems: tuple[str, ...]


def usage(store: ResponseStore) -> list[Usage]:
    """Teacher by teacher, what is stored and what it cost."""
    with store.database.connect() as connection, bookkeeping(store.database, connection):
        records = []
        for teacher in connection.execute(sa.select(teachers).order_by(teachers.c.id)).all():
            called = sa.select(names.c.name).where(names.c.teacher_id == teacher.id).order_by(names.c.name)
            count = sa.select(sa.func.count()).where(responses.c.teacher_id == teacher.id)
            held = sa.select(sa.func.coalesce(sa.func.sum(sa.func.length(blobs.c.payload)), 0))
            held = held.join(layouts, layouts.c.id == blobs.c.layout_id).where(layouts.c.teacher_id == teacher.id)
            records.append(
                Usage(
                    names=tuple(connection.scalars(called)),
                    fingerprint=teacher.fingerprint,
                    accounts=Accounts(teacher.paid, teacher.served, teacher.failed, teacher.unknown),
                    bill=billed(teacher),
                    responses=connection.scalar(count) or 0,
                    imported=teacher.imported,
                    bytes=int(connection.scalar(held) or 0),
                )
            )
        return records


def verify(store: ResponseStore) -> Verification:
    """Read every answer and compare it with its checksum and with its index. Costs no calls."""
    intact, problems = 0, []
    if spill.pending(store.database):  # answers that are beside the store are its answers
        with store.database.connect() as connection, bookkeeping(store.database, connection):
            pass
    with store.database.read() as connection:
        if store.database.is_sqlite:
            lines = [line for (line,) in connection.exec_driver_sql("PRAGMA quick_check") if line != "ok"]
            problems += [f"SQLite finds: {line}" for line in lines]
        for blob in every_blob(connection):
            try:
                digests, _ = open_blob(blob)
            except DamagedError as error:
                problems.append(str(error))
                continue
            index = located(connection, blob.teacher_id, digests)
            right = sum(index.get(digest) == (blob.id, row) for row, digest in enumerate(digests))
            if right < len(digests):
                problems.append(f"the index of {len(digests) - right} answers in blob {blob.id} is damaged.")
            intact += right
        count = connection.scalar(sa.select(sa.func.count()).select_from(responses)) or 0
    problems += [
        f"{path}, which keeps answers that could not be recorded, is damaged ({why})." for path, why in _spills(store)
    ]
    if count != intact and not problems:
        problems.append(f"the index has {count} entries for {intact} answers.")
    return Verification(count, intact, tuple(problems))


def _spills(store: ResponseStore) -> list[tuple[Path, str]]:
    """Damaged spill files, and what is wrong with them."""
    records = []
    for path in spill.pending(store.database):
        try:
            spill.read(path)
        except spill.DamagedSpillError as error:
            records.append((path, str(error)))
    return records


def drop_damaged(store: ResponseStore) -> int:
    """Drop the answers that are damaged, so that they can be asked again, and index the others again.

    Returns how many fewer responses the store holds. Costs no calls.
    """
    with store.database.connect() as connection, store.database.write(connection):
        before = connection.execute(responses.delete()).rowcount
        connection.execute(blobs.delete().where(blobs.c.layout_id.not_in(sa.select(layouts.c.id))))
        kept = 0
        for blob in every_blob(connection):
            try:
                digests, _ = open_blob(blob)
            except DamagedError:
                connection.execute(blobs.delete().where(blobs.c.id == blob.id))
                continue
            index_blob(connection, blob.teacher_id, blob.id, digests)
            kept += len(digests)
        connection.execute(layouts.delete().where(layouts.c.id.not_in(sa.select(blobs.c.layout_id))))
    for path, _ in _spills(store):
        path.unlink(missing_ok=True)
    return before - kept


def prune(store: ResponseStore, teacher: str) -> int:
    """Drop all responses of the teacher of this name; returns how many. Its name and its accounts remain.

    Raises:
        UserError: the teacher is not known, or somebody is asking it now.
    """
    with store.database.connect() as connection, bookkeeping(store.database, connection):
        teacher_id = named(connection, teacher)
        if connection.scalar(sa.select(asks.c.owner).where(asks.c.teacher_id == teacher_id)) is not None:
            raise UserError(f"teacher {teacher!r} is being asked now; prune when that is over.")
        own = sa.select(layouts.c.id).where(layouts.c.teacher_id == teacher_id)
        connection.execute(blobs.delete().where(blobs.c.layout_id.in_(own)))
        connection.execute(layouts.delete().where(layouts.c.teacher_id == teacher_id))
        dropped = connection.execute(responses.delete().where(responses.c.teacher_id == teacher_id)).rowcount
    store.database.compact()
    return dropped
