"""CutMixPick in its paid form: the teacher is asked about mixes, and the most uncertain are kept."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from tuition import losses, stopping
from tuition.data import TransferSet
from tuition.data.transfer import rows_answered
from tuition.errors import UserError
from tuition.pipeline.parts import UNLIMITED
from tuition.store import ResponseStore
from tuition.store.price import Amount, AmountPerTokens
from tuition.teachers import Teacher

BOXES = 64  # mixes that share a box


def add_paid_mixes(
    store: ResponseStore,
    teacher: Teacher,
    transfer: TransferSet,
    calls: int,
    *,
    seed: int,
    budget: int = UNLIMITED,
    cost_per_call: Amount | None = None,
    cost_per_million_tokens: AmountPerTokens | None = None,
) -> TransferSet:
    """Ask about `calls` CutMixes of the transfer set, each a new call, and add the half of the highest entropy to it.

    The transfer set gets a response "targets" (n, k): one-hot labels, and for mixes the labels' shares by area.

    Args:
        calls: mixes to ask about.
        budget: the most calls ever paid for this teacher in this store; by default there is no limit but `calls`.
        cost_per_call, cost_per_million_tokens: see `ResponseStore.ask`.

    Raises:
        UserError: there are no labels, or the inputs are not images.

    Source: Wang et al., What Makes a "Good" Data Augmentation in Knowledge Distillation, arXiv 2012.02909, section 5.
    """
    pool = transfer.pool
    if pool.labels is None or pool.kind != "images":
        raise UserError("paid mixes need labelled images; set paid_mixes: 0.")
    images = pool.view(None).asked_tensor()
    generator = torch.Generator().manual_seed(seed)
    one_hot = F.one_hot(pool.labels, transfer.responses["logits"].shape[1]).float()
    mixes: list[tuple[Tensor, ...]] = []
    for size in torch.arange(calls).split(BOXES):
        rows = torch.randint(len(pool), (len(size),), generator=generator)
        mixes.append(losses.cutmix(images[rows], one_hot[rows], generator=generator))
    inputs, shares = (torch.cat(parts) for parts in zip(*mixes, strict=True))
    mixed = replace(pool, inputs=inputs, labels=shares.argmax(dim=1), views=None, name=f"mixes of {pool.name}")

    with stopping.deferred():
        answered = store.ask(
            teacher,
            mixed,
            budget=budget,
            cost_per_call=cost_per_call,
            cost_per_million_tokens=cost_per_million_tokens,
            stopping=stopping.requested,
            check_answers=False,  # the transfer set's were checked, and mixes have several classes
        )
    if answered.refused:
        rest = rows_answered(mixed, answered.refused)
        inputs, shares = inputs[rest], shares[rest]
    log_shares = answered.responses["logits"].log_softmax(dim=1)
    entropy = -(log_shares.exp() * log_shares).sum(dim=1)
    kept = entropy.topk(max(1, len(answered) // 2)).indices.sort().values
    joined = replace(
        pool,
        inputs=torch.cat([images, inputs[kept]]),
        labels=torch.cat([pool.labels, shares[kept].argmax(dim=1)]),
        views=None if pool.views is None else torch.cat([pool.views, _centred(transfer, len(kept))]),
    )
    responses = {name: torch.cat([value, answered.responses[name][kept]]) for name, value in transfer.responses.items()}
    responses["targets"] = torch.cat([one_hot, shares[kept]])
    accounts, bill = transfer.accounts + answered.accounts, transfer.bill + answered.bill
    return replace(transfer, pool=joined, responses=responses, accounts=accounts, bill=bill)


def _centred(transfer: TransferSet, count: int) -> Tensor:
    assert transfer.pool.crop is not None
    _, height, width = transfer.pool.shape
    return transfer.pool.crop.centre(count, (height, width))
