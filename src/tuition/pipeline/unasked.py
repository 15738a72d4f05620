"""The inputs that are left: those of train that the teacher is not asked about, and that nothing is measured on."""

from __future__ import annotations

import torch

from tuition.data import Pool
from tuition.errors import UserError
from tuition.pipeline.settings import DistillSettings
from tuition.pipeline.sources import Sources
from tuition.training.leaks import digests


def unasked_of(settings: DistillSettings, sources: Sources, *taken: Pool | None) -> Pool | None:
    """`settings.unasked` inputs of train, without labels, drawn from those whose content no pool of `taken` has.

    For one seed fewer are a part of more, and those that stay when more are taken keep their order.

    Raises:
        UserError: fewer are left.
    """
    if not settings.unasked:
        return None
    pool = sources.train_pool(settings)
    known = {digest for other in taken if other is not None for digest in digests(other)}
    own = digests(pool)
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(settings.data.seed)).tolist()
    left = [row for row in order if own[row] not in known]
    if not left:
        raise UserError(f"no input of {pool.name} is left unasked; ask about fewer, or set unasked: 0.")
    count = len(left) if settings.unasked == "all" else settings.unasked
    if count > len(left):
        raise UserError(f"{count:,} unasked inputs are more than the {len(left):,} left of {pool.name}; say all.")
    return pool.without_labels[left[:count]]
