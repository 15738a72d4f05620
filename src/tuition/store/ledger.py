"""The accounts of one ask: reserve, send, settle. Killed between two of these, it leaves exact accounts behind."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from torch import Tensor

from tuition.data.transfer import Accounts, Bill
from tuition.errors import UserError
from tuition.store import files, payload
from tuition.store.calls import (
    RequestResult,
    add,
    billed,
    bookkeeping,
    end_ask,
    in_flight,
    planned,
    planned_at_most,
    remove,
    settle,
    settle_dead,
)
from tuition.store.database import Database, asks, flights, layouts, teachers
from tuition.store.errors import BudgetError
from tuition.store.price import Price
from tuition.store.responses import drop_odd_widths, identify, located, register, unstored
from tuition.teachers.protocol import Teacher, Tokens

UNLIMITED = 2**62
SPARE_BYTES = 6 << 20  # of a store's disk: SQLite's log between two checkpoints, and some more
UNKNOWN_BYTES = 4096  # of an answer, before any has come: a thousand logits
ROW_BYTES, PAGE_BYTES = 256, 4096  # of an answer's entry in the index; what the log holds of a changed page of it


@dataclass(frozen=True)
class Flight:
    """A reserved request."""

    id: int
    digests: list[bytes]


class Ledger:
    """The accounts of one ask. Each method is one transaction; all are called from one thread.

    Attributes:
        budget, store_budget: the most calls ever paid for this teacher, and for all teachers of the store.
        price: of a call, and of tokens.
        part_of: the owner of the shared ask that this ask is a part of, else 0.
        accounts: the calls of this ask so far; its owner counts the answers served from the store.
        bill: what this ask's calls have cost so far.
        stored: how many answers it has stored.
    """

    def __init__(
        self,
        database: Database,
        connection: Connection,
        owner: int,
        teacher: Teacher,
        budget: int,
        store_budget: int | None,
        price: Price,
        part_of: int,
    ) -> None:
        self.database, self.connection, self.owner = database, connection, owner
        self.name, self.fingerprint = teacher.name, teacher.fingerprint
        self.layers, self.calls_per_input = tuple(teacher.layers), teacher.calls_per_input
        self.budget, self.store_budget, self.price = budget, store_budget, price
        self.part_of = part_of
        self.teacher_id, self.stored, self.accounts, self.bill = 0, 0, Accounts(), Bill()
        self.width: int | None = None  # of logits, where it is known
        self.mixed = False  # whether answers of different widths are stored
        self.answer_bytes = 0  # of the largest kind of answer; 0 while none is known

    def open(self, digests: Sequence[bytes], *, again: bool = False) -> list[bytes]:
        """Announce an ask about distinct digests; returns those to send: all if `again`, else those not stored.

        A part of a shared ask has no budget of its own.

        Raises:
            BudgetError: they do not all fit in the budget.
            UserError: the name is another teacher's, or stored answers lack one of the layers.
        """
        with self.database.read() as connection:  # millions of them take a while, in which others may write
            teacher_id = identify(connection, self.name, self.fingerprint)
            new = list(digests) if teacher_id is None else unstored(connection, teacher_id, digests, self.layers)
        new = list(digests) if again else new
        with bookkeeping(self.database, self.connection, teacher=(self.name, self.fingerprint)) as taken:
            self.teacher_id = register(self.connection, self.name, self.fingerprint)
            dropped = drop_odd_widths(self.connection, self.teacher_id, self.width)
            self.answer_bytes = _answer_bytes(self.connection, self.teacher_id)
            if (taken or dropped) and not again:
                new = unstored(self.connection, self.teacher_id, new, self.layers)
            each = self.calls_per_input
            if new and not self.part_of and self._excess(each * len(new), planned_at_most(self.connection)):
                new = new if again else unstored(self.connection, self.teacher_id, digests, self.layers)
                others = {other: planned(self.connection, other) for other in self._paid()}
                for digest in new:
                    others[self.teacher_id].pop(digest, None)
                excess = self._excess(each * len(new), {other: sum(it.values()) for other, it in others.items()})
                if new and excess:
                    raise BudgetError(excess)
            row = {"owner": self.owner, "teacher_id": self.teacher_id, "part_of": self.part_of, "calls_per_input": each}
            self.connection.execute(asks.insert().values(**row, plan=b"" if self.part_of else b"".join(new)))
        return new

    def reserve(self, requests: Sequence[Sequence[bytes]], *, again: bool = False) -> list[Reserved]:
        """Reserve requests, each for those of its digests that are neither stored (unless `again`) nor in flight.

        Returns what became of those requests that fit in the budget: of the first of them, at least.

        Raises:
            BudgetError: others have lost or wasted calls since this ask was opened.
            UserError: the disk has no room for the answers, or the store is not there any more.
        """
        reserved: list[Reserved] = []
        rows: list[dict[str, object]] = []
        with self.database.write(self.connection):
            taken = settle_dead(self.database, self.connection, self.owner)
            needed = {self.owner, self.part_of or self.owner}
            known = sa.select(sa.func.count()).where(asks.c.owner.in_(needed))
            if self.connection.scalar(known) != len(needed):
                raise UserError("this ask, or the one it is a part of, was taken for dead by another; run it again.")
            every = [digest for request in requests for digest in request]
            stored = {} if again else located(self.connection, self.teacher_id, every)
            flying, left = in_flight(self.connection, self.teacher_id), self._left()
            for digests in requests:
                mine = [digest for digest in digests if digest not in flying and digest not in stored]
                calls = self.calls_per_input * len(mine)
                if calls > left.calls:
                    if not reserved:
                        raise left.error(calls)
                    break
                left = left.less(calls)
                busy = [digest for digest in digests if digest in flying and digest not in stored]
                flight = Flight(secrets.randbits(62), mine) if mine else None
                reserved.append(Reserved(flight, busy))
                if flight is not None:
                    row = {"id": flight.id, "owner": self.owner, "teacher_id": self.teacher_id, "calls": calls}
                    rows.append({**row, "digests": b"".join(mine), "price": self.price.call})
                    flying.update(mine)
            if rows:
                self.connection.execute(flights.insert(), rows)
                self._check_room()
        remove(taken)
        return reserved

    def result(
        self,
        flight: Flight,
        accounts: Accounts,
        tokens: Tokens | None = None,
        digests: Sequence[bytes] = (),
        outputs: Mapping[str, Tensor] | None = None,
    ) -> RequestResult:
        """What became of a request, at this ask's price."""
        return RequestResult(flight.id, accounts, self.price.bill(accounts.paid, tokens), digests, outputs or {})

    def settle(self, results: Sequence[RequestResult]) -> dict[int, str]:
        """Settle requests and store the answers to them, all in one transaction; their inputs are free again.

        Returns, by flight, what is wrong with outputs whose widths are not those of what is stored. When the ask ends,
        only the width that most answers have is kept.
        """
        with self.database.write(self.connection):
            done = settle(self.connection, self.teacher_id, self.fingerprint, results)
        self.accounts += done.accounts
        self.bill += done.bill
        self.stored += done.stored
        self.mixed = self.mixed or bool(done.wrong)
        for one in results:
            size = sum(value.nbytes for value in one.outputs.values()) // max(1, len(one.digests))
            self.answer_bytes = max(self.answer_bytes, size)
        return done.wrong

    def calls_left(self) -> int:
        """Calls that may still be sent within the budgets, counting what is in flight."""
        with self.database.write(self.connection):
            return self._left().calls

    def collect(self) -> None:
        """Add what the parts of this ask have cost to its accounts and bill; those that are dead are settled first."""
        with bookkeeping(self.database, self.connection, self.owner):
            row = self.connection.execute(sa.select(asks).where(asks.c.owner == self.owner)).one()
            self.accounts += Accounts(paid=row.paid, failed=row.failed, unknown=row.unknown)
            self.bill += billed(row)

    def close(self) -> None:
        """End the ask. What is still in flight, and in no spill file, is paid and unknown."""
        with bookkeeping(self.database, self.connection, self.owner):
            lost = end_ask(self.connection, self.owner)
            add(self.connection, self.teacher_id, Accounts(served=self.accounts.served))
            if self.mixed:
                drop_odd_widths(self.connection, self.teacher_id, self.width)
        self.accounts += Accounts(paid=lost, unknown=lost)
        self.bill += self.price.bill(lost)
        self.database.checkpoint(self.connection)

    def _paid(self) -> dict[int, int]:
        return {row.id: row.paid for row in self.connection.execute(sa.select(teachers.c.id, teachers.c.paid))}

    def _excess(self, new: int, others: Mapping[int, int]) -> str | None:
        """How new calls, with what other living askers mean to send to each teacher, do not fit; None if they do."""
        paid = self._paid()
        for whose, ids, budget in (
            (f"teacher {self.name!r}", [self.teacher_id], self.budget),
            ("all teachers of the store", list(paid), self.store_budget),
        ):
            spent, reserved = sum(paid[i] for i in ids), sum(others.get(i, 0) for i in ids)
            needed = spent + reserved + new
            if budget is not None and needed > budget:
                taken = f"{spent} already paid" + (f" and {reserved} reserved by others" if reserved else "")
                return (
                    f"{new} new calls do not fit in the budget of {budget} for {whose}, {taken}; nothing was asked, "
                    f"raise the budget to {needed} or ask about less."
                )
        return None

    def _left(self) -> Left:
        left = Left(UNLIMITED, 0, 0)
        for teacher, flying, budget in (
            (teachers.c.id == self.teacher_id, flights.c.teacher_id == self.teacher_id, self.budget),
            (sa.true(), sa.true(), self.store_budget),
        ):
            spent = self.connection.scalar(sa.select(sa.func.sum(teachers.c.paid)).where(teacher)) or 0
            spent += self.connection.scalar(sa.select(sa.func.sum(flights.c.calls)).where(flying)) or 0
            if budget is not None and budget - spent < left.calls:
                left = Left(int(budget - spent), budget, int(spent))
        return left

    def _check_room(self) -> None:
        """Whether the disk has room for the answers to what is reserved: in the file, its log and a spill file."""
        path = self.database.path
        if path is None:
            return
        calls = int(self.connection.scalar(sa.select(sa.func.sum(flights.c.calls))) or 0)
        log = min(calls * PAGE_BYTES, path.stat().st_size)
        needed = SPARE_BYTES + calls * (3 * (self.answer_bytes or UNKNOWN_BYTES) + ROW_BYTES) + log
        free = files.free_bytes(path)
        if free < needed:
            raise UserError(
                f"the disk of the store {self.database.shown} has {free / 1e6:,.1f} MB free, and the answers to "
                f"{calls} calls may take {needed / 1e6:,.1f} MB; these calls were not sent, free some space "
                "(`tuition store prune` drops answers) and run again."
            )


@dataclass(frozen=True)
class Reserved:
    """What became of a request: the flight, None if nothing is left to send; and what another asker has in flight."""

    flight: Flight | None
    elsewhere: list[bytes]


@dataclass(frozen=True)
class Left:
    """Calls left in the tightest budget, and how many of it are spent."""

    calls: int
    budget: int
    spent: int

    def less(self, calls: int) -> Left:
        return Left(self.calls - calls, self.budget, self.spent + calls)

    def error(self, calls: int) -> BudgetError:
        return BudgetError(
            f"{calls} more calls do not fit in the budget of {self.budget}, of which {self.spent} are used up, some "
            "since this ask began; what was answered is stored, raise the budget and run again for the rest."
        )


def _answer_bytes(connection: Connection, teacher_id: int) -> int:
    """Of the largest kind of answer that is stored of a teacher; 0 if none is."""
    sizes = [0]
    for stored in connection.scalars(sa.select(layouts.c.outputs).where(layouts.c.teacher_id == teacher_id)):
        spec = payload.read_layout(stored).values()
        sizes.append(sum(math.prod(shape) * (4 if dtype == "float32" else 2) for dtype, shape in spec))
    return max(sizes)
