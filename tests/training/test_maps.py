"""Feature maps that follow the student's view, and the constant that comparisons are blind to."""

import pytest
import torch
import torch.nn.functional as F

from tuition import data, losses, models
from tuition.data import Crop, TransferSet
from tuition.training.batches import move
from tuition.training.recentre import recentre, recentred
from tuition.training.student import Student


@pytest.mark.parametrize("flip", [0, 1])
@pytest.mark.parametrize(("down", "right"), [(0, 0), (4, -4), (-2, 2)])
def test_moved_maps_are_the_maps_of_the_moved_image(flip, down, right):
    """With a "teacher" that averages 2x2 pixels, moving its map is moving the image, where the shift is whole cells."""
    crop = Crop(padding=4)
    images = torch.randint(0, 256, (3, 2, 16, 16), dtype=torch.uint8)
    seen = torch.tensor([[4 + down, 4 + right, flip]] * 3)
    asked = crop.centre(3, (16, 16))
    maps = F.avg_pool2d(images.float(), 2)
    expected = F.avg_pool2d(crop(images, seen).float(), 2)
    torch.testing.assert_close(move(maps, asked, seen, (16, 16)), expected, rtol=1e-4, atol=1e-2)
    # And from any view back to the centred one, as far as it was seen.
    back = move(expected, seen, asked, (16, 16))
    inside = back != 0
    torch.testing.assert_close(back[inside], maps[inside], rtol=1e-4, atol=1e-2)


def test_views_are_told_in_another_crops_frame():
    pool = data.from_tensors(torch.zeros(5, 3, 64, 64, dtype=torch.uint8)).view(Crop(padding=0, size=56), seed=0)
    there = pool.asked_views(Crop(padding=3, size=56))
    assert torch.equal(there, pool.views + torch.tensor([3, 3, 0]))
    whole = data.from_tensors(torch.zeros(5, 3, 32, 32, dtype=torch.uint8))
    assert whole.asked_views(Crop(padding=4)).tolist() == [[4, 4, 0]] * 5


@pytest.fixture
def student_and_transfer():
    pool = data.load("digits").sample(40, seed=0)
    student = Student(
        models.create("cnn_4", num_classes=10, in_channels=1, seed=0),
        models.Preprocess.fit(pool.inputs),
        input_shape=(1, 8, 8),
    ).eval()
    return student, TransferSet(pool, {"logits": torch.randn(40, 10, generator=torch.Generator().manual_seed(0))})


def test_recentre_gives_the_mean_target_and_leaves_comparisons_alone(student_and_transfer):
    student, transfer = student_and_transfer
    target = transfer.responses["logits"] + 3.0
    before = student.logits(transfer.pool)
    with recentred(student, transfer, target):
        inside = student.logits(transfer.pool)
    torch.testing.assert_close(student.logits(transfer.pool), before)
    torch.testing.assert_close(inside.mean(0), target.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses.ckd(inside, target), losses.ckd(before, target), rtol=1e-4, atol=1e-5)
    recentre(student, transfer, target)
    torch.testing.assert_close(student.logits(transfer.pool), inside)
    # What is left is nothing that an anchor would still pull at.
    torch.testing.assert_close(losses.ckd(inside, target, anchor=1.0), losses.ckd(inside, target), rtol=1e-4, atol=1e-5)
