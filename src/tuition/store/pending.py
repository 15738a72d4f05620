"""What is still to be sent, in which requests, and how a request that was refused or timed out is split."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace


@dataclass
class Split:
    """A request that was refused for its inputs, and was sent again in halves: how many of these were answered."""

    answered: int = 0


@dataclass(frozen=True)
class Piece:
    """Inputs of one request.

    Attributes:
        digests: the inputs.
        attempts: how often the teacher refused them for now.
        half_of: the refused request that these are a half of.
        paid: whether an answer to them timed out, and they are paid for already.
    """

    digests: list[bytes]
    attempts: int = 0
    half_of: Split | None = field(default=None, compare=False)
    paid: bool = False

    def only(self, digests: list[bytes]) -> Piece:
        """Those of its inputs that are to be sent."""
        return self if len(digests) == len(self.digests) else replace(self, digests=digests, half_of=None)

    def halves(self, **changes: object) -> list[Piece]:
        middle = (len(self.digests) + 1) // 2
        parts = self.digests[:middle], self.digests[middle:]
        return [replace(self, digests=part, attempts=0, **changes) for part in parts]  # type: ignore[arg-type]


class Pending:
    """Inputs in the order in which they are sent, at most `size` in a request."""

    def __init__(self, new: Sequence[bytes], size: int) -> None:
        self.size = size
        self._fresh, self._next = list(new), 0
        self._first: deque[Piece] = deque()

    def __bool__(self) -> bool:
        return bool(self._first) or self._next < len(self._fresh)

    @property
    def left(self) -> int:
        """Inputs that are still to be sent."""
        return len(self._fresh) - self._next + sum(len(piece.digests) for piece in self._first)

    def next(self, most: float = math.inf) -> Piece:
        """The next request, of `most` inputs at most; what was put back comes first."""
        size = int(min(self.size, most))
        if not self._first:
            digests = self._fresh[self._next : self._next + size]
            self._next += len(digests)
            return Piece(digests)
        piece = self._first.popleft()
        if len(piece.digests) > size:
            self._first.appendleft(replace(piece, digests=piece.digests[size:], half_of=None))
            piece = replace(piece, digests=piece.digests[:size], half_of=None)
        return piece

    def put_back(self, piece: Piece) -> None:
        """Send these next."""
        self._first.appendleft(piece)

    def put_last(self, digests: Sequence[bytes]) -> None:
        """Send these at the end, if they are not stored by then."""
        self._fresh += digests

    def answered(self, piece: Piece) -> None:
        """Both halves of a refused request were answered: its inputs were right, it was too large."""
        if piece.half_of is not None:
            piece.half_of.answered += 1
            if piece.half_of.answered == 2:
                self.size = min(self.size, len(piece.digests))

    def split(self, piece: Piece) -> None:
        """A request of several inputs was refused for what they are: ask about each half of them."""
        self._first.extendleft(reversed(piece.halves(half_of=Split())))

    def shrink(self, piece: Piece) -> None:
        """A request of several inputs timed out: ask again, once, in requests of half its size, as all that follow."""
        self.size = max(1, min(self.size, len(piece.digests) // 2))
        self._first.extendleft(reversed(piece.halves(half_of=None, paid=True)))

    def probe(self, count: int) -> None:
        """Ask first about single inputs from all over what is left: it may be better than what was refused."""
        rest = [digest for piece in self._first if not piece.paid for digest in piece.digests]
        rest += self._fresh[self._next :]
        chosen = {rest[i * len(rest) // count] for i in range(count)} if rest else set()
        kept = (replace(piece, digests=without(piece.digests, chosen)) for piece in self._first)
        self._first = deque(piece for piece in kept if piece.digests)
        self._fresh, self._next = without(self._fresh[self._next :], chosen), 0
        self._first.extendleft(Piece([digest]) for digest in rest if digest in chosen)


def without(digests: Iterable[bytes], some: set[bytes]) -> list[bytes]:
    return [digest for digest in digests if digest not in some]
