"""Asking again about what is stored: has the teacher changed silently?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tuition.data.pool import Pool
from tuition.data.transfer import Accounts, Bill
from tuition.errors import UserError
from tuition.store.answers import CheckedAnswer, check
from tuition.store.arguments import check_question
from tuition.store.asking import Sending, opened
from tuition.store.ledger import Flight
from tuition.store.price import Amount, AmountPerTokens, price
from tuition.store.reading import read
from tuition.store.responses import identify, located
from tuition.store.store import ResponseStore
from tuition.teachers.protocol import Teacher, as_teacher


@dataclass(frozen=True)
class Comparison:
    """Stored answers against new ones to the same inputs.

    Attributes:
        inputs: how many were asked again.
        difference: output name -> largest absolute difference; of answers stored as float16 or bfloat16 it includes the
            rounding.
        accounts: of the calls this took.
        bill: what they cost.
    """

    inputs: int
    difference: dict[str, float]
    accounts: Accounts
    bill: Bill


def reask(
    store: ResponseStore,
    teacher: Teacher,
    pool: Pool,
    *,
    count: int,
    budget: int,
    seed: int,
    batch_size: int = 64,
    retries: int = 5,
    cost_per_call: Amount | None = None,
    cost_per_million_tokens: AmountPerTokens | None = None,
) -> Comparison:
    """Ask a teacher again about `count` stored inputs of a pool, drawn by `seed`: has it changed silently?

    These calls are paid within the budget, which is cumulative as in `ask`. Nothing stored is replaced.

    Raises:
        BudgetError: they do not fit in the budget.
        TeacherError: the teacher refused, answered badly or failed.
        UserError: fewer than `count` inputs of the pool are stored.
    """
    check_question(teacher, pool)
    distinct, difference = list(dict.fromkeys(pool.digests)), dict[str, float]()
    teacher = as_teacher(teacher)
    with store.database.read() as connection:
        teacher_id = identify(connection, teacher.name, teacher.fingerprint)
        stored = located(connection, teacher_id, distinct) if teacher_id is not None else {}
        if teacher_id is None or not 0 < count <= len(stored):
            raise UserError(
                f"cannot ask {count} inputs again where {len(stored)} of the pool are stored; choose fewer."
            )
        order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed)).tolist()
        chosen = [distinct[i] for i in order if distinct[i] in stored][:count]
        before = read(connection, teacher_id, chosen)
    place = {digest: row for row, digest in enumerate(chosen)}

    def compare(flight: Flight, answer: Any) -> CheckedAnswer:
        outputs, _, wrong = check(answer, len(flight.digests), ledger.layers)
        at = [place[digest] for digest in flight.digests]
        for name, value in before.items():
            if wrong is None and (name not in outputs or outputs[name].shape != value[at].shape):
                wrong = f"does not answer with the {name} that are stored"
            if wrong is not None:
                break
            largest = float((outputs[name] - value[at].float()).abs().max())
            difference[name] = max(difference.get(name, 0.0), largest)
        return CheckedAnswer(wrong=wrong)

    with opened(store, teacher, budget=budget, price=price(cost_per_call, cost_per_million_tokens)) as ledger:
        ledger.open(chosen, again=True)
        ask = (ledger, teacher, pool, chosen, compare)
        Sending(*ask, batch_size=batch_size, concurrency=1, retries=retries, again=True).run()
    return Comparison(count, difference, ledger.accounts, ledger.bill)
