"""Strong views against loops over pixels and tokens."""

import math

import pytest
import torch

from tuition.data import strong
from tuition.data.strong import dropped_words, noisy_vectors, strong_images


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def naive(images, seed):
    """The views that these draws make, pixel by pixel: bilinear reads of what lies under each, zeros outside."""
    count, channels, height, width = images.shape
    g = generator(seed)

    def between(limit, *shape):
        return ((2 * torch.rand(count, *shape, generator=g) - 1) * limit).tolist()

    turns, scales, shifts = between(strong.TURN), between(strong.SCALE), between(2 * strong.SHIFT, 2)
    noise = torch.randn(images.shape, generator=g)
    halves, tops, lefts = (between(0.5) for _ in range(3))
    views = torch.zeros(images.shape)
    for i in range(count):
        half = (halves[i] + 0.5) * strong.CUT * min(height, width) / 2
        cosine, sine = ((1 + scales[i]) * f(turns[i]) for f in (math.cos, math.sin))
        for row in range(height):
            for column in range(width):
                # In pixels from the centre.
                y, x = row + 0.5 - height / 2, column + 0.5 - width / 2
                from_x = cosine * x - sine * y + shifts[i][0] * width / 2 + width / 2 - 0.5
                from_y = sine * x + cosine * y + shifts[i][1] * height / 2 + height / 2 - 0.5
                in_y = abs(row + 0.5 - (tops[i] + 0.5) * height) <= half
                in_x = abs(column + 0.5 - (lefts[i] + 0.5) * width) <= half
                for channel in range(channels):
                    if in_y and in_x:
                        views[i, channel, row, column] = images[i, channel].float().mean() / 255
                        continue
                    value = 0.0
                    for r in (math.floor(from_y), math.floor(from_y) + 1):
                        for c in (math.floor(from_x), math.floor(from_x) + 1):
                            if 0 <= r < height and 0 <= c < width:
                                share = (1 - abs(from_y - r)) * (1 - abs(from_x - c))
                                value += share * float(images[i, channel, r, c]) / 255
                    value += strong.NOISE * float(noise[i, channel, row, column])
                    views[i, channel, row, column] = min(max(value, 0.0), 1.0)
    return views * 255


def test_views_of_images_are_those_of_a_loop_over_pixels():
    images = torch.randint(0, 256, (6, 2, 9, 12), generator=generator(1), dtype=torch.uint8)
    before = images.clone()
    views = strong_images(images, generator(5))
    expected = naive(images, 5)
    assert (views.dtype, views.shape) == (torch.uint8, images.shape)
    assert (views - expected).abs().max() <= 0.51, "but for rounding to bytes"
    assert torch.equal(images, before)
    assert (expected - images.float()).abs().mean() > 20, "and the views are others"


def test_views_follow_the_generator_and_every_image_has_its_own():
    images = torch.randint(0, 256, (1, 3, 16, 16), generator=generator(1), dtype=torch.uint8).expand(8, -1, -1, -1)
    views = strong_images(images, generator(2))
    assert torch.equal(views, strong_images(images, generator(2)))
    assert not torch.equal(views, strong_images(images, generator(3)))
    assert len(views.flatten(1).unique(dim=0)) == 8


def test_noise_of_vectors_has_the_spread_of_their_columns():
    vectors, spread = torch.randn(20000, 3, generator=generator()), torch.tensor([0.0, 1.0, 10.0])
    noise = noisy_vectors(vectors, generator(1), spread=spread) - vectors
    assert noise[:, 0].abs().max() == 0, "a constant column stays"
    for column in (1, 2):
        assert noise[:, column].std() == pytest.approx(strong.SPREAD * float(spread[column]), rel=0.05)
        assert abs(noise[:, column].mean()) < 0.02 * spread[column]


def test_words_are_dropped_but_for_the_first():
    ids = torch.arange(1, 4001, dtype=torch.int32).view(100, 40)
    views = dropped_words(ids, generator(), padding=0)
    assert views.dtype == torch.int32
    assert torch.equal(views[:, 0], ids[:, 0])
    assert bool(((views == ids) | (views == 0)).all())
    assert float((views[:, 1:] == 0).float().mean()) == pytest.approx(strong.DROPPED, abs=0.03)
