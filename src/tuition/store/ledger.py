"""The books: reserve, send, record. Being killed between two of these transactions leaves exact accounts behind."""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from torch import Tensor

from tuition.data.pool import DIGEST_BYTES
from tuition.data.transfer import Accounts, Bill
from tuition.errors import UserError
from tuition.store import payload
from tuition.store.database import Database, asks, flights, teachers
from tuition.store.entries import identify, located, register, store_rows, unstored, wrong_widths
from tuition.store.errors import BudgetError
from tuition.store.price import Price
from tuition.teachers.protocol import Teacher, Tokens

NOTHING = Bill()


@dataclass(frozen=True)
class Flight:
    """A reserved request."""

    id: int
    digests: list[bytes]


class Ledger:
    """One ask's side of the books. Each method is one transaction; all are called from one thread.

    Attributes:
        budget, store_budget: the most calls ever paid for this teacher, and for all teachers of the store.
        price: of a call, and of tokens.
        whole: the owner of the ask that this one is a part of; 0 where it is no part.
        accounts: the calls of this ask so far; what it serves is set by its owner.
        bill: what this ask's calls have cost so far.
        stored: how many answers it has stored.
    """

    def __init__(
        self,
        database: Database,
        connection: Connection,
        owner: int,
        teacher: Teacher,
        *,
        budget: int,
        store_budget: int | None,
        price: Price,
        whole: int = 0,
    ) -> None:
        self.database, self.connection, self.owner = database, connection, owner
        self.name, self.fingerprint = teacher.name, teacher.fingerprint
        self.layers: tuple[str, ...] = tuple(getattr(teacher, "layers", ()))
        self.budget, self.store_budget, self.price = budget, store_budget, price
        self.whole = whole
        self.teacher_id, self.stored, self.accounts, self.bill = 0, 0, Accounts(), Bill()

    def open(self, digests: Sequence[bytes], *, again: bool = False) -> list[bytes]:
        """Announce an ask about distinct digests; returns those to send: all if `again`, else those not stored.

        The budget of a part is the whole's, which has announced it already.

        Raises:
            BudgetError: they do not all fit in the budget.
            UserError: the name is another teacher's, or stored answers lack one of the layers.
        """
        with self.database.read() as connection:  # millions of them take a while, in which others may write
            teacher_id = identify(connection, self.name, self.fingerprint)
            new = list(digests) if teacher_id is None else unstored(connection, teacher_id, digests, self.layers)
        new = list(digests) if again else new
        with self.database.write(self.connection):
            settle_dead(self.database, self.connection)
            self.teacher_id = register(self.connection, self.name, self.fingerprint)
            if new and not self.whole and self._excess(len(new), planned_at_most(self.connection)):
                new = new if again else unstored(self.connection, self.teacher_id, digests, self.layers)
                others = {teacher_id: planned(self.connection, teacher_id) for teacher_id in self._paid()}
                others[self.teacher_id].difference_update(new)
                excess = self._excess(len(new), {teacher_id: len(found) for teacher_id, found in others.items()})
                if new and excess:
                    raise BudgetError(excess)
            row = {"owner": self.owner, "teacher_id": self.teacher_id, "whole": self.whole}
            self.connection.execute(asks.insert().values(**row, plan=b"" if self.whole else b"".join(new)))
        return new

    def reserve(self, digests: Sequence[bytes], *, again: bool = False) -> tuple[Flight | None, list[bytes]]:
        """Reserve a request for those of the digests that are neither stored (unless asked `again`) nor in flight.

        Returns the flight, None if nothing is left to send, and the digests that another asker has in flight.

        Raises:
            BudgetError: others have lost or wasted calls since this ask was opened.
        """
        with self.database.write(self.connection):
            settle_dead(self.database, self.connection, self.owner)
            needed = {self.owner, self.whole or self.owner}
            known = sa.select(sa.func.count()).where(asks.c.owner.in_(needed))
            if self.connection.scalar(known) != len(needed):
                raise UserError("this ask, or the one it is a part of, was taken for dead by another; run it again.")
            stored = {} if again else located(self.connection, self.teacher_id, digests)
            flying = in_flight(self.connection, self.teacher_id)
            busy = [digest for digest in digests if digest in flying and digest not in stored]
            mine = [digest for digest in digests if digest not in flying and digest not in stored]
            if not mine:
                return None, busy
            self._check_spent(len(mine))
            flight = Flight(secrets.randbits(62), mine)
            row = {"id": flight.id, "owner": self.owner, "teacher_id": self.teacher_id, "calls": len(mine)}
            self.connection.execute(flights.insert().values(**row, digests=b"".join(mine), price=self.price.call))
        return flight, busy

    def settle(self, flight: Flight, accounts: Accounts, tokens: Tokens | None = None) -> None:
        """Settle a request that brought no answer, as it is to be counted; its inputs are free again."""
        with self.database.write(self.connection):
            self._settle(flight, accounts, tokens)

    def record(
        self,
        flight: Flight,
        digests: Sequence[bytes],
        outputs: Mapping[str, Tensor],
        tokens: Tokens | None = None,
    ) -> str | None:
        """Settle an answered request, and store the answers to those of its inputs that were answered well.

        Returns what is wrong with the outputs' widths, and stores nothing, where they are not those of what is stored.
        """
        with self.database.write(self.connection):
            if not self._settle(flight, Accounts(paid=len(flight.digests)), tokens) or not digests:
                return None
            wrong = wrong_widths(self.connection, self.teacher_id, outputs)
            if wrong is None:
                store_rows(self.connection, self.teacher_id, self.fingerprint, digests, outputs)
                self.stored += len(digests)
        return wrong

    def collect(self) -> None:
        """Add what the parts of this ask have cost to its accounts and bill; those that are dead are settled first."""
        with self.database.write(self.connection):
            settle_dead(self.database, self.connection, self.owner)
            row = self.connection.execute(sa.select(asks).where(asks.c.owner == self.owner)).one()
            self.accounts += Accounts(paid=row.paid, failed=row.failed, unknown=row.unknown)
            self.bill += billed(row)

    def close(self) -> None:
        """End the ask. What is still in flight is paid and unknown."""
        with self.database.write(self.connection):
            lost = end_ask(self.connection, self.owner)
            add(self.connection, self.teacher_id, Accounts(served=self.accounts.served))
        self.accounts += Accounts(paid=lost, unknown=lost)
        self.bill += self.price.bill(lost)

    def _settle(self, flight: Flight, accounts: Accounts, tokens: Tokens | None) -> bool:
        """Count a flight, unless it was counted already (by this very call, before it was interrupted)."""
        if not self.connection.execute(flights.delete().where(flights.c.id == flight.id)).rowcount:
            return False
        bill = self.price.bill(accounts.paid, tokens)
        add(self.connection, self.teacher_id, accounts, bill, self.whole)
        self.accounts += accounts
        self.bill += bill
        return True

    def _paid(self) -> dict[int, int]:
        return {row.id: row.paid for row in self.connection.execute(sa.select(teachers.c.id, teachers.c.paid))}

    def _excess(self, new: int, others: Mapping[int, int]) -> str | None:
        """How new calls, with what other living askers mean to send to each teacher, do not fit; None if they do."""
        paid = self._paid()
        for whose, ids, budget in (
            (f"teacher {self.name!r}", [self.teacher_id], self.budget),
            ("the whole store", list(paid), self.store_budget),
        ):
            spent, reserved = sum(paid[i] for i in ids), sum(others.get(i, 0) for i in ids)
            needed = spent + reserved + new
            if budget is not None and needed > budget:
                return (
                    f"{new} new calls do not fit in the budget of {budget} for {whose}, {spent} being paid and "
                    f"{reserved} reserved by others; nothing was asked, raise the budget to {needed} or ask about less."
                )
        return None

    def _check_spent(self, calls: int) -> None:
        """Whether calls about to be sent fit in what is left."""
        for teacher, flying, budget in (
            (teachers.c.id == self.teacher_id, flights.c.teacher_id == self.teacher_id, self.budget),
            (sa.true(), sa.true(), self.store_budget),
        ):
            spent = self.connection.scalar(sa.select(sa.func.sum(teachers.c.paid)).where(teacher)) or 0
            spent += self.connection.scalar(sa.select(sa.func.sum(flights.c.calls)).where(flying)) or 0
            if budget is not None and spent + calls > budget:
                raise BudgetError(
                    f"{calls} more calls do not fit in the budget of {budget}, of which {spent} are used up, some "
                    "since this ask began; what was answered is stored, raise the budget and run again for the rest."
                )


def settle_dead(database: Database, connection: Connection, mine: int | None = None) -> None:
    """End the asks of dead askers. Inside a writing transaction, as all below."""
    others = [owner for owner in connection.scalars(sa.select(asks.c.owner)) if owner != mine]
    for owner in database.dead(connection, others) if others else []:
        end_ask(connection, owner)


def end_ask(connection: Connection, owner: int) -> int:
    """End an ask; what it had in flight is paid and unknown. Returns how many calls that was."""
    query = sa.select(flights.c.teacher_id, flights.c.calls, flights.c.price).where(flights.c.owner == owner)
    lost = connection.execute(query).all()
    whole = connection.scalar(sa.select(asks.c.whole).where(asks.c.owner == owner)) or 0
    for teacher_id, calls, price in lost:
        add(connection, teacher_id, Accounts(paid=calls, unknown=calls), Price(price).bill(calls), whole)
    connection.execute(flights.delete().where(flights.c.owner == owner))
    connection.execute(asks.delete().where(asks.c.owner == owner))
    return sum(calls for _, calls, _ in lost)


def add(connection: Connection, teacher_id: int, accounts: Accounts, bill: Bill = NOTHING, whole: int = 0) -> None:
    """Add to a teacher's accounts and bill, and to those of the ask that this is a part of."""
    for table, key, number in (teachers, teachers.c.id, teacher_id), (asks, asks.c.owner, whole):
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
    """At least as many as `planned` finds, by teacher, without looking at each."""
    counts: Counter[int] = Counter()
    for table, calls in (asks, sa.func.length(asks.c.plan) / DIGEST_BYTES), (flights, flights.c.calls):
        query = sa.select(table.c.teacher_id, sa.func.sum(calls)).group_by(table.c.teacher_id)
        counts.update({teacher_id: math.ceil(count) for teacher_id, count in connection.execute(query)})
    return counts


def planned(connection: Connection, teacher_id: int) -> set[bytes]:
    """Inputs that living askers mean to send to a teacher, or have in flight."""
    plans = connection.scalars(sa.select(asks.c.plan).where(asks.c.teacher_id == teacher_id))
    meant = list({digest for plan in plans for digest in payload.split_digests(plan)})
    return set(unstored(connection, teacher_id, meant, ())) | in_flight(connection, teacher_id)


def in_flight(connection: Connection, teacher_id: int) -> set[bytes]:
    """Inputs that are reserved by a request under way."""
    query = sa.select(flights.c.digests).where(flights.c.teacher_id == teacher_id)
    return {digest for joined in connection.scalars(query) for digest in payload.split_digests(joined)}
