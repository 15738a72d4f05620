import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tuition.data import Crop
from tuition.errors import UserError


def cut_naively(image, view, crop):
    """One image (c, h, w), pixel by pixel."""
    channels, height, width = image.shape
    top, left, flip = view
    out_height, out_width = (crop.size, crop.size) if crop.size else (height, width)
    out = np.zeros((channels, out_height, out_width), image.dtype)
    for c in range(channels):
        for i in range(out_height):
            for j in range(out_width):
                row, column = top + i - crop.padding, left + (out_width - 1 - j if flip else j) - crop.padding
                if 0 <= row < height and 0 <= column < width:
                    out[c, i, j] = image[c, row, column]
    return out


@given(
    st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(2, 9), st.integers(2, 9)),
    st.builds(Crop, padding=st.integers(0, 4), size=st.one_of(st.none(), st.integers(1, 10)), flip=st.booleans()),
    st.sampled_from([torch.uint8, torch.float32]),
    st.integers(0, 1000),
)
def test_crops_equal_the_loop_over_pixels(shape, crop, dtype, seed):
    n, _, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, shape, generator=generator).to(dtype)
    if crop.size is not None and crop.size > min(height, width) + 2 * crop.padding:
        with pytest.raises(UserError, match="does not fit"):
            crop.draw(n, (height, width), generator)
        return
    for views in (crop.draw(n, (height, width), generator), crop.centre(n, (height, width))):
        found = crop(images, views)
        assert found.dtype == images.dtype
        assert found.shape[2:] == crop.output_size((height, width))
        for image, view, out in zip(images.numpy(), views.tolist(), found.numpy(), strict=True):
            np.testing.assert_array_equal(out, cut_naively(image, view, crop))


@pytest.mark.parametrize("flip", [True, False])
def test_views_are_cut_from_windows_that_are_made_once(flip):
    images = torch.randint(0, 256, (5, 3, 8, 9), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    crop = Crop(padding=2, size=7, flip=flip)
    windows = crop.windows(images)
    assert windows.shape == (1 + flip, 5, 6, 7, 7, 7, 3)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        rows, views = torch.randint(5, (12,), generator=generator), crop.draw(12, (8, 9), generator)
        found = crop.cut(windows, rows, views)
        assert found.is_contiguous(memory_format=torch.channels_last)
        for row, view, out in zip(rows, views.tolist(), found.numpy(), strict=True):
            np.testing.assert_array_equal(out, cut_naively(images[row].numpy(), view, crop))


def test_every_offset_and_both_flips_are_drawn_alike_often():
    views = Crop(padding=1).draw(9000, (8, 8), torch.Generator().manual_seed(0))
    values, counts = views.unique(dim=0, return_counts=True)
    assert len(values) == 3 * 3 * 2
    assert (counts - 500).abs().max() < 5 * (9000 / 18 * 17 / 18) ** 0.5


def test_flip_off_leaves_the_crops_as_they_were():
    with_flip, without = (Crop(flip=flip).draw(50, (8, 8), torch.Generator().manual_seed(3)) for flip in (True, False))
    assert torch.equal(with_flip[:, :2], without[:, :2])
    assert with_flip[:, 2].sum() > 0
    assert without[:, 2].sum() == 0


def test_cars():
    """56 from 64: the views stay within the picture and the centred one leaves 4 pixels on each side."""
    crop = Crop(padding=0, size=56)
    views = crop.draw(5000, (64, 64), torch.Generator().manual_seed(0))
    assert (views[:, :2].min(), views[:, :2].max()) == (0, 8)
    assert crop.centre(2, (64, 64)).tolist() == [[4, 4, 0]] * 2
    assert crop.output_size((64, 64)) == (56, 56)


@pytest.mark.parametrize("settings", [{"padding": -1}, {"size": 0}])
def test_settings_without_meaning(settings):
    with pytest.raises(UserError):
        Crop(**settings)
