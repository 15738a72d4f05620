"""Transactions of one ask: reserve, send, record. Being killed between two of them leaves exact accounts behind."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from torch import Tensor

from tuition.data.transfer import Accounts
from tuition.errors import UserError
from tuition.store import payload
from tuition.store.database import Database, asks, blobs, flights, layouts, names, responses, teachers
from tuition.store.errors import BudgetError

LOOKUP = 500  # digests a query
BLOB_BYTES = 64 << 20  # reading one response never loads more than this


@dataclass(frozen=True)
class Flight:
    """A reserved request."""

    id: int
    digests: list[bytes]


def located(connection: Connection, teacher_id: int, digests: Sequence[bytes]) -> dict[bytes, tuple[int, int]]:
    """Blob and row of those of the digests that are stored."""
    # The two statements that see every response are written out: SQLAlchemy's would take several times as long.
    found: dict[bytes, tuple[int, int]] = {}
    query = f"SELECT digest, blob_id, blob_row FROM {responses.name} WHERE teacher_id = "
    for start in range(0, len(digests), LOOKUP):
        part = tuple(digests[start : start + LOOKUP])
        if connection.dialect.name == "sqlite":
            rows = connection.exec_driver_sql(
                f"{query}? AND digest IN ({','.join('?' * len(part))})", (teacher_id, *part)
            )
        else:
            rows = connection.exec_driver_sql(f"{query}%s AND digest = ANY(%s)", (teacher_id, list(part)))
        found.update((digest, (blob, row)) for digest, blob, row in rows.all())
    return found


def identify(connection: Connection, name: str, fingerprint: str) -> int | None:
    """The id of the teacher with this fingerprint, None if it is new.

    Raises:
        UserError: the name is bound to another fingerprint.
    """
    query = (
        sa.select(teachers.c.fingerprint).join(names, names.c.teacher_id == teachers.c.id).where(names.c.name == name)
    )
    bound = connection.scalar(query)
    if bound is not None and bound != fingerprint:
        raise UserError(
            f"the name {name!r} stands for another teacher in this store ({_difference(bound, fingerprint)}); "
            "give this teacher another name, or ask the one that was meant."
        )
    return connection.scalar(sa.select(teachers.c.id).where(teachers.c.fingerprint == fingerprint))


def register(connection: Connection, name: str, fingerprint: str) -> int:
    """The id of the teacher with this fingerprint, entered if it is new, and its name bound to it.

    Raises:
        UserError: the name is bound to another fingerprint.
    """
    teacher_id = identify(connection, name, fingerprint)
    if teacher_id is None:
        insert = teachers.insert().values(fingerprint=fingerprint).returning(teachers.c.id)
        teacher_id = connection.execute(insert).scalar_one()
    if connection.scalar(sa.select(names.c.name).where(names.c.name == name)) is None:
        connection.execute(names.insert().values(name=name, teacher_id=teacher_id))
    return teacher_id


def settle_dead(database: Database, connection: Connection, mine: int | None = None) -> None:
    """Count what dead askers had in flight as paid and unknown, and end their asks. Inside a writing transaction."""
    for owner in connection.scalars(sa.select(asks.c.owner)).all():
        if owner != mine and database.is_dead(connection, owner):
            end_ask(connection, owner)


def end_ask(connection: Connection, owner: int) -> int:
    """End an ask; what it had in flight is paid and unknown. Returns how many calls that was."""
    lost = 0
    query = sa.select(flights.c.teacher_id, flights.c.calls, flights.c.price).where(flights.c.owner == owner)
    for teacher_id, calls, price in connection.execute(query).all():
        add(connection, teacher_id, Accounts(paid=calls, unknown=calls), price)
        lost += calls
    connection.execute(flights.delete().where(flights.c.owner == owner))
    connection.execute(asks.delete().where(asks.c.owner == owner))
    return lost


def add(connection: Connection, teacher_id: int, accounts: Accounts, price: float = 0.0) -> None:
    """Add to a teacher's accounts, calls being paid at a price each."""
    changes = {name: teachers.c[name] + count for name, count in accounts.as_dict().items()}
    changes["cost"] = teachers.c.cost + accounts.paid * price
    connection.execute(teachers.update().where(teachers.c.id == teacher_id).values(changes))


def planned(connection: Connection, teacher_id: int) -> set[bytes]:
    """Inputs that live askers mean to send to a teacher, or have in flight."""
    plans = connection.scalars(sa.select(asks.c.plan).where(asks.c.teacher_id == teacher_id))
    meant = {digest for plan in plans for digest in payload.split_digests(plan)}
    meant -= set(located(connection, teacher_id, list(meant)))
    return meant | in_flight(connection, teacher_id)


def in_flight(connection: Connection, teacher_id: int) -> set[bytes]:
    """Inputs that are reserved by a request under way."""
    query = sa.select(flights.c.digests).where(flights.c.teacher_id == teacher_id)
    return {digest for joined in connection.scalars(query) for digest in payload.split_digests(joined)}


def check_layers(
    connection: Connection, teacher_id: int, stored: Mapping[bytes, tuple[int, int]], layers: Sequence[str]
) -> None:
    """Refuse stored answers that lack a feature map asked for: to ask again would be to pay twice."""
    query = sa.select(layouts.c.id, layouts.c.outputs).where(layouts.c.teacher_id == teacher_id)
    short = [row.id for row in connection.execute(query) if not set(layers) <= set(payload.read_layout(row.outputs))]
    if short and stored:
        lacking = set(connection.scalars(sa.select(blobs.c.id).where(blobs.c.layout_id.in_(short))))
        count = sum(blob in lacking for blob, _ in stored.values())
        if count:
            raise UserError(
                f"{count} of these inputs are stored without the maps {', '.join(layers)}; ask without layers and add "
                "them with `recompute`, which costs no calls, or ask into another store."
            )


def wrong_widths(connection: Connection, teacher_id: int, outputs: Mapping[str, Tensor]) -> str | None:
    """What is wrong where vectors are not as wide as those stored for this teacher, None if nothing is."""
    query = sa.select(layouts.c.outputs).where(layouts.c.teacher_id == teacher_id)
    for stored in connection.scalars(query):
        for name, (_, shape) in payload.read_layout(stored).items():
            if len(shape) == 1 and name in outputs and list(outputs[name].shape[1:]) != shape:
                return f"{name} {outputs[name][0].numel()} wide, where those stored are {shape[0]} wide"
    return None


def store_rows(
    connection: Connection, teacher_id: int, fingerprint: str, digests: Sequence[bytes], outputs: Mapping[str, Tensor]
) -> None:
    """Store rows of outputs, already in their stored types, as one blob (or a few, where rows are large)."""
    spec = payload.layout(outputs)
    found = sa.select(layouts.c.id).where(layouts.c.teacher_id == teacher_id, layouts.c.outputs == spec)
    layout_id = connection.scalar(found)
    if layout_id is None:
        insert = layouts.insert().values(teacher_id=teacher_id, outputs=spec).returning(layouts.c.id)
        layout_id = connection.execute(insert).scalar_one()
    step = max(1, BLOB_BYTES // sum(value[0].nbytes for value in outputs.values()))
    for start in range(0, len(digests), step):
        part = digests[start : start + step]
        data = payload.encode(part, {name: value[start : start + step] for name, value in outputs.items()})
        blob = {"layout_id": layout_id, "checksum": payload.checksum(fingerprint, data), "payload": data}
        blob_id = connection.execute(blobs.insert().values(blob).returning(blobs.c.id)).scalar_one()
        index_blob(connection, teacher_id, blob_id, part)


def index_blob(connection: Connection, teacher_id: int, blob_id: int, digests: Sequence[bytes]) -> int:
    """Enter the rows of a blob in the index; returns how many."""
    mark = "?" if connection.dialect.name == "sqlite" else "%s"
    insert = f"INSERT INTO {responses.name} (teacher_id, digest, blob_id, blob_row) VALUES ({', '.join([mark] * 4)})"
    rows = [(teacher_id, digest, blob_id, row) for row, digest in enumerate(digests)]
    connection.exec_driver_sql(insert, rows)
    return len(rows)


@dataclass
class Ledger:
    """One ask's side of the books. Each method is one transaction; all are called from one thread.

    Attributes:
        budget, store_budget: the most calls ever paid for this teacher, and for all teachers of the store.
        price: of one call.
        accounts: the calls of this ask so far.
        stored: how many answers it has stored.
    """

    database: Database
    connection: Connection
    owner: int
    fingerprint: str
    budget: int
    store_budget: int | None
    price: float
    teacher_id: int = 0
    accounts: Accounts = field(default_factory=Accounts)
    stored: int = 0

    def open(self, name: str, digests: Sequence[bytes], layers: Sequence[str], *, again: bool = False) -> list[bytes]:
        """Announce an ask about distinct digests; returns those to send: all if `again`, else those not stored.

        Raises:
            BudgetError: they do not all fit in the budget.
            UserError: the name is another teacher's, or stored answers lack one of the layers.
        """
        with self.database.write(self.connection):
            settle_dead(self.database, self.connection)
            self.teacher_id = register(self.connection, name, self.fingerprint)
            stored = located(self.connection, self.teacher_id, digests)
            check_layers(self.connection, self.teacher_id, stored, layers)
            new = [digest for digest in digests if again or digest not in stored]
            self._check_budget(name, new)
            self.connection.execute(
                asks.insert().values(owner=self.owner, teacher_id=self.teacher_id, plan=b"".join(new))
            )
        return new

    def reserve(self, digests: Sequence[bytes], *, again: bool = False) -> tuple[Flight | None, list[bytes]]:
        """Reserve a request for those of the digests that are neither stored (unless asked `again`) nor in flight.

        Returns the flight, None if nothing is left to send, and the digests that another asker has in flight.
        """
        with self.database.write(self.connection):
            settle_dead(self.database, self.connection, self.owner)
            self._check_alive()
            stored = {} if again else located(self.connection, self.teacher_id, digests)
            flying = in_flight(self.connection, self.teacher_id)
            busy = [digest for digest in digests if digest in flying and digest not in stored]
            mine = [digest for digest in digests if digest not in flying and digest not in stored]
            if not mine:
                return None, busy
            self._check_paid(len(mine))
            flight = Flight(secrets.randbits(62), mine)
            row = {"id": flight.id, "owner": self.owner, "teacher_id": self.teacher_id, "calls": len(mine)}
            self.connection.execute(flights.insert().values(**row, digests=b"".join(mine), price=self.price))
        return flight, busy

    def record(self, flight: Flight, digests: Sequence[bytes], outputs: Mapping[str, Tensor]) -> str | None:
        """Settle an answered request, and store the answers to those of its inputs that were answered well.

        Returns what is wrong with the outputs' widths, and stores nothing, where they are not those of what is stored.
        """
        with self.database.write(self.connection):
            if not self._settle(flight, Accounts(paid=len(flight.digests))) or not digests:
                return None
            wrong = wrong_widths(self.connection, self.teacher_id, outputs)
            if wrong is None:
                store_rows(self.connection, self.teacher_id, self.fingerprint, digests, outputs)
        if wrong is None:
            self.stored += len(digests)
        return wrong

    def settle(self, flight: Flight, accounts: Accounts) -> None:
        """Settle a request that brought no answer, as it is to be counted; its inputs are free again."""
        with self.database.write(self.connection):
            self._settle(flight, accounts)

    def close(self, served: int) -> None:
        """End the ask. What is still in flight is paid and unknown."""
        with self.database.write(self.connection):
            lost = end_ask(self.connection, self.owner)
            add(self.connection, self.teacher_id, Accounts(served=served))
        self.accounts += Accounts(paid=lost, unknown=lost, served=served)

    def _check_alive(self) -> None:
        """Stop where another process took this ask for dead: its reservations are counted and free for others."""
        if self.connection.scalar(sa.select(asks.c.owner).where(asks.c.owner == self.owner)) is None:
            raise UserError(
                "this ask was taken for dead by another process, because its lock was removed; run it again."
            )

    def _settle(self, flight: Flight, accounts: Accounts) -> bool:
        """Count a flight, unless it was counted already (by this very call, before it was interrupted)."""
        if not self.connection.execute(flights.delete().where(flights.c.id == flight.id)).rowcount:
            return False
        add(self.connection, self.teacher_id, accounts, self.price)
        self.accounts += accounts
        return True

    def _check_budget(self, name: str, new: Sequence[bytes]) -> None:
        """Whether all that live askers mean to send fits together with what is paid."""
        if not new:
            return
        paid = {row.id: row.paid for row in self.connection.execute(sa.select(teachers.c.id, teachers.c.paid))}
        others = {teacher_id: planned(self.connection, teacher_id) for teacher_id in paid}
        others[self.teacher_id] -= set(new)
        for whose, ids, budget in (
            (f"teacher {name!r}", [self.teacher_id], self.budget),
            ("the whole store", list(paid), self.store_budget),
        ):
            spent, reserved = sum(paid[i] for i in ids), sum(len(others[i]) for i in ids)
            needed = spent + reserved + len(new)
            if budget is not None and needed > budget:
                raise BudgetError(
                    f"{len(new)} new calls do not fit in the budget of {budget} for {whose}, {spent} being paid and "
                    f"{reserved} reserved by others; nothing was asked, raise the budget to {needed} or ask about less."
                )

    def _check_paid(self, calls: int) -> None:
        """The last check before sending: others may have lost or wasted calls since the ask was opened."""
        for column, budget in ((teachers.c.id == self.teacher_id, self.budget), (sa.true(), self.store_budget)):
            paid = self.connection.scalar(sa.select(sa.func.sum(teachers.c.paid)).where(column))
            flying = sa.select(sa.func.coalesce(sa.func.sum(flights.c.calls), 0)).join(
                teachers, teachers.c.id == flights.c.teacher_id
            )
            spent = paid + self.connection.scalar(flying.where(column))
            if budget is not None and spent + calls > budget:
                raise BudgetError(
                    f"{calls} more calls do not fit in the budget of {budget}, of which {spent} are used up, some "
                    "since this ask began; what was answered is stored, raise the budget and run again for the rest."
                )


def _difference(bound: str, given: str) -> str:
    """What differs between two fingerprints, part by part."""
    old, new = bound.split("; "), given.split("; ")
    missing, added = [part for part in old if part not in new], [part for part in new if part not in old]
    return f"stored: {', '.join(missing) or 'nothing more'}; given: {', '.join(added) or 'nothing more'}"
