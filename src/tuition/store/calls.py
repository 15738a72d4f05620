"""Statements that count calls, settle what was lost and store answers, inside a writing transaction of the caller."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import torch
from sqlalchemy.engine import Connection
from torch import Tensor

from tuition.data.pool import DIGEST_BYTES
from tuition.data.transfer import EXACT, Accounts, Bill
from tuition.store import payload, spill
from tuition.store.database import Database, asks, flights, lost, teachers
from tuition.store.price import Price
from tuition.store.responses import BLOB_BYTES, located, register, store_rows, unstored, wrong_widths

NOTHING = Bill()


@dataclass(frozen=True)
class RequestResult:
    """What became of a request.

    Attributes:
        flight: the request's number.
        accounts: how it is counted.
        bill: what it cost.
        digests: the inputs whose answers are to be stored.
        outputs: those answers, rows in the same order, in their stored types.
    """

    flight: int
    accounts: Accounts
    bill: Bill = NOTHING
    digests: Sequence[bytes] = ()
    outputs: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Settlement:
    """What settling requests changed: the accounts and the bill of those in flight, answers stored, wrong ones."""

    accounts: Accounts
    bill: Bill
    stored: int
    wrong: dict[int, str]


def settle(connection: Connection, teacher_id: int, fingerprint: str, results: Sequence[RequestResult]) -> Settlement:
    """Count requests of a teacher and store their answers.

    A request in flight is counted as it ended. One that was counted as lost, because its asker was taken for dead or
    could not record it, is counted again as it ended. One that is neither was settled before (by this very call,
    before it was interrupted), and is left alone.
    """
    numbers = [one.flight for one in results]
    flying, lacking = _rows(connection, flights, numbers), _rows(connection, lost, numbers)
    query = sa.select(asks.c.owner, asks.c.part_of).where(asks.c.owner.in_({row.owner for row in flying.values()}))
    shared_by = {row.owner: row.part_of for row in connection.execute(query)} if flying else {}
    own, bill, known = Accounts(), NOTHING, []
    changes: dict[int, tuple[Accounts, Bill]] = {}  # by the shared ask that a request belongs to, else 0
    for one in results:
        if one.flight in flying:
            part_of, accounts, cost = shared_by.get(flying[one.flight].owner, 0), one.accounts, one.bill
            own, bill = own + accounts, bill + cost
        elif one.flight in lacking:
            row = lacking[one.flight]
            part_of, accounts = row.part_of, one.accounts + Accounts(paid=-row.calls, unknown=-row.calls)
            cost = one.bill + Bill(EXACT.minus(Price(row.price).bill(row.calls).cost))
        else:
            continue
        known.append(one)
        before = changes.get(part_of, (Accounts(), NOTHING))
        changes[part_of] = before[0] + accounts, before[1] + cost
    for part_of, (accounts, cost) in changes.items():
        add(connection, teacher_id, accounts, cost, part_of)
    for table, rows in (flights, flying), (lost, lacking):
        if rows:
            connection.execute(table.delete().where(table.c.id.in_(list(rows))))
    stored, wrong = store_answers(connection, teacher_id, fingerprint, known)
    return Settlement(own, bill, stored, wrong)


def store_answers(
    connection: Connection, teacher_id: int, fingerprint: str, results: Sequence[RequestResult]
) -> tuple[int, dict[int, str]]:
    """Store answers that are not stored yet, those of one layout together.

    Returns how many, and by request what is wrong with outputs whose widths are not those of what is stored. These are
    stored too: which width is the odd one is known when the ask is over (see `drop_odd_widths`).
    """
    stored, wrong = 0, dict[int, str]()
    alike: dict[str, list[RequestResult]] = {}
    known = set(located(connection, teacher_id, [digest for one in results for digest in one.digests]))
    for one in results:
        new = [row for row, digest in enumerate(one.digests) if digest not in known]
        if new:
            part = one if len(new) == len(one.digests) else _rows_of(one, new)
            alike.setdefault(payload.layout(part.outputs), []).append(part)
            known.update(part.digests)
    for parts in alike.values():
        why = wrong_widths(connection, teacher_id, parts[0].outputs)
        if why is not None:
            what = f"answered with {why}; of these two widths, only that of most answers is kept"
            wrong.update((one.flight, what) for one in parts)
        for some in _portions(parts):
            digests = [digest for one in some for digest in one.digests]
            outputs = some[0].outputs
            if len(some) > 1:
                outputs = {name: torch.cat([one.outputs[name] for one in some]) for name in outputs}
            store_rows(connection, teacher_id, fingerprint, digests, outputs)
            stored += len(digests)
    return stored, wrong


def _rows_of(one: RequestResult, rows: list[int]) -> RequestResult:
    outputs = {name: value[torch.tensor(rows)] for name, value in one.outputs.items()}
    return RequestResult(one.flight, one.accounts, one.bill, [one.digests[row] for row in rows], outputs)


def _portions(parts: Sequence[RequestResult]) -> Iterator[list[RequestResult]]:
    """Answers in groups of about a blob's size, so that joining them takes little memory."""
    some: list[RequestResult] = []
    size = 0
    for part in parts:
        some.append(part)
        size += sum(value.nbytes for value in part.outputs.values())
        if size >= BLOB_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some


def _rows(connection: Connection, table: sa.Table, numbers: Sequence[int]) -> dict[int, Any]:
    rows = connection.execute(sa.select(table).where(table.c.id.in_(numbers))).all()
    return {row.id: row for row in rows}


# -- askers that are gone, and what they left --------------------------------------------------------------------------


@contextmanager
def bookkeeping(
    database: Database, connection: Connection, mine: int | None = None, teacher: tuple[str, str] | None = None
) -> Iterator[list[Path]]:
    """A writing transaction that first takes in what spill files keep, and ends the asks of dead askers.

    A `teacher`, by name and fingerprint, is entered before: answers are taken in only of teachers that the store knows,
    and no file binds a name. Yields the files that were taken in. A store that cannot be written is read as it is.
    """
    if database.read_only:
        with connection.execution_options(reading=True).begin():
            yield []
        return
    with database.write(connection):
        if teacher is not None:
            register(connection, *teacher)
        taken = take_in(database, connection)
        taken += settle_dead(database, connection, mine)
        yield taken
    remove(taken)


def remove(taken: Sequence[Path]) -> None:
    """Remove spill files whose answers are durable. One that is left is looked at again, and changes nothing."""
    for path in taken:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def take_in(database: Database, connection: Connection) -> list[Path]:
    """Settle what spill files keep; returns those that are done with once this transaction is durable."""
    return [path for path in spill.pending(database) if _take_in(connection, path)]


def _take_in(connection: Connection, path: Path) -> bool:
    """Settle what a spill file keeps; returns whether it is done with.

    Requests that the store does not know, because it was put back from an older copy or begun again, are not counted;
    their answers count as imported.
    """
    try:
        fingerprint, kept = spill.read(path)
    except spill.DamagedSpillError:  # `verify` names it, and `prune --damaged` removes it
        return False
    teacher_id = connection.scalar(sa.select(teachers.c.id).where(teachers.c.fingerprint == fingerprint))
    if teacher_id is None:
        return False
    results = [RequestResult(*one) for one in kept]
    numbers = [one.flight for one in results]
    known = _rows(connection, flights, numbers).keys() | _rows(connection, lost, numbers).keys()
    settle(connection, teacher_id, fingerprint, results)
    strange = [one for one in results if one.flight not in known]
    imported, _ = store_answers(connection, teacher_id, fingerprint, strange)
    if imported:
        changed = teachers.update().where(teachers.c.id == teacher_id)
        connection.execute(changed.values(imported=teachers.c.imported + imported))
    return True


def settle_dead(database: Database, connection: Connection, mine: int | None = None) -> list[Path]:
    """End the asks of dead askers; before that, what they kept in spill files is settled. Returns those files."""
    others = [owner for owner in connection.scalars(sa.select(asks.c.owner)) if owner != mine]
    dead = database.dead(connection, others) if others else []
    taken = take_in(database, connection) if dead else []
    for owner in dead:
        end_ask(connection, owner)
    return taken


def end_ask(connection: Connection, owner: int) -> int:
    """End an ask; what it had in flight is paid and unknown. Returns how many calls that was."""
    query = sa.select(flights.c.id, flights.c.teacher_id, flights.c.calls, flights.c.price)
    left = connection.execute(query.where(flights.c.owner == owner)).all()
    part_of = connection.scalar(sa.select(asks.c.part_of).where(asks.c.owner == owner)) or 0
    for row in left:
        accounts = Accounts(paid=row.calls, unknown=row.calls)
        add(connection, row.teacher_id, accounts, Price(row.price).bill(row.calls), part_of)
    if left:
        connection.execute(lost.insert(), [{**row._mapping, "part_of": part_of} for row in left])
    connection.execute(flights.delete().where(flights.c.owner == owner))
    connection.execute(asks.delete().where(asks.c.owner == owner))
    return sum(row.calls for row in left)


# -- accounts ----------------------------------------------------------------------------------------------------------


def add(connection: Connection, teacher_id: int, accounts: Accounts, bill: Bill = NOTHING, part_of: int = 0) -> None:
    """Add to a teacher's accounts and bill, and to those of the ask that this is a part of."""
    for table, key, number in (teachers, teachers.c.id, teacher_id), (asks, asks.c.owner, part_of):
        if not number:
            continue
        changes: dict[str, Any] = {
            name: table.c[name] + count for name, count in accounts.as_dict().items() if name in table.c
        }
        if bill != NOTHING:  # the sums are made here, where they are exact; nobody else writes meanwhile
            before = connection.execute(sa.select(table).where(key == number)).one_or_none()
            changes |= {} if before is None else vars(billed(before) + bill)
        connection.execute(table.update().where(key == number).values(changes))


def billed(row: Any) -> Bill:
    """The bill in a row of teachers or asks."""
    return Bill(row.cost, row.input_tokens, row.output_tokens, row.metered)


def planned_at_most(connection: Connection) -> dict[int, int]:
    """Not fewer than `planned` finds, by teacher, without looking at each."""
    counts: Counter[int] = Counter()
    planned_calls = sa.func.length(asks.c.plan) / DIGEST_BYTES * asks.c.calls_per_input
    for table, calls in (asks, planned_calls), (flights, flights.c.calls):
        query = sa.select(table.c.teacher_id, sa.func.sum(calls)).group_by(table.c.teacher_id)
        counts.update({teacher_id: math.ceil(count) for teacher_id, count in connection.execute(query)})
    return counts


def planned(connection: Connection, teacher_id: int) -> dict[bytes, int]:
    """Inputs that living askers mean to send to a teacher, or have in flight, with the calls of each."""
    plans = connection.execute(sa.select(asks.c.plan, asks.c.calls_per_input).where(asks.c.teacher_id == teacher_id))
    each = {digest: row.calls_per_input for row in plans for digest in payload.split_digests(row.plan)}
    calls = {digest: each[digest] for digest in unstored(connection, teacher_id, list(each), ())}
    for row in connection.execute(sa.select(flights).where(flights.c.teacher_id == teacher_id)):
        digests = payload.split_digests(row.digests)
        calls |= dict.fromkeys(digests, row.calls // len(digests))
    return calls


def in_flight(connection: Connection, teacher_id: int) -> set[bytes]:
    """Inputs that are reserved by a request under way."""
    query = sa.select(flights.c.digests).where(flights.c.teacher_id == teacher_id)
    return {digest for joined in connection.scalars(query) for digest in payload.split_digests(joined)}
