import numpy as np
import pytest
import torch
from PIL import Image

from tuition.data import contact_sheet, from_tensors, load
from tuition.errors import UserError


def test_the_picture_holds_the_images(tmp_path):
    """Nine flat images of their own colours: each colour fills as much of the picture as any other."""
    colours = torch.tensor([[r, g, 200] for r in (20, 120, 220) for g in (20, 120, 220)], dtype=torch.uint8)
    pool = from_tensors(colours[:, :, None, None].expand(9, 3, 8, 8), list(range(9)), name="flat")
    path = contact_sheet(pool, tmp_path / "sheet.png")
    picture = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    areas = [(picture == colour.numpy()).all(1).sum() for colour in colours]
    assert min(areas) > 0.95 * max(areas) > 100**2


def test_grey_unlabelled_few_wide_and_many(tmp_path):
    contact_sheet(load("digits"), tmp_path / "digits.png", count=20, seed=3)
    contact_sheet(from_tensors(torch.zeros(1, 3, 8, 24, dtype=torch.uint8)), tmp_path / "one.png")
    contact_sheet(from_tensors(torch.zeros(3, 4, 8, 8, dtype=torch.uint8)), tmp_path / "four_channels.svg")
    for name in ("digits.png", "one.png"):
        assert Image.open(tmp_path / name).size[0] >= 600
    assert (tmp_path / "four_channels.svg").stat().st_size > 1000


def test_what_cannot_be_drawn(tmp_path):
    with pytest.raises(UserError, match="shows images, but texts holds none"):
        contact_sheet(from_tensors(["a"], name="texts"), tmp_path / "sheet.png")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"sheet\.png cannot be written"):
        contact_sheet(from_tensors(torch.zeros(1, 1, 8, 8, dtype=torch.uint8)), tmp_path / "file" / "sheet.png")
    with pytest.raises(UserError, match="cannot write the contact sheet"):
        contact_sheet(from_tensors(torch.zeros(1, 1, 8, 8, dtype=torch.uint8)), tmp_path / "sheet.docx")
