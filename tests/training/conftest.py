"""A small transfer set of real digits, with made-up answers that are right most of the time."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tuition import data
from tuition.data import TransferSet


@pytest.fixture(scope="session")
def pool():
    return data.load("digits").sample(200, seed=3)


@pytest.fixture(scope="session")
def transfer(pool):
    """64 digits; the answers are logits of which the label's is mostly the largest."""
    generator = torch.Generator().manual_seed(0)
    part = pool[:64]
    logits = 3 * F.one_hot(part.labels, 10).float() + torch.randn(64, 10, generator=generator)
    return TransferSet(part, {"logits": logits})


@pytest.fixture
def plain(transfer):
    """Without augmentation."""
    return replace(transfer, pool=replace(transfer.pool, augment=None))
