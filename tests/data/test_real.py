"""The two data sets of the paper, counted. They lie beside the repository, if anywhere."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from tuition.data import Crop, load

DATA = Path(__file__).parents[2].parent / "shared" / "data"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason="the data sets are not beside the repository (../shared/data)"),
]


def repeats(pool):
    return len(pool) - len(set(pool.digests))


def test_cifar100():
    train, test = load(DATA / "cifar100"), load(DATA / "cifar100", split="test")
    assert (train.inputs.shape, test.inputs.shape) == ((50_000, 3, 32, 32), (10_000, 3, 32, 32))
    assert train.labels.bincount().tolist() == [500] * 100
    assert test.labels.bincount().tolist() == [100] * 100
    assert len(train.class_names) == 100
    assert train.class_names[:3] == ("apple", "aquarium_fish", "baby")
    assert list(train.class_names) == sorted(train.class_names)
    means = train.inputs.sum((0, 2, 3), dtype=torch.int64) / (50_000 * 32 * 32 * 255)
    torch.testing.assert_close(means, torch.tensor([0.507, 0.487, 0.441]), atol=5e-4, rtol=0)
    assert (repeats(train), repeats(test)) == (14, 2)
    assert len(set(train.digests) & set(test.digests)) == 10
    assert (train.crop, train.augment) == (None, Crop(padding=4))
    again = load(DATA / "cifar100")
    assert torch.equal(again.inputs, train.inputs)


def test_stanford_cars():
    train, test = load(DATA / "stanford_cars_64"), load(DATA / "stanford_cars_64", split="test")
    assert (train.inputs.shape, test.inputs.shape) == ((8_144, 3, 64, 64), (8_041, 3, 64, 64))
    assert train.num_classes == test.num_classes == 196
    assert train.class_names[0] == "AM General Hummer SUV 2000"
    assert set(Counter(train.labels.tolist())) == set(Counter(test.labels.tolist())) == set(range(196))
    assert train.augment == train.crop == Crop(padding=0, size=56)
    assert train.asked(slice(3)).shape == (3, 3, 56, 56)
