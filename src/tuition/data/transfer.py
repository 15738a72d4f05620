"""A transfer set: inputs with a teacher's responses, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from typing import Any

from torch import Tensor

from tuition.data.inputs import Inputs
from tuition.data.ondisk import OnDisk
from tuition.data.pool import Pool, row_index
from tuition.data.readable import Readable, counted

EXACT = Context(prec=80, traps=[Inexact, InvalidOperation, Overflow])  # sums of money are never rounded


BY_CLASS = ("logits", "votes")  # responses with a column a class, whose highest is the answer


def by_class(responses: Mapping[str, Tensor]) -> Tensor | None:
    """The logits, else the votes (n, k) of a teacher; None of one that answers with embeddings alone."""
    return next((responses[name] for name in BY_CLASS if name in responses), None)


WORDS = ("paid", "from cache", "failed", "in flight when interrupted")  # what people read of Accounts, in its order


@dataclass(frozen=True, repr=False)
class Accounts(Readable):
    """Counts of teacher calls.

    Attributes:
        paid: calls answered (also malformed or NaN) or of unknown fate; never more than the budget.
        served: rows answered without a call: from the store, or as a repeat of an equal input.
        failed: attempts that were refused (connection refused, 429, 5xx) and therefore not charged.
        unknown: the part of `paid` whose answer never arrived (killed or cut off in flight).
    """

    paid: int = 0
    served: int = 0
    failed: int = 0
    unknown: int = 0

    def lines(self) -> list[str]:
        return [
            f"Accounts: {self.paid:,} paid, {self.served:,} from cache, {self.failed:,} failed",
            f"{self.unknown:,} of the paid were in flight when interrupted",
        ]

    def in_words(self) -> dict[str, int]:
        """The counts by the words that people read."""
        return dict(zip(WORDS, self.as_dict().values(), strict=True))

    def __str__(self) -> str:
        return ", ".join(f"{count:,} {word}" for word, count in self.in_words().items())

    def __add__(self, other: Accounts) -> Accounts:
        return Accounts(*(a + b for a, b in zip(self.as_dict().values(), other.as_dict().values(), strict=True)))

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True, repr=False)
class Bill(Readable):
    """What calls cost, exactly, and the tokens they used.

    Attributes:
        cost: in the currency of the prices; calls and tokens without a price cost nothing here.
        input_tokens, output_tokens: as the server counted them.
        metered: the paid calls whose tokens the server counted.
    """

    cost: Decimal = Decimal(0)
    input_tokens: int = 0
    output_tokens: int = 0
    metered: int = 0

    def lines(self) -> list[str]:
        tokens = f"{self.input_tokens:,} input and {self.output_tokens:,} output tokens"
        return [f"Bill: {self.cost:f}", f"{tokens}, counted for {counted(self.metered, 'call')}"]

    def __add__(self, other: Bill) -> Bill:
        tokens = self.input_tokens + other.input_tokens, self.output_tokens + other.output_tokens
        return Bill(EXACT.add(self.cost, other.cost), *tokens, self.metered + other.metered)

    def as_dict(self) -> dict[str, str | int]:
        """As `from_dict` reads it; the cost is text, which keeps every digit."""
        return asdict(self) | {"cost": f"{self.cost:f}"}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Bill:
        return cls(**{**values, "cost": Decimal(values.get("cost", 0))})


@dataclass(frozen=True)
class Refusal:
    """An input that the teacher refused for what it is; it is in no transfer set.

    Attributes:
        row: of the pool that was asked about.
        digest: of the input's content, in hexadecimal digits.
        start: the first characters of a text; nothing of other inputs.
        reason: what the teacher said.
    """

    row: int
    digest: str
    start: str
    reason: str

    @classmethod
    def of(cls, row: int, digest: bytes, text: str | None, reason: str) -> Refusal:
        """With texts and reasons that are short enough to be shown."""
        return cls(row, digest.hex(), _shortened(text or "", 60), _shortened(reason, 400))

    def __str__(self) -> str:
        return f"row {self.row}: {self.start!r}" if self.start else f"row {self.row}, digest {self.digest}"


def rows_answered(pool: Pool, refused: Sequence[Refusal]) -> list[int]:
    """The rows of a pool that was asked about, but for those whose inputs were refused."""
    left_out = {one.digest for one in refused}
    return [row for row, digest in enumerate(pool.digests) if digest.hex() not in left_out]


def _shortened(text: str, most: int) -> str:
    words = " ".join(text[: 4 * most].split())
    return words if len(words) <= most else words[: most - 3] + "..."


@dataclass(frozen=True, eq=False, repr=False)
class TransferSet(Readable):
    """Inputs, the teacher's responses to them and, where known, their labels.

    Attributes:
        pool: n inputs; `pool.views` are the views that were asked about.
        responses: output name -> (n, ...) tensor, rows in the pool's order; "logits" and "votes" are float32 (n, k).
        teacher: the teacher's name.
        fingerprint: what identified the teacher to the store.
        accounts: the calls of the ask that made this set.
        bill: what these calls cost.
        refused: the inputs of that ask that the teacher refused; they are in none of the rows.
    """

    pool: Pool
    responses: dict[str, Tensor]
    teacher: str = "teacher"
    fingerprint: str = ""
    accounts: Accounts = Accounts()
    bill: Bill = Bill()
    refused: tuple[Refusal, ...] = ()

    def __len__(self) -> int:
        return len(self.pool)

    def lines(self) -> list[str]:
        answers = ", ".join(f"{name} {tuple(value.shape)}" for name, value in self.responses.items())
        first = self.accounts.lines()[0]
        right = self.teacher_accuracy
        agrees = "" if right is None else f"; the teacher agrees with {right:.1f} % of the labels"
        what = f"{self.pool.name!r}: {counted(len(self), 'input')}"
        return [
            f"TransferSet {what}, answered by {self.teacher!r} with {answers}",
            f"{self.pool.known_classes()}{agrees}; {first.removeprefix('Accounts: ')}",
        ]

    @property
    def inputs(self) -> Inputs | OnDisk:
        return self.pool.inputs

    @property
    def labels(self) -> Tensor | None:
        return self.pool.labels

    @property
    def teacher_accuracy(self) -> float | None:
        """Share of the rows whose answer is their label, in percent; None without labels or classes."""
        logits = by_class(self.responses)
        if logits is None or self.labels is None or logits.ndim != 2 or len(self) == 0:
            return None
        return 100.0 * float((logits.argmax(dim=1).cpu() == self.labels.cpu()).double().mean())

    def __getitem__(self, rows: slice | Sequence[int] | Tensor) -> TransferSet:
        """The rows named, in that order, as a transfer set of their own."""
        index = row_index(len(self), rows)
        # Responses may be large: a slice of them is not a copy.
        at = rows if isinstance(rows, slice) and (rows.step or 1) > 0 else index
        return replace(self, pool=self.pool[index], responses={k: v[at] for k, v in self.responses.items()})
