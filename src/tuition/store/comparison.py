"""Asking again about what is stored: has the teacher changed silently?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tuition.data.pool import Pool
from tuition.data.transfer import Accounts
from tuition.errors import UserError
from tuition.store.asking import check, send_all
from tuition.store.ledger import Flight, Ledger, identify, located
from tuition.store.reading import read
from tuition.store.store import ResponseStore
from tuition.teachers.protocol import Teacher


@dataclass(frozen=True)
class Comparison:
    """Stored answers against new ones to the same inputs.

    Attributes:
        inputs: how many were asked again.
        difference: output name -> largest absolute difference; of answers stored as float16 or bfloat16 it includes the
            rounding.
        accounts: of the calls this took.
    """

    inputs: int
    difference: dict[str, float]
    accounts: Accounts


def reask(
    store: ResponseStore,
    teacher: Teacher,
    pool: Pool,
    *,
    count: int,
    budget: int,
    seed: int,
    batch_size: int = 64,
    cost_per_call: float | None = None,
) -> Comparison:
    """Ask a teacher again about `count` stored inputs of a pool, drawn by `seed`: has it changed silently?

    These calls are paid within the budget, which is cumulative as in `ask`. Nothing stored is replaced.

    Raises:
        BudgetError: they do not fit in the budget.
        TeacherError: the teacher refused, answered badly or failed.
        UserError: fewer than `count` inputs of the pool are stored.
    """
    name, fingerprint = teacher.name, teacher.fingerprint
    database, layers = store.database, tuple(getattr(teacher, "layers", ()))
    with database.read() as connection:
        teacher_id = identify(connection, name, fingerprint)
        distinct = list(dict.fromkeys(pool.digests))
        stored = located(connection, teacher_id, distinct) if teacher_id is not None else {}
        if teacher_id is None or not 0 < count <= len(stored):
            raise UserError(
                f"cannot ask {count} inputs again where {len(stored)} of the pool are stored; choose fewer."
            )
        order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed)).tolist()
        chosen = [distinct[i] for i in order if distinct[i] in stored][:count]
        before = read(connection, teacher_id, chosen)
    rows = dict(zip(pool.digests, range(len(pool)), strict=True))
    place = {digest: row for row, digest in enumerate(chosen)}
    difference: dict[str, float] = {}

    with database.connect() as connection, database.owner(connection) as owner:
        ledger = Ledger(database, connection, owner, fingerprint, budget, store.budget, cost_per_call or 0.0)
        ledger.open(name, chosen, layers, again=True)

        def take(flight: Flight, answer: Any) -> str | None:
            outputs, _, wrong = check(answer, len(flight.digests), layers)
            ledger.record(flight, [], {})
            at = torch.tensor([place[digest] for digest in flight.digests])
            for key, value in before.items():
                if wrong is None and (key not in outputs or outputs[key].shape != value[at].shape):
                    wrong = f"does not answer with the {key} that are stored"
                elif wrong is None:
                    largest = float((outputs[key] - value[at].float()).abs().max())
                    difference[key] = max(difference.get(key, 0.0), largest)
            return wrong

        try:
            send_all(
                ledger,
                teacher,
                chosen,
                lambda digests: pool.asked([rows[digest] for digest in digests]),
                take,
                batch_size=batch_size,
                concurrency=1,
                retries=5,
                again=True,
            )
        finally:
            ledger.close(served=0)
    return Comparison(count, difference, ledger.accounts)
