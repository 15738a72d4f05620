"""Every epoch sees each row once, whatever the sizes; groups are uniform, without replacement."""

import math
from collections import Counter
from dataclasses import replace
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tuition import UserError, data, losses
from tuition.data import Crop, TransferSet
from tuition.training import Objective, Term
from tuition.training.batches import Batches
from tuition.training.epochs import draw_groups

CPU = torch.device("cpu")


def make(transfer, *, groups=None, drawn=0, batch_size=16, augment=None, seed=0, matched=False, classes=10):
    objective = Objective([Term("none", lambda student, batch: student.sum())], groups=groups, groups_drawn=drawn)
    return Batches(
        transfer,
        objective,
        batch_size=batch_size,
        augment=augment,
        num_classes=classes,
        device=CPU,
        generator=torch.Generator().manual_seed(seed),
        matched=matched,
    )


def numbered(count):
    """A transfer set of vectors and responses that say their row."""
    rows = torch.arange(count, dtype=torch.float32)
    return TransferSet(
        data.from_tensors(rows[:, None].repeat(1, 3), torch.arange(count) % 4), {"logits": rows[:, None]}
    )


@given(count=st.integers(2, 70), batch_size=st.integers(2, 20), seed=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_an_epoch_is_every_row_once_and_never_a_batch_of_one(count, batch_size, seed):
    batches = make(numbered(count), batch_size=batch_size, seed=seed, classes=4)
    found = list(batches.epoch())
    sizes = [len(batch.rows) for batch in found]
    assert sorted(torch.cat([batch.rows for batch in found]).tolist()) == list(range(count))
    assert min(sizes) >= 2
    assert max(sizes) - min(sizes) <= 1
    assert len(found) == len(batches) == min(math.ceil(count / batch_size), count // 2)


def test_inputs_responses_and_labels_stay_together():
    batches = make(numbered(50), classes=4)
    for batch in batches.epoch():
        assert torch.equal(batch.inputs[:, 0].long(), batch.rows)
        assert torch.equal(batch.responses["logits"][:, 0].long(), batch.rows)
        assert torch.equal(batch.targets, F.one_hot(batch.rows % 4, 4).float())


def test_epochs_differ_and_seeds_repeat():
    def orders(seed):
        batches = make(numbered(40), seed=seed, classes=4)
        return [torch.cat([batch.rows for batch in batches.epoch()]).tolist() for _ in range(3)]

    assert orders(0) == orders(0)
    assert len({tuple(order) for order in orders(0) + orders(1)}) == 6


def test_global_random_state_is_left_alone(transfer):
    before = torch.get_rng_state()
    list(make(transfer, augment=Crop(padding=1)).epoch())
    list(make(transfer, groups=(2, 1), drawn=10).epoch())
    assert torch.equal(torch.get_rng_state(), before)


def test_augmentation_is_a_crop_of_the_padded_image(transfer):
    for batch in make(transfer, augment=Crop(padding=1, flip=False)).epoch():
        for image, row in zip(batch.inputs, batch.rows.tolist(), strict=True):
            padded = F.pad(transfer.pool.inputs[row], (1, 1, 1, 1))
            crops = [padded[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
            assert any(torch.equal(image, crop) for crop in crops)


def test_without_augmentation_the_student_sees_what_was_asked(transfer):
    asked = replace(transfer, pool=transfer.pool.view(Crop(padding=2), seed=5))
    expected = asked.pool.asked()
    assert not torch.equal(expected, transfer.pool.inputs)
    for batch in make(asked).epoch():
        assert torch.equal(batch.inputs, expected[batch.rows])


def test_groups_are_uniform_and_without_replacement():
    """Chi-square over all ordered groups of 3 out of 5."""
    count = 60_000
    found = Counter(map(tuple, draw_groups(5, count, 3, torch.Generator().manual_seed(0)).tolist()))
    assert set(found) == set(permutations(range(5), 3))
    expected = count / 60
    chi_square = sum((n - expected) ** 2 / expected for n in found.values())
    assert chi_square < 93.2  # the 99.7 % quantile at 59 degrees of freedom


@given(rows=st.integers(2, 12), size=st.integers(1, 12), seed=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_groups_never_hold_a_row_twice(rows, size, seed):
    size = min(rows, size)
    groups = draw_groups(rows, 50, size, torch.Generator().manual_seed(seed))
    assert groups.shape == (50, size)
    assert all(len(set(group)) == size and set(group) <= set(range(rows)) for group in groups.tolist())


def test_sides_of_groups_lie_apart():
    batches = make(numbered(30), groups=(2, 1), batch_size=8, classes=4)
    batch = next(iter(batches.epoch()))
    left, right = batch.group_indices()
    assert (left.shape, right.shape) == ((8, 2), (8, 1))
    assert torch.equal(torch.cat([left.flatten(), right.flatten()]), torch.arange(24))
    assert all(len({*group}) == 3 for group in torch.cat([batch.rows[left], batch.rows[right]], dim=1).tolist())
    # And the loss over these indices is the difference of the means of the groups.
    logits = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
    by_hand = [(logits[a].mean(0) - logits[b].mean(0)).square().mean() for a, b in zip(left, right, strict=True)]
    torch.testing.assert_close(losses.ckd_groups(logits, torch.zeros(24, 4), left, right), torch.stack(by_hand).mean())


def test_drawn_groups_are_reused():
    batches = make(numbered(30), groups=(1, 1), drawn=5, batch_size=10, classes=4)
    pairs = set()
    for _ in range(4):
        for batch in batches.epoch():
            left, right = batch.group_indices()
            pairs |= set(zip(batch.rows[left[:, 0]].tolist(), batch.rows[right[:, 0]].tolist(), strict=True))
    assert 1 < len(pairs) <= 5


def test_matched_accounting_forwards_no_more_than_a_batch():
    """As published, a step of pairs forwards twice the images of a baseline's; matched, the same number."""
    published, matched = (make(numbered(64), groups=(1, 1), batch_size=16, matched=m, classes=4) for m in (False, True))
    assert {len(batch.rows) for batch in published.epoch()} == {32}
    assert {len(batch.rows) for batch in matched.epoch()} == {16}
    assert len(published) == len(matched) == 4


def test_too_small_transfer_sets_are_refused():
    with pytest.raises(UserError, match="at least 2 inputs, not 1"):
        make(numbered(1))
    with pytest.raises(UserError, match=r"groups of \(2, 2\) need 4 inputs; the transfer set has 3"):
        make(numbered(3), groups=(2, 2))
    with pytest.raises(UserError, match="encode the texts first"):
        make(TransferSet(data.from_tensors(["a", "b"]), {"logits": torch.zeros(2, 2)}))
