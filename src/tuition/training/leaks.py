"""Inputs that a student is both trained and measured on, which make a figure too good."""

from __future__ import annotations

import warnings

from tuition.data import Pool, TransferSet
from tuition.errors import Notice


def warn_of_shared(learned: Pool | None, where: str, **others: Pool | TransferSet | None) -> None:
    """Warn of inputs of the pools named "validation" and "test" that a pool holds too, which is learned from.

    Args:
        where: which pool that is, for the message.
    """
    known: set[bytes] | None = None
    for name, other in others.items():
        pool = other.pool if isinstance(other, TransferSet) else other
        if pool is None or learned is None:
            continue
        known = set(digests(learned)) if known is None else known
        shared = sum(digest in known for digest in digests(pool))
        if shared:
            verb = "is" if shared == 1 else "are"
            warnings.warn(
                f"{shared:,} of the {len(pool):,} {name} inputs {verb} in {where} too, so the {name} figures are too "
                "good; draw them apart, as with pool.split.",
                Notice,
                stacklevel=3,
            )


def digests(pool: Pool) -> list[bytes]:
    """Of the inputs themselves, without their views."""
    return (pool if pool.crop is None else pool.view(None)).digests
