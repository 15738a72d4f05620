"""What a store says of asks that are under way. It is read, and nothing is settled."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from tuition.data.pool import DIGEST_BYTES
from tuition.data.transfer import Accounts, Bill
from tuition.store.calls import billed
from tuition.store.database import asks, flights, names, responses, teachers
from tuition.store.responses import located
from tuition.store.store import ResponseStore


@dataclass(frozen=True)
class UnderWay:
    """What a store holds of one teacher now.

    Attributes:
        teacher: its names.
        accounts: calls that are settled.
        bill: what they cost.
        stored: answers that it holds.
        done, total: inputs of the asks under way: those that are answered, and all. An ask that was killed counts
            until the next one settles it.
        flying: calls that wait for an answer.
    """

    teacher: str
    accounts: Accounts
    bill: Bill
    stored: int
    done: int
    total: int
    flying: int


def under_way(store: ResponseStore) -> list[UnderWay]:
    """Teacher by teacher, in one consistent look."""
    found = []
    with store.database.read() as connection:
        for row in connection.execute(sa.select(teachers).order_by(teachers.c.id)).all():
            called = sa.select(names.c.name).where(names.c.teacher_id == row.id).order_by(names.c.name)
            count = sa.select(sa.func.count()).where(responses.c.teacher_id == row.id)
            waiting = sa.select(sa.func.coalesce(sa.func.sum(flights.c.calls), 0)).where(flights.c.teacher_id == row.id)
            plans = connection.scalars(sa.select(asks.c.plan).where(asks.c.teacher_id == row.id)).all()
            digests = [p[i : i + DIGEST_BYTES] for p in plans for i in range(0, len(p), DIGEST_BYTES)]
            found.append(
                UnderWay(
                    ", ".join(connection.scalars(called)),
                    Accounts(row.paid, row.served, row.failed, row.unknown),
                    billed(row),
                    connection.scalar(count) or 0,
                    len(located(connection, row.id, digests)),
                    len(digests),
                    int(connection.scalar(waiting) or 0),
                )
            )
    return found
