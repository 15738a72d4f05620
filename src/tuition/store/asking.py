"""Sending what is new to a teacher: reserve, send and record until every input is settled.

**How to stop an ask**: give `ResponseStore.ask` a function `stopping() -> bool`; a signal handler sets the flag that it
reads. It is called before each reservation, and at least every `POLL` seconds while answers are waited for. Once it is
true, nothing more is reserved or sent; answers in flight are waited for, `GRACE` seconds at most, and recorded;
then `Stopped` is raised. Requests without an answer by then count as paid and unknown.

**Refused inputs**: a request that the teacher refuses for what its inputs are (`Refused`) is split in halves until the
inputs at fault are known; all others are asked about. Where both halves are answered, the request was too large, and
those that follow are as small as its halves. Each refused attempt counts its inputs as failed.

**Timeouts**: an answer that did not arrive in time counts as paid and unknown. Its inputs are asked again, once, in
halves, where the budget has room for that beside all that is still to be sent; so no input is paid more than twice, and
a second timeout of any of them ends the ask. Requests that follow are of half the size.

**What arrives is kept**: answers that arrive together are recorded in one transaction. Where that cannot be done, they
go to a spill file (see `spill`), nothing more is sent, and the ask waits for what is in flight.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, Any

from tuition.data.pool import Pool
from tuition.data.transfer import Accounts, Refusal
from tuition.errors import UserError
from tuition.store import spill
from tuition.store.answers import Check
from tuition.store.callers import Callers
from tuition.store.calls import RequestResult
from tuition.store.errors import Stopped, TeacherError
from tuition.store.ledger import Flight, Ledger
from tuition.store.pending import Pending, Piece
from tuition.store.price import Price, tokens_of
from tuition.teachers.protocol import BadAnswer, NotCharged, Refused, Teacher

if TYPE_CHECKING:
    from tuition.store.store import ResponseStore

POLL = 0.05  # seconds between looks at inputs that another asker has in flight, and at `stopping`
GRACE = 5.0  # seconds that a stopped ask waits for answers in flight
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0  # seconds after a refusal
TOGETHER = 256  # answers recorded, and requests reserved, in one transaction at most
REFUSALS = 8  # single inputs that are refused, while nothing is answered, before others are tried; twice that ends it
KEEP_TRYING = 30.0  # seconds to look for a place for answers that can be neither recorded nor written to a file


@contextmanager
def opened(store: ResponseStore, teacher: Teacher, *, budget: int, price: Price, part_of: int = 0) -> Iterator[Ledger]:
    """A ledger that is closed at the end, whatever happens."""
    database = store.database
    with database.connect() as connection, database.owner(connection) as owner:
        ledger = Ledger(database, connection, owner, teacher, budget, store.budget, price, part_of)
        try:
            yield ledger
        except BaseException:
            with suppress(UserError):  # the first error is the one raised; the next ask settles what is left
                ledger.close()
            with suppress(UserError):
                database.checkpoint(connection)
            raise
        ledger.close()


@dataclass
class Sending:
    """One ask under way: sends new inputs of a pool to the teacher. All but the teacher's calls run in one thread.

    The first error stops the sending; the ask waits for what is in flight and recorded, then the error is raised. An
    interrupt waits for nothing, and `stopping` ends the ask as this module's first lines say.

    Attributes:
        new: the inputs to send, in this order.
        check: says what of an answer is stored, and what is wrong with it.
        batch_size: inputs of a request; the teacher's `max_batch` where that is less.
        concurrency: requests in flight at a time, at most.
        again: inputs that are stored are sent too.
        gate: called at the start, and whenever all that it allowed is settled, with the number of inputs settled and of
            a first step (a request; without labels, the most allowed at a time); it returns how many may be sent in
            all, or raises to end the ask.
    """

    ledger: Ledger
    teacher: Teacher
    pool: Pool
    new: Sequence[bytes]
    check: Check
    _: KW_ONLY
    batch_size: int
    concurrency: int
    retries: int
    again: bool = False
    progress: Callable[[int, int], None] | None = None
    stopping: Callable[[], bool] | None = None
    gate: Callable[[int, int], float] | None = None

    def __post_init__(self) -> None:
        self.local = self.teacher.local
        self.callers = Callers(self.teacher, self.concurrency, inline=self.stopping is None or self.local)
        self.rows = {digest: row for row, digest in reversed(list(enumerate(self.pool.digests)))}
        size = min(self.batch_size, self.teacher.max_batch or self.batch_size)
        self.pending, self.total = Pending(self.new, size), len(self.new)
        self.busy: list[bytes] = []  # in flight at another asker's
        self.flying: dict[int, Piece] = {}
        self.unrecorded: list[tuple[Flight, Any]] = []
        self.settled, self.answered = 0, 0
        self.allowed = 0.0 if self.gate is not None else math.inf
        self.resume, self.give_up = 0.0, math.inf
        self.error: UserError | None = None
        self.spills = self.spilled = False  # whether recording failed, and whether answers are in a file therefore
        self.refused: list[Refusal] = []

    def run(self) -> list[Refusal]:
        """Send until all is settled; returns the inputs that the teacher refused, in the pool's order."""
        try:
            while (self.flying and time.monotonic() < self.give_up) or (not self.error and (self.pending or self.busy)):
                self.send()
                if self.flying:
                    self.unrecorded += self.callers.arrived(TOGETHER, self.patience())
                    self.record()
                elif not self.stop():
                    self.wait_for_others()
        finally:  # interrupted: what has arrived is recorded all the same (again, where that is what was interrupted)
            self.callers.close()
            self.unrecorded += self.callers.arrived(len(self.flying))
            self.record()
        if self.error is not None:
            raise self.error
        return sorted(self.refused, key=lambda refusal: refusal.row)

    # -- sending -----------------------------------------------------------------------------------------------------

    def stop(self) -> bool:
        """Whether nothing more may be sent."""
        if self.error is None and self.stopping is not None and self.stopping():
            self.error = Stopped("the ask was stopped; what was answered is stored, run again for the rest.")
            self.give_up = time.monotonic() + GRACE
        return self.error is not None

    def send(self) -> None:
        """Reserve and send what may be sent now, in one transaction."""
        free = min(self.concurrency - len(self.flying), TOGETHER)
        if free <= 0 or not self.pending or time.monotonic() < self.resume or self.stop():
            return
        pieces, room = list[Piece](), self.room()
        while self.pending and len(pieces) < free and room > 0:
            pieces.append(self.pending.next(room))
            room -= len(pieces[-1].digests)
        if not pieces:
            return
        try:
            reserved = self.ledger.reserve([piece.digests for piece in pieces], again=self.again)
        except UserError as error:
            self.error = error
            return
        for piece in reversed(pieces[len(reserved) :]):
            self.pending.put_back(piece)
        for piece, became in zip(pieces, reserved, strict=False):
            flight = became.flight
            self.busy += became.elsewhere
            self.settled += len(piece.digests) - len(became.elsewhere) - (len(flight.digests) if flight else 0)
            if flight is not None:
                self.flying[flight.id] = piece.only(flight.digests)
                self.callers.send(flight, self.pool.asked([self.rows[digest] for digest in flight.digests]))

    def room(self) -> float:
        """How many inputs may be sent now, as the gate allows."""
        flying = sum(len(piece.digests) for piece in self.flying.values())
        if self.gate is not None and flying == 0 and self.settled >= self.allowed:
            first = self.pending.size * (self.concurrency if self.pool.labels is None else 1)
            try:
                self.allowed = self.gate(self.settled, first)
            except UserError as error:
                self.error = error
                return 0
        return self.allowed - self.settled - flying

    def patience(self) -> float | None:
        """Seconds to wait for answers before something else must be done."""
        waits = [] if self.stopping is None else [POLL]
        if not self.stop() and self.pending and len(self.flying) < self.concurrency and self.room() > 0:
            waits.append(max(0.0, self.resume - time.monotonic()))
        return min(waits) if waits else None

    def wait_for_others(self) -> None:
        """Nothing is in flight here: wait for the end of a pause, or for what another asker has in flight."""
        if self.pending:
            time.sleep(min(POLL, max(0.0, self.resume - time.monotonic())))
        else:
            time.sleep(POLL)
            self.pending.put_last(self.busy)
            self.busy = []

    # -- recording ---------------------------------------------------------------------------------------------------

    def record(self) -> None:
        """Record what has arrived, in one transaction, and decide what comes next."""
        group = [(flight, answer, self.count(flight, answer)) for flight, answer in self.unrecorded]
        if not group:
            return
        wrong = self.keep([result for _, _, (result, _) in group])
        self.unrecorded = []
        for flight, answer, (_, why) in group:
            piece = self.flying.pop(flight.id)
            why = wrong.get(flight.id, why)
            self.conclude(piece, answer, why)
            if self.progress is not None:
                self.progress(self.settled, self.total)

    def count(self, flight: Flight, answer: Any) -> tuple[RequestResult, str | None]:
        """How a request is counted, what of its answer is stored, and what is wrong with it."""
        calls = self.ledger.calls_per_input * len(flight.digests)
        if isinstance(answer, NotCharged):
            return self.ledger.result(flight, Accounts(failed=calls), tokens_of(answer)), None
        if isinstance(answer, BadAnswer):
            return self.ledger.result(flight, Accounts(paid=calls), tokens_of(answer)), None
        if isinstance(answer, BaseException):
            return self.ledger.result(flight, Accounts(paid=calls, unknown=calls)), None
        checked = self.check(flight, answer)
        accounts, tokens = Accounts(paid=calls), tokens_of(answer)
        wrong = None if checked.wrong is None else f"{checked.wrong}; that answer is paid, not stored"
        return self.ledger.result(flight, accounts, tokens, checked.digests, checked.outputs), wrong

    def keep(self, results: Sequence[RequestResult]) -> dict[int, str]:
        """Record in the store, else in a spill file. Returns, by flight, what is wrong with answers not stored."""
        if self.spills:
            self.spill(results)
            return {}
        try:
            return self.ledger.settle(results)
        except UserError as error:
            self.error = self.error or error
            self.spill(results)
            return {}
        except Exception as error:  # not of the database: one of them cannot be stored
            if len(results) > 1:
                return {flight: why for one in results for flight, why in self.keep([one]).items()}
            if not results[0].digests:
                raise
            bare = replace(results[0], digests=(), outputs={})
            self.keep([bare])
            what = f"answered with something that cannot be stored ({type(error).__name__})"
            return {bare.flight: f"{what}; that answer is paid, not stored"}

    def spill(self, results: Sequence[RequestResult]) -> None:
        """Keep what arrived outside of the store, wherever there is a place."""
        self.spills, end = True, time.monotonic() + KEEP_TRYING
        while True:
            try:
                path = spill.write(self.ledger.database, self.ledger.fingerprint, results)
            except OSError as error:
                why = error
            else:
                if not self.spilled:
                    self.add(f"Answers that arrived are in {path.name}, in {path.parent}; the next ask takes them in.")
                self.spilled = True
                return
            if time.monotonic() > end:
                answers = sum(len(one.digests) for one in results)
                self.add(f"{answers} paid answers could be kept nowhere ({why}), and are lost.")
                return
            time.sleep(10 * POLL)
            with suppress(UserError):
                self.ledger.settle(results)
                return

    def add(self, note: str) -> None:
        """Add a sentence to the error, which keeps its type."""
        assert self.error is not None
        cause = self.error.__cause__
        self.error = type(self.error)(f"{self.error} {note}")
        self.error.__cause__ = cause

    # -- concluding --------------------------------------------------------------------------------------------------

    def conclude(self, piece: Piece, answer: Any, wrong: str | None) -> None:
        """What follows from what became of a request: its inputs are settled, or sent again, or the ask fails."""
        calls, error = len(piece.digests), None
        if isinstance(answer, Refused) or (self.local and isinstance(answer, NotCharged) and not answer.retry):
            error = self.refuse(piece, answer)
        elif isinstance(answer, NotCharged):
            self.pending.put_back(Piece(piece.digests, piece.attempts + 1, piece.half_of, piece.paid))
            # No refusal shortens another's pause.
            self.resume = max(self.resume, time.monotonic() + _pause(answer, piece.attempts))
            if not answer.retry or piece.attempts >= self.retries:
                what = f"gave no answer ({answer}); nothing was charged for that request"
                error = self.fault(what, answer)
        elif isinstance(answer, TimeoutError) and self.may_ask_again(piece):
            self.pending.shrink(piece)
        else:
            self.settled += calls
            if isinstance(answer, BadAnswer):
                error = self.fault(f"gave a bad answer ({answer}); that answer is paid, not stored", answer)
            elif isinstance(answer, BaseException):
                said = f"{type(answer).__name__}: {_words(answer)}".removesuffix(": ")
                what = f"failed with {said}; that request counts as paid"
                error = self.fault(what, answer)
            elif wrong is not None:
                error = self.fault(wrong)
            else:
                self.answered += calls
                self.pending.answered(piece)
        self.error = self.error or error

    def refuse(self, piece: Piece, why: NotCharged) -> UserError | None:
        """A request was refused for its inputs: split it, or leave its one input out."""
        if len(piece.digests) > 1:
            self.pending.split(piece)
            return None
        self.settled += 1
        row = self.rows[piece.digests[0]]
        text = self.pool.texts[row] if self.pool.kind == "texts" else None
        self.refused.append(Refusal.of(row, piece.digests[0], text, str(why)))
        if self.again:
            return self.fault(f"refused an input ({why}); nothing was charged for that request", why)
        most = 2 * REFUSALS + len(self.rows) - self.total
        if self.answered == 0 and len(self.refused) == REFUSALS:
            self.pending.probe(REFUSALS)
        if self.answered == 0 and len(self.refused) >= most:
            said = f"refused {len(self.refused)} inputs one by one, and answered none ({why})"
            error = TeacherError(f"teacher {self.ledger.name!r} {said}; nothing was charged, ask it about others.")
            error.__cause__ = why
            return error
        return None

    def may_ask_again(self, piece: Piece) -> bool:
        """Whether inputs whose answer timed out may be paid a second time, beside all that is to be sent."""
        calls = len(piece.digests)
        if calls == 1 or piece.paid or self.again or self.error is not None:
            return False
        pending = self.pending.left + len(self.busy) + sum(len(piece.digests) for piece in self.flying.values())
        try:
            return self.ledger.calls_left() >= self.ledger.calls_per_input * (pending + calls)
        except UserError as error:
            self.error = self.error or error
            return False

    def fault(self, what: str, cause: BaseException | None = None) -> TeacherError:
        name = self.ledger.name
        error = TeacherError(f"teacher {name!r} {what}. What was answered well is stored: run again for the rest.")
        error.__cause__ = cause
        return error


def _words(error: BaseException) -> str:
    """What an error of a teacher says, in 300 characters; some cannot say it."""
    try:
        return str(error)[:300]
    except BaseException as second:
        return f"its text cannot be made, {type(second).__name__}"


def _pause(refusal: NotCharged, refused: int) -> float:
    """Seconds to wait: what the teacher asked for, else exponential; with jitter, so that askers spread out."""
    after = refusal.retry_after
    base = min(LONGEST_PAUSE, FIRST_PAUSE * 2**refused) if after is None else after
    return base * random.SystemRandom().uniform(1.0, 1.25)
