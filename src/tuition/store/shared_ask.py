"""One ask made in parts by several processes, on one machine or many: one budget, and exact accounts of all of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tuition.data.pool import Pool
from tuition.data.transfer import Accounts, Bill
from tuition.store import answers, asking
from tuition.store.price import FREE, Price
from tuition.store.responses import unstored
from tuition.store.store import ResponseStore
from tuition.teachers.protocol import Teacher, as_teacher


@dataclass
class SharedAsk:
    """One ask, made in parts by several processes.

    Attributes:
        number: what its parts name it by.
        rows: of the pool, those to send: each input that is not stored, once.
        accounts: of all parts, killed ones included, once the ask is over: paid - unknown + served = rows
            that are answered.
        bill: what these calls cost.
    """

    number: int
    rows: list[int]
    accounts: Accounts
    bill: Bill


@contextmanager
def open_shared_ask(
    store: ResponseStore, teacher: Teacher, pool: Pool, *, budget: int, price: Price = FREE
) -> Iterator[SharedAsk]:
    """Reserve the budget of an ask for as long as its parts are asked by `ask_part`, here or elsewhere.

    Raises:
        BudgetError: the ask does not fit in the budget; nothing was asked.
        UserError: as for `ResponseStore.ask`.
    """
    with asking.opened(store, as_teacher(teacher), budget=budget, price=price) as ledger:
        first = {digest: row for row, digest in reversed(list(enumerate(pool.digests)))}
        distinct = list(dict.fromkeys(pool.digests))
        shared = SharedAsk(ledger.owner, [first[digest] for digest in ledger.open(distinct)], Accounts(), Bill())
        yield shared
        ledger.collect()
        with store.database.read() as connection:
            refused = set(unstored(connection, ledger.teacher_id, distinct, ()))
        rows = sum(digest not in refused for digest in pool.digests)
        ledger.accounts += Accounts(served=rows - ledger.accounts.paid + ledger.accounts.unknown)
        shared.accounts, shared.bill = ledger.accounts, ledger.bill


def ask_part(
    store: ResponseStore,
    teacher: Teacher,
    pool: Pool,
    shared: int,
    *,
    budget: int,
    batch_size: int,
    concurrency: int = 1,
    retries: int = 5,
    price: Price = FREE,
) -> None:
    """Ask about a part of an open shared ask: different inputs, in requests of `batch_size`, `concurrency` at a time.

    Inputs that an earlier attempt at this part has stored are not asked again. Calls that it had in flight when it was
    killed are paid and unknown; their inputs are asked again.

    Raises:
        UserError: as for `ResponseStore.ask`; also if the shared ask is over, or its process died.
    """
    with asking.opened(store, as_teacher(teacher), budget=budget, price=price, part_of=shared) as ledger:
        new, check = ledger.open(pool.digests), answers.recorder(ledger, store.dtype, pool.num_classes)
        ask = (ledger, as_teacher(teacher), pool, new, check)
        asking.Sending(*ask, batch_size=batch_size, concurrency=concurrency, retries=retries).run()
