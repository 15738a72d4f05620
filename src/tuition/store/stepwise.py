"""Buying answers in steps, each looked at before the next is paid; see `tuition.store.agreement` for how."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tuition.data.classes import comparable
from tuition.data.transfer import by_class
from tuition.errors import Notice, UserError
from tuition.store import agreement, reading, responses
from tuition.store.agreement import Judgement
from tuition.store.class_columns import ClassColumns
from tuition.store.database import Database
from tuition.store.errors import TeacherError
from tuition.store.ledger import Ledger

LOOKED_AT = 4096  # answers of an ask that is over
PROMPT = "Look at its prompt and labels, and at teacher.answers (logprobs is for letters, text for words)"
TEXTS = "Look at the texts that it reads, and at its prompt if it has one"
ANYWAY = "--set check_answers=false, in Python check_answers=False"

Trial = Callable[[Mapping[str, Tensor]], None]


@dataclass
class AnswerGate:
    """Looks at what one ask buys: called with the number of new inputs settled, it says how many may be sent by now.

    Attributes:
        ledger: of the ask.
        pool: what is asked about.
        new: the inputs that are not stored, in the order in which they are sent.
        judges: false for a trial alone.
        trial: called with one answer.
        noticed: whether the form of the answers was looked at, and told if it is odd.
    """

    ledger: Ledger
    pool: ClassColumns
    new: Sequence[bytes]
    judges: bool
    trial: Trial | None
    noticed: bool = False

    def __call__(self, settled: int, first: int) -> float:
        """The inputs that may be sent in all: one for a trial, `first`, then twice the number until all is clear.

        Raises:
            TeacherError: what was answered is not worth paying for more.
            UserError: what the trial finds wrong.
        """
        outputs, labels = self._answered(settled)
        if self.trial is not None and not outputs and settled == 0:
            return 1
        read = _read(outputs)
        if self.trial is not None and bool(read.any()):
            first_read = read.nonzero()[0]
            self.trial({name: value[first_read] for name, value in outputs.items() if name != "unread"})
            self.trial = None
        good = not self.judges or self._judge(outputs, labels, over=False).verdict == "good"
        if good and self.trial is None:
            return math.inf
        looked_at = max((len(value) for value in outputs.values()), default=0)
        return settled + max(first, looked_at)

    def end(self) -> None:
        """A last look. Where nothing was paid now, or it may be chance, what is wrong is only a notice.

        Raises:
            TeacherError: the answers that were paid are constant, or in another order of classes.
        """
        if not self.judges:
            return
        judgement = self._judge(*self._answered(len(self.new)), over=True)
        named = comparable(self.pool.pool.class_names, self.pool.names)
        if judgement.too_few and self.ledger.accounts.paid and not named:
            warnings.warn(
                f"{judgement.inputs} labelled answers are too few to tell whether teacher {self.ledger.name!r} is "
                f"right and has the data's order of classes{beside(judgement)}.",
                Notice,
                stacklevel=3,
            )

    def _answered(self, settled: int) -> tuple[dict[str, Tensor], Tensor | None]:
        """Responses and labels of inputs that are stored, those first that were before this ask."""
        new = set(self.new)
        before = [digest for digest in dict.fromkeys(self.pool.pool.digests) if digest not in new]
        return stored(self.ledger.database, self.ledger.teacher_id, self.pool, [*before, *self.new[:settled]])

    def _judge(self, outputs: dict[str, Tensor], labels: Tensor | None, *, over: bool) -> Judgement:
        judgement = judge(outputs, labels, texts=self.pool.pool.kind == "texts")
        paid = self.ledger.accounts.paid
        outcome = f"{paid} calls were paid, and their answers are stored" if paid else "nothing was paid now"
        logits = by_class(outputs)
        if logits is not None and not over:
            try:
                self.pool.check_width(logits.shape[1])
            except UserError as error:
                raise TeacherError(f"{str(error).rstrip('.')}; {outcome}.") from None
        self._look_at_form(outputs.get("logits"))
        if judgement.verdict != "bad":
            return judgement
        what = f"{judgement.reason}{beside(judgement)}. {judgement.advice}"
        if over and not (judgement.certain and paid):  # all is paid: a doubt is not worth more than a notice
            warnings.warn(f"of the answers of teacher {self.ledger.name!r}: {what}.", Notice, stacklevel=4)
            return judgement
        raise TeacherError(
            f"teacher {self.ledger.name!r} is not asked further: {what}, or continue anyway ({ANYWAY}); {outcome}."
        )

    def _look_at_form(self, logits: Tensor | None) -> None:
        if self.noticed or logits is None:
            return
        self.noticed = True
        if agreement.are_probabilities(logits):
            warnings.warn(f"teacher {self.ledger.name!r}: {agreement.PROBABILITIES}.", Notice, stacklevel=5)


def stored(
    database: Database, teacher_id: int, pool: ClassColumns, digests: Sequence[bytes]
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Responses and labels of those of the inputs that are stored, the first `LOOKED_AT` of them."""
    with database.read() as connection:
        there = responses.located(connection, teacher_id, digests[:LOOKED_AT])
        kept = [digest for digest in digests[:LOOKED_AT] if digest in there]
        if not kept:
            return {}, None
        outputs = pool.responses(reading.read(connection, teacher_id, kept))
    if pool.pool.labels is None:
        return outputs, None
    rows = dict(zip(reversed(pool.pool.digests), range(len(pool.pool) - 1, -1, -1), strict=True))
    return outputs, pool.pool.labels[[rows[digest] for digest in kept]]


def _read(outputs: Mapping[str, Tensor]) -> Tensor:
    """Which answers name a class (n,); written ones may not."""
    count = max((len(value) for value in outputs.values()), default=0)
    return outputs["unread"][:, 0] < 1 if "unread" in outputs else torch.ones(count, dtype=torch.bool)


def judge(outputs: Mapping[str, Tensor], labels: Tensor | None, *, texts: bool = False) -> Judgement:
    """What the answers (n, k) to n different inputs, or `texts`, show."""
    logits, read = by_class(outputs), _read(outputs)
    named = read if logits is None or "missing" not in outputs else outputs["missing"][:, 0] < logits.shape[1]
    if len(named) >= agreement.FEWEST and 2 * int(named.sum()) < len(named):
        reason = f"{int((~named).sum()):,} of {len(named):,} answers name no class"
        return Judgement(len(named), verdict="bad", reason=reason, advice=PROMPT, certain=True)
    if not bool(read.any()):
        return Judgement(0)
    judgement = _judged(
        {name: value[read] for name, value in outputs.items()}, None if labels is None else labels[read]
    )
    of_form = texts and agreement.SCALE.casefold() in judgement.advice.casefold()
    return replace(judgement, advice=TEXTS) if of_form else judgement


def _judged(outputs: Mapping[str, Tensor], labels: Tensor | None) -> Judgement:
    logits = by_class(outputs)
    if logits is None or logits.ndim != 2 or logits.shape[1] < 2:
        vectors = logits if logits is not None else outputs.get("embedding")
        return Judgement(0) if vectors is None else agreement.judge(vectors, None)
    if labels is not None and int(labels.max()) >= logits.shape[1]:
        labels = None
    return agreement.judge(logits, labels, hard="logits" not in outputs)


def beside(judgement: Judgement) -> str:
    """The figures of a look as a sentence ends with them."""
    return "" if math.isnan(judgement.accuracy) else f" ({judgement})"
