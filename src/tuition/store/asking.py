"""Sending what is new to a teacher: reserve, send and record until every input is settled.

**How to stop an ask**: give `ResponseStore.ask` a function `stopping() -> bool`; a signal handler sets the flag that it
reads. It is called before each reservation, and at least every `POLL` seconds while answers are waited for. Once it is
true, nothing more is reserved or sent; answers in flight are waited for, `GRACE` seconds at most, and recorded;
then `Stopped` is raised. Requests without an answer by then count as paid and unknown.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any

import torch
from torch import Tensor

from tuition.data.pool import Inputs, Pool
from tuition.data.transfer import Accounts
from tuition.errors import UserError
from tuition.store import payload
from tuition.store.database import Database
from tuition.store.errors import BudgetError, Stopped, TeacherError
from tuition.store.ledger import Flight, Ledger
from tuition.store.price import counted
from tuition.teachers.protocol import BadAnswer, NotCharged, Teacher

POLL = 0.05  # seconds between looks at inputs that another asker has in flight, and at `stopping`
GRACE = 5.0  # seconds that an ask that is told to stop waits for answers in flight
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0  # seconds after a refusal


@contextmanager
def opened(database: Database, teacher: Teacher, **budgets: Any) -> Iterator[Ledger]:
    """A ledger that is closed at the end, whatever happens."""
    with database.connect() as connection, database.owner(connection) as owner:
        ledger = Ledger(database, connection, owner, teacher, **budgets)
        try:
            yield ledger
        finally:
            ledger.close()


def send_all(
    ledger: Ledger,
    teacher: Teacher,
    pool: Pool,
    new: Sequence[bytes],
    take: Callable[[Flight, Any], str | None],
    *,
    batch_size: int,
    concurrency: int,
    retries: int,
    again: bool = False,
    progress: Callable[[int, int], None] | None = None,
    stopping: Callable[[], bool] | None = None,
) -> None:
    """Send all new inputs of the pool to the teacher, at most `concurrency` requests at a time.

    A request holds `batch_size` inputs, or the teacher's `max_batch` where that is less.

    `take` records an answer and returns what is wrong with it, None if nothing is. The first trouble stops the sending;
    what is in flight is waited for and recorded, then the trouble is raised. An interrupt waits for nothing, and
    `stopping` ends the ask as this module's first lines say.
    """
    batch_size = min(batch_size, getattr(teacher, "max_batch", batch_size))
    rows = dict(zip(pool.digests, range(len(pool)), strict=True))
    todo = deque((new[i : i + batch_size], 0) for i in range(0, len(new), batch_size))
    busy: list[bytes] = []  # in flight at another asker's
    flying: dict[int, int] = {}  # flight -> how often its inputs were refused before
    arrived: SimpleQueue[tuple[Flight, Any]] = SimpleQueue()
    unrecorded: deque[tuple[Flight, Any]] = deque()
    settled, resume, give_up = 0, 0.0, math.inf
    trouble: UserError | None = None
    inline = concurrency == 1 and (stopping is None or getattr(teacher, "local", False))

    def start(flight: Flight) -> None:
        inputs = pool.asked([rows[digest] for digest in flight.digests])
        if inline:
            arrived.put((flight, _answer(teacher, inputs)))
        else:  # a daemon, so that an interrupt does not wait for an answer that may never come
            threading.Thread(target=lambda: arrived.put((flight, _answer(teacher, inputs))), daemon=True).start()

    def stop() -> bool:
        """Whether nothing more may be sent."""
        nonlocal trouble, give_up
        if trouble is None and stopping is not None and stopping():
            trouble = Stopped("the ask was stopped; what was answered is stored, run again for the rest.")
            give_up = time.monotonic() + GRACE
        return trouble is not None

    def settle(flight: Flight, answer: Any) -> UserError | None:
        calls = len(flight.digests)
        if isinstance(answer, NotCharged):
            ledger.settle(flight, Accounts(failed=calls), counted(answer))
            if answer.retry and flying.get(flight.id, 0) < retries:
                return None
            return _trouble(ledger, f"refused for good ({answer}); nothing was charged for that request", answer)
        if isinstance(answer, BadAnswer):
            ledger.settle(flight, Accounts(paid=calls), counted(answer))
            return _trouble(ledger, f"gave a bad answer ({answer}); that answer is paid, not stored", answer)
        if isinstance(answer, Exception):
            ledger.settle(flight, Accounts(paid=calls, unknown=calls))
            what = f"failed with {type(answer).__name__}: {answer}; that request counts as paid"
            return _trouble(ledger, what, answer)
        wrong = take(flight, answer)
        return None if wrong is None else _trouble(ledger, f"{wrong}; that answer is paid, not stored")

    try:
        while (flying and time.monotonic() < give_up) or (trouble is None and (todo or busy)):
            while todo and len(flying) < concurrency and time.monotonic() >= resume and not stop():
                batch, refused = todo.popleft()
                try:
                    flight, elsewhere = ledger.reserve(batch, again=again)
                except BudgetError as error:
                    trouble = error
                    break
                busy += elsewhere
                settled += len(batch) - len(elsewhere) - (len(flight.digests) if flight else 0)
                if flight:
                    flying[flight.id] = refused
                    start(flight)
            if not flying:
                if not stop():
                    time.sleep(POLL if busy and not todo else min(POLL, max(0.0, resume - time.monotonic())))
                    todo.extend((busy[i : i + batch_size], 0) for i in range(0, len(busy), batch_size))
                    busy = []
                continue
            may_send = not stop() and todo and len(flying) < concurrency
            patience = max(0.0, resume - time.monotonic()) if may_send else None
            if stopping is not None:
                patience = POLL if patience is None else min(POLL, patience)
            try:
                unrecorded.append(arrived.get(timeout=patience))
            except Empty:
                continue
            flight, answer = unrecorded[0]
            found = settle(flight, answer)
            unrecorded.popleft()
            refused = flying.pop(flight.id)
            if isinstance(answer, NotCharged):
                todo.appendleft((flight.digests, refused + 1))
                resume = max(resume, time.monotonic() + _pause(answer, refused))  # no refusal shortens another's pause
            else:
                settled += len(flight.digests)
            trouble = trouble or found
            if progress is not None:
                progress(settled, len(new))
    finally:  # interrupted: what has arrived is recorded all the same (again, where that is what was interrupted)
        while not arrived.empty():
            unrecorded.append(arrived.get())
        for flight, answer in unrecorded:
            settle(flight, answer)
    if trouble is not None:
        raise trouble


def recorder(ledger: Ledger, dtype: torch.dtype, classes: int | None) -> Callable[[Flight, Any], str | None]:
    """What `send_all` takes answers with: those that are well are stored, vectors in `dtype`."""

    def take(flight: Flight, answer: Any) -> str | None:
        outputs, keep, wrong = check(answer, len(flight.digests), ledger.layers, classes)
        kept = payload.shrink({name: value[keep] for name, value in outputs.items()}, dtype)
        return ledger.record(flight, [flight.digests[row] for row in keep], kept, counted(answer)) or wrong

    return take


def check(
    answer: Any, rows: int, layers: Sequence[str], classes: int | None = None
) -> tuple[dict[str, Tensor], list[int], str | None]:
    """Outputs as float32 on the CPU, the rows that may be stored, and what is wrong with the answer, or None.

    Logits have at least as many columns as there are known `classes`.
    """
    if not isinstance(answer, Mapping) or not answer:
        return {}, [], "answered without named outputs"
    for name, value in answer.items():
        if not isinstance(value, Tensor) or value.is_complex() or name == payload.INPUTS:
            return {}, [], f"answered with {name!r} of a kind that cannot be stored"
        if value.ndim == 0 or len(value) != rows or value.numel() == 0:
            return {}, [], f"answered {rows} inputs with {name} of shape {tuple(value.shape)}"
    logits = answer.get("logits")
    if logits is not None and classes is not None and (logits.ndim != 2 or logits.shape[1] < classes):
        return {}, [], f"answered with logits of shape {tuple(logits.shape)}, where the inputs have {classes} classes"
    lacking = [layer for layer in layers if layer not in answer]
    if lacking:
        return {}, [], f"answered without {', '.join(lacking)}"
    outputs = {name: value.detach().cpu().float() for name, value in answer.items()}
    finite = torch.stack([torch.isfinite(value).flatten(1).all(1) for value in outputs.values()]).all(0)
    keep = finite.nonzero().flatten().tolist()
    wrong = f"answered {rows - len(keep)} of {rows} inputs with NaN or infinity"
    return outputs, keep, None if len(keep) == rows else wrong


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


def _trouble(ledger: Ledger, what: str, cause: Exception | None = None) -> TeacherError:
    error = TeacherError(f"teacher {ledger.name!r} {what}. What was answered well is stored: run again for the rest.")
    error.__cause__ = cause
    return error
