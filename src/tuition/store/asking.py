"""An ask: reserve, send and record until every input of a pool has its answer."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any

import sqlalchemy as sa
import torch
from torch import Tensor

from tuition.data.pool import Inputs, Pool
from tuition.data.transfer import Accounts, TransferSet
from tuition.errors import UserError
from tuition.store import payload
from tuition.store.database import Database, names, teachers
from tuition.store.errors import BudgetError, TeacherError
from tuition.store.ledger import Flight, Ledger, check_layers, identify, in_flight, located, settle_dead
from tuition.store.reading import read
from tuition.teachers.protocol import NotCharged, Teacher

POLL = 0.05  # seconds between looks at inputs that another asker has in flight
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0  # seconds after a refusal


def ask(
    database: Database,
    teacher: Teacher,
    pool: Pool,
    *,
    budget: int,
    store_budget: int | None,
    price: float,
    dtype: torch.dtype,
    batch_size: int,
    concurrency: int,
    retries: int,
    progress: Callable[[int, int], None] | None,
) -> TransferSet:
    """See `ResponseStore.ask`."""
    name, fingerprint, layers = teacher.name, teacher.fingerprint, tuple(getattr(teacher, "layers", ()))
    rows = {digest: row for row, digest in reversed(list(enumerate(pool.digests)))}
    with database.connect() as connection, database.owner(connection) as owner:
        ledger = Ledger(database, connection, owner, fingerprint, budget, store_budget, price)
        new = ledger.open(name, list(dict.fromkeys(pool.digests)), layers)

        def take(flight: Flight, answer: Any) -> str | None:
            outputs, keep, wrong = check(answer, len(flight.digests), layers)
            kept = payload.shrink({key: value[keep] for key, value in outputs.items()}, dtype) if keep else {}
            return ledger.record(flight, [flight.digests[row] for row in keep], kept) or wrong

        try:
            send_all(
                ledger,
                teacher,
                new,
                lambda digests: pool.asked([rows[digest] for digest in digests]),
                take,
                batch_size=batch_size,
                concurrency=concurrency,
                retries=retries,
                progress=progress,
            )
        except BaseException:
            ledger.close(served=0)
            raise
        ledger.close(served=len(pool) - ledger.stored)
    with database.read() as connection:
        responses = read(connection, ledger.teacher_id, pool.digests)
    return TransferSet(pool, responses, name, fingerprint, ledger.accounts)


def new_inputs(database: Database, teacher: Teacher, pool: Pool) -> tuple[int, int]:
    """How many calls an ask would pay for, and how many are paid so far."""
    fingerprint, digests = teacher.fingerprint, list(dict.fromkeys(pool.digests))
    with database.read() as connection:
        teacher_id = identify(connection, teacher.name, fingerprint)
        if teacher_id is None:
            return len(digests), 0
        stored = located(connection, teacher_id, digests)
        check_layers(connection, teacher_id, stored, tuple(getattr(teacher, "layers", ())))
        paid = connection.scalar(sa.select(teachers.c.paid).where(teachers.c.id == teacher_id)) or 0
        return len(digests) - len(stored), paid + len(in_flight(connection, teacher_id))


def accounts(database: Database, teacher: Teacher | str | None) -> Accounts:
    """See `ResponseStore.accounts`."""
    counts = [sa.func.coalesce(sa.func.sum(teachers.c[count]), 0) for count in Accounts().as_dict()]
    query = sa.select(*counts)
    with database.connect() as connection, database.write(connection):
        settle_dead(database, connection)
        if isinstance(teacher, str):
            bound = connection.scalar(sa.select(names.c.teacher_id).where(names.c.name == teacher))
            if bound is None:
                raise UserError(f"the store knows no teacher {teacher!r}; `tuition store usage` lists those it knows.")
            query = query.where(teachers.c.id == bound)
        elif teacher is not None:
            query = query.where(teachers.c.fingerprint == teacher.fingerprint)
        return Accounts(*map(int, connection.execute(query).one()))


def send_all(
    ledger: Ledger,
    teacher: Teacher,
    new: Sequence[bytes],
    inputs_of: Callable[[Sequence[bytes]], Inputs],
    take: Callable[[Flight, Any], str | None],
    *,
    batch_size: int,
    concurrency: int,
    retries: int,
    again: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Send all new inputs to the teacher, at most `concurrency` requests at a time.

    `take` records an answer and returns what is wrong with it, None if nothing is. The first trouble stops the sending;
    what is in flight is waited for and recorded, then the trouble is raised. An interrupt waits for nothing.
    """
    todo = deque((list(new[i : i + batch_size]), 0) for i in range(0, len(new), batch_size))
    busy: list[bytes] = []  # in flight at another asker's
    flying: dict[int, int] = {}  # flight -> how often its inputs were refused before
    arrived: SimpleQueue[tuple[Flight, Any]] = SimpleQueue()
    unrecorded: deque[tuple[Flight, Any]] = deque()
    left, resume = len(new), 0.0
    trouble: UserError | None = None

    def start(flight: Flight) -> None:
        inputs = inputs_of(flight.digests)
        if concurrency == 1:
            arrived.put((flight, _answer(teacher, inputs)))
        else:  # a daemon, so that an interrupt does not wait for an answer that may never come
            threading.Thread(target=lambda: arrived.put((flight, _answer(teacher, inputs))), daemon=True).start()

    def settle(flight: Flight, answer: Any) -> UserError | None:
        if isinstance(answer, NotCharged):
            ledger.settle(flight, Accounts(failed=len(flight.digests)))
            if answer.retry and flying.get(flight.id, 0) < retries:
                return None
            return _trouble(f"refused for good ({answer}); nothing was charged for that request", teacher, answer)
        if isinstance(answer, Exception):
            ledger.settle(flight, Accounts(paid=len(flight.digests), unknown=len(flight.digests)))
            return _trouble(
                f"failed with {type(answer).__name__}: {answer}; that request counts as paid", teacher, answer
            )
        wrong = take(flight, answer)
        return None if wrong is None else _trouble(f"{wrong}; that answer is paid, not stored", teacher)

    try:
        while flying or (trouble is None and (todo or busy)):
            while trouble is None and todo and len(flying) < concurrency and time.monotonic() >= resume:
                batch, refused = todo.popleft()
                try:
                    flight, elsewhere = ledger.reserve(batch, again=again)
                except BudgetError as error:
                    trouble = error
                    break
                busy += elsewhere
                left -= len(batch) - len(elsewhere) - (len(flight.digests) if flight else 0)
                if flight:
                    flying[flight.id] = refused
                    start(flight)
            if not flying:
                if trouble is None:
                    time.sleep(POLL if busy and not todo else max(0.0, resume - time.monotonic()))
                    todo.extend((busy[i : i + batch_size], 0) for i in range(0, len(busy), batch_size))
                    busy = []
                continue
            may_send = trouble is None and todo and len(flying) < concurrency
            try:
                unrecorded.append(arrived.get(timeout=max(0.0, resume - time.monotonic()) if may_send else None))
            except Empty:
                continue
            flight, answer = unrecorded[0]
            found = settle(flight, answer)
            refused = flying.pop(flight.id)
            unrecorded.popleft()
            if isinstance(answer, NotCharged):
                todo.appendleft((flight.digests, refused + 1))
                resume = time.monotonic() + _pause(answer, refused)
            else:
                left -= len(flight.digests)
            trouble = trouble or found
            if progress is not None:
                progress(len(new) - left, len(new))
    finally:  # interrupted: what has arrived is recorded all the same (again, where that is what was interrupted)
        while not arrived.empty():
            unrecorded.append(arrived.get())
        for flight, answer in unrecorded:
            settle(flight, answer)
    if trouble is not None:
        raise trouble


def check(answer: Any, rows: int, layers: Sequence[str]) -> tuple[dict[str, Tensor], list[int], str | None]:
    """Outputs as float32 on the CPU, the rows that may be stored, and what is wrong with the answer, or None."""
    if not isinstance(answer, Mapping) or not answer:
        return {}, [], "answered without named outputs"
    for name, value in answer.items():
        if not isinstance(value, Tensor) or value.is_complex() or name == payload.INPUTS:
            return {}, [], f"answered with {name!r} of a kind that cannot be stored"
        if value.ndim == 0 or len(value) != rows or value.numel() == 0:
            return {}, [], f"answered {rows} inputs with {name} of shape {tuple(value.shape)}"
    lacking = [layer for layer in layers if layer not in answer]
    if lacking:
        return {}, [], f"answered without {', '.join(lacking)}"
    outputs = {name: value.detach().cpu().float() for name, value in answer.items()}
    finite = torch.stack([torch.isfinite(value).flatten(1).all(1) for value in outputs.values()]).all(0)
    keep = finite.nonzero().flatten().tolist()
    return (
        outputs,
        keep,
        None if len(keep) == rows else f"answered {rows - len(keep)} of {rows} inputs with NaN or infinity",
    )


def _answer(teacher: Teacher, inputs: Inputs) -> Any:
    try:
        return teacher(inputs)
    except Exception as error:  # settled by the ledger, and raised from there
        return error


def _pause(refusal: NotCharged, refused: int) -> float:
    """Seconds to wait: what the teacher asked for, else exponential; with jitter, so that askers spread out."""
    asked = refusal.retry_after
    base = min(LONGEST_PAUSE, FIRST_PAUSE * 2**refused) if asked is None else asked
    return base * random.SystemRandom().uniform(1.0, 1.25)


def _trouble(what: str, teacher: Teacher, cause: Exception | None = None) -> TeacherError:
    error = TeacherError(f"teacher {teacher.name!r} {what}. What was answered well is stored: run again for the rest.")
    error.__cause__ = cause
    return error
