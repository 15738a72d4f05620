"""The store as people use it. SQLAlchemy is imported when a store is opened, so that importing this costs nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

import torch
from torch import Tensor

from tuition.data.pool import Pool
from tuition.data.readable import Readable, counted
from tuition.data.transfer import Accounts, Bill, Refusal, TransferSet, rows_answered
from tuition.errors import UserError
from tuition.store import refusals
from tuition.store.errors import TeacherError
from tuition.store.price import Amount, AmountPerTokens
from tuition.teachers.protocol import Teacher, as_teacher


@dataclass(frozen=True)
class AskPlan:
    """What an ask would do and cost.

    Attributes:
        new: calls it would pay for.
        served: rows it would serve from the store, or as repeats of equal inputs.
        paid: calls paid for this teacher in this store so far, or in flight; a budget of paid + new is enough.
        cost: of the new calls; None where no price is given, or none of this teacher's answers tells its tokens.
        tokens: of one new call (in, out), estimated by the mean of what this teacher's answers used; None where no
            answer tells. With a price per token, the cost is an estimate too.
        accuracy, labelled: percent of the stored answers that agree with their labels, and of how many; None and 0
            where none has a label.
    """

    new: int
    served: int
    paid: int
    cost: Decimal | None = None
    tokens: tuple[Decimal, Decimal] | None = None
    accuracy: float | None = None
    labelled: int = 0


class ResponseStore(Readable):
    """Durable answers of teachers, and the exact accounts of what they cost.

    Args:
        url: a file ("responses.db" or "sqlite:///responses.db") or "postgresql://user@host/database".
        budget: the most calls that may be paid in this store, ever, for all its teachers; None for no such limit.
        dtype: how vectors (logits, embeddings) are stored: "float32" loses nothing, "float16" takes half the space and
            rounds to 11 bits. Feature maps are stored as bfloat16. Vectors are always read as float32.

    Raises:
        UserError: the store cannot be opened, is damaged, or was written by another version.
    """

    def __init__(
        self, url: str = "sqlite:///responses.db", *, budget: int | None = None, dtype: str = "float32"
    ) -> None:
        from tuition.store.database import Database

        if dtype not in ("float32", "float16"):
            raise UserError(f"vectors are stored as float32 or float16, not {dtype}; choose one of these.")
        self.dtype = torch.float32 if dtype == "float32" else torch.float16
        self.budget = budget
        self.database = Database(str(url))

    def lines(self) -> list[str]:
        import sqlalchemy as sa

        from tuition.store.database import responses, teachers

        count = sa.select(sa.func.count())
        try:
            with self.database.read() as connection:
                sizes = [connection.scalar(count.select_from(table)) or 0 for table in (teachers, responses)]
            holds = f"{counted(sizes[0], 'teacher')}, {counted(sizes[1], 'answer')}"
        except UserError as error:
            holds = str(error)
        return [f"ResponseStore {self.database.shown}", holds]

    def ask(
        self,
        teacher: Teacher,
        pool: Pool,
        *,
        budget: int | None = None,
        batch_size: int = 64,
        concurrency: int = 1,
        retries: int = 5,
        cost_per_call: Amount | None = None,
        cost_per_million_tokens: AmountPerTokens | None = None,
        progress: Callable[[int, int], None] | None = None,
        stopping: Callable[[], bool] | None = None,
        check_answers: bool = True,
        trial: Callable[[Mapping[str, Tensor]], None] | None = None,
    ) -> TransferSet:
        """Answers for every input of a pool, paying only for those that are not stored.

        Args:
            teacher: the one to ask; see `tuition.teachers`.
            pool: n inputs. Equal inputs are one call and several rows.
            budget: the most calls that may be paid for this teacher in this store, ever; required.
            batch_size: inputs a request, and responses a commit; less, where the teacher takes fewer at a time.
            concurrency: requests in flight at a time; above one, the teacher is called from several threads.
            retries: how often a refused request is sent again, with exponential pauses, or as long as the teacher says.
            cost_per_call: price of one call, added to the teacher's cost in this store for each call paid. Decimals,
                text and the digits that a float shows are exact.
            cost_per_million_tokens: price of a million tokens in and out, as "IN,OUT" or a pair. Calls of unknown fate,
                and servers that do not count, add no tokens.
            progress: called with (new calls settled, new calls in all) after each request.
            stopping: called often; once it is true nothing more is sent, and `Stopped` is raised (see `asking`).
            check_answers: look at the answers to the first request before more is paid, and again at twice the number
                until they are clearly better than chance (see `tuition.store.agreement`). Answers stored before count.
            trial: called with one answer, {name: (1, ...)}, before a second input is sent; raises to end the ask.

        Returns:
            The transfer set, rows in the pool's order, with the accounts of this ask. Inputs that the teacher refused
            are left out: they are in `refused`, and in a file (see `refusals`). paid + served = rows, where nothing
            timed out. Columns of logits are in the order of `pool.class_names`, where the teacher's `class_names` have
            another; without labels the pool takes the teacher's class names where its own differ.

        Raises:
            BudgetError: what is new does not fit in the budget; nothing was asked.
            TeacherError: the teacher permanently refused, or refused every input, answered badly (that is paid, not
                stored) or failed in flight (that counts as paid). What was answered well is stored.
                The first answers are constant, not better than chance, or far better in another order of classes.
            UserError: the teacher's classes are not the pool's; its name is bound to another fingerprint; or the store
                cannot be used.
        """
        from tuition.store import answers, arguments, asking, class_columns, price, reading, stepwise

        arguments.check_question(teacher, pool)
        teacher = as_teacher(teacher)
        budget = arguments.check_budget(budget, pool)
        arguments.check_limits(batch_size, concurrency)
        width = self._local_width(teacher, pool) if check_answers else None
        known = class_columns.match_classes(teacher, pool, width=width, notice=True)
        charged = price.price(cost_per_call, cost_per_million_tokens)
        with asking.opened(self, teacher, budget=budget, price=charged) as ledger:
            ledger.width = known.width
            new = ledger.open(list(dict.fromkeys(pool.digests)))
            gate = stepwise.AnswerGate(ledger, known, new, check_answers, trial)
            refused = asking.Sending(
                ledger,
                teacher,
                pool,
                new,
                answers.recorder(ledger, self.dtype, pool.num_classes),
                batch_size=batch_size,
                concurrency=concurrency,
                retries=retries,
                progress=progress,
                stopping=stopping,
                gate=gate if new and (check_answers or trial is not None) else None,
            ).run()
            gate.end()
            answered = _answered(ledger.name, known.pool, refused)
            ledger.accounts += Accounts(served=len(answered) - ledger.stored)
        with self.database.read() as connection:
            responses = known.responses(reading.read(connection, ledger.teacher_id, answered.digests))
        if "unread" in responses:
            unread = responses.pop("unread")[:, 0] == 1
            refused += _unread(ledger.name, known.pool, answered, unread)
            responses = {name: value[~unread] for name, value in responses.items()}
            answered = _answered(ledger.name, known.pool, refused)
        if refused:
            refusals.write(refusals.beside(self.database.path), ledger.name, refused)
        about = (ledger.name, ledger.fingerprint, ledger.accounts, ledger.bill, tuple(refused))
        return TransferSet(answered, responses, *about)

    def _local_width(self, teacher: Teacher, pool: Pool) -> int | None:
        """Columns of the logits of a local teacher that the store does not know yet."""
        from tuition.store import class_columns, responses

        with self.database.read() as connection:
            known = responses.identify(connection, teacher.name, teacher.fingerprint) is not None
        return None if known else class_columns.local_width(teacher, pool)

    def plan(
        self,
        teacher: Teacher,
        pool: Pool,
        *,
        cost_per_call: Amount | None = None,
        cost_per_million_tokens: AmountPerTokens | None = None,
    ) -> AskPlan:
        """What `ask` would do, without asking or writing anything.

        Raises:
            UserError: as `ask` would, but for the budget.
        """
        import sqlalchemy as sa

        from tuition.store import arguments, calls, class_columns, database, responses, stepwise
        from tuition.store.price import estimate, price, tokens_per_call

        arguments.check_question(teacher, pool)
        teacher = as_teacher(teacher)
        charged = price(cost_per_call, cost_per_million_tokens)
        priced = cost_per_call is not None or cost_per_million_tokens is not None
        known = class_columns.match_classes(teacher, pool, notice=True)
        name, fingerprint, digests = teacher.name, teacher.fingerprint, list(dict.fromkeys(pool.digests))
        new, paid, bill, judgement = len(digests), 0, Bill(), stepwise.Judgement(0)
        with self.database.read() as connection:
            teacher_id = responses.identify(connection, name, fingerprint)
            if teacher_id is not None:
                new = len(responses.unstored(connection, teacher_id, digests, teacher.layers))
                by_id = sa.select(database.teachers).where(database.teachers.c.id == teacher_id)
                row = connection.execute(by_id).one()
                sent = sa.select(sa.func.sum(database.flights.c.calls)).where(
                    database.flights.c.teacher_id == teacher_id
                )
                bill, paid = calls.billed(row), row.paid + int(connection.scalar(sent) or 0)
        if teacher_id is not None and new < len(digests):
            judgement = stepwise.judge(*stepwise.stored(self.database, teacher_id, known, digests))
        accuracy = None if math.isnan(judgement.accuracy) else judgement.accuracy
        new_calls = teacher.calls_per_input * new
        tokens = tokens_per_call(bill)
        cost = estimate(charged if priced else None, new_calls, tokens)
        return AskPlan(
            new_calls, len(pool) - new, paid, cost, tokens, accuracy, 0 if accuracy is None else judgement.inputs
        )

    def accounts(self, teacher: Teacher | str | None = None) -> Accounts:
        """All calls ever made in this store: for one teacher (or the name of one), or for all.

        Raises:
            UserError: the teacher was not found.
        """
        import sqlalchemy as sa

        from tuition.store import calls, responses
        from tuition.store.database import teachers

        counts = sa.select(*(sa.func.coalesce(sa.func.sum(teachers.c[count]), 0) for count in Accounts().as_dict()))
        if teacher is not None and not isinstance(teacher, str):
            counts = counts.where(teachers.c.fingerprint == teacher.fingerprint)
        with self.database.connect() as connection, calls.bookkeeping(self.database, connection):
            if isinstance(teacher, str):
                counts = counts.where(teachers.c.id == responses.named(connection, teacher))
            return Accounts(*map(int, connection.execute(counts).one()))


def _answered(teacher: str, pool: Pool, refused: Sequence[Refusal]) -> Pool:
    """The inputs that were not refused.

    Raises:
        TeacherError: all were.
    """
    if not refused:
        return pool
    rows = rows_answered(pool, refused)
    if not rows:
        raise TeacherError(
            f"teacher {teacher!r} refused all {len(pool)} inputs ({refused[0].reason}); nothing was charged, ask it "
            "about others."
        )
    return pool[rows]


def _unread(teacher: str, pool: Pool, answered: Pool, unread: Tensor) -> list[Refusal]:
    """The inputs whose stored answers name no class. Their calls are paid, and there is nothing to learn from them.

    Raises:
        TeacherError: no answer names a class.
    """
    if bool(unread.all()):
        raise TeacherError(f"no answer of teacher {teacher!r} names a class; look at its prompt, labels and pattern.")
    rows = {digest: row for row, digest in reversed(list(enumerate(pool.digests)))}
    left_out = dict.fromkeys(answered.digests[i] for i in unread.nonzero()[:, 0].tolist())
    texts = pool.inputs if isinstance(pool.inputs, list) else [None] * len(pool)
    reason = "its answer names no class"
    return [Refusal.of(rows[digest], digest, texts[rows[digest]], reason) for digest in left_out]
