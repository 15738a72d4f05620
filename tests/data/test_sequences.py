"""Inputs and labels in memory of every kind that people hold them in."""

import numpy as np
import pandas
import pytest
import torch
from PIL import Image

from tuition import UserError
from tuition.data import from_tensors

TEXTS = ["a b", "c d", "e"]


def column(values):
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_dict({"x": values})["x"]


@pytest.mark.parametrize(
    "make",
    [
        list, tuple, np.array, pandas.Series, column,
        lambda texts: np.array(texts, object),
        lambda texts: pandas.Series(texts, dtype="string"),
        lambda texts: pandas.Series(texts, index=[7, 3, 5]),
        lambda texts: pandas.Index(texts),
    ],
)  # fmt: skip
def test_texts(make):
    pool = from_tensors(make(TEXTS), [0, 1, 1])
    assert pool.inputs == TEXTS
    assert {type(text) for text in pool.inputs} == {str}
    assert pool.digests == from_tensors(TEXTS).digests


INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", ">i2", ">u4"]


@pytest.mark.parametrize("kind", INTEGERS)
def test_labels_of_every_integer_type(kind):
    labels = np.array([2, 0, 1], kind)
    for held in (
        labels,
        list(labels),
        labels[::-1][::-1],
        pandas.Series(labels.astype(labels.dtype.newbyteorder("="))),
    ):
        pool = from_tensors(TEXTS, held)
        assert (pool.labels.tolist(), pool.labels.dtype) == ([2, 0, 1], torch.int64)
    if kind.startswith(("int", "uint")):
        assert from_tensors(TEXTS, torch.tensor([2, 0, 1]).to(getattr(torch, kind))).labels.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    "labels", [column([2, 0, 1]), pandas.Series([2, 0, 1], index=[5, 5, 6]), pandas.array([2, 0, 1], "Int64"), range(3)]
)
def test_labels_in_columns(labels):
    assert from_tensors(TEXTS, labels).labels.tolist() == list(labels)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.array([0, -1, 1], "int8"), "run from -1 to 1"),
        (np.array([True, False, True]), "class indices, not torch.bool"),
        (pandas.Series([0.0, 1.0, 1.0]), "class indices, not torch.float32"),
        (pandas.array([0, None, 1], "Int64"), "class indices, not names or lists"),
        (pandas.Series(["a", "b", "c"]), "class indices, not names or lists"),
        (column([[0], [1], [0]]), r"of shape \(3, 1\)"),
        ([[0], [1, 2], []], "class indices, not names or lists"),
        (np.array([0, 1, 1], complex), "class indices, not torch.complex128"),
        ("012", "class indices, not names or lists"),
        (iter([0, 1, 1]), "class indices, not names or lists"),
    ],
)
def test_labels_that_cannot_be_used(labels, says):
    with pytest.raises(UserError, match=says):
        from_tensors(TEXTS, labels)


def pictures(*modes, size=(8, 9)):
    colours = [(10 * i, 20 * i, 30 * i) for i in range(len(modes))]
    return [Image.new("RGB", size, colour).convert(mode) for mode, colour in zip(modes, colours, strict=True)]


class TestPictures:
    @pytest.mark.parametrize("make", [list, tuple, column])
    def test_of_pillow(self, make):
        pool = from_tensors(make(pictures("RGB", "RGB", "RGB")), [0, 1, 0])
        assert pool.inputs.shape == (3, 3, 9, 8)
        assert pool.inputs[:, :, 0, 0].tolist() == [[0, 0, 0], [10, 20, 30], [20, 40, 60]]

    def test_of_several_modes(self):
        assert from_tensors(pictures("L", "1", "LA")).inputs.shape == (3, 1, 9, 8)
        mixed = from_tensors(pictures("L", "RGB", "RGBA", "P"))
        assert mixed.inputs.shape == (4, 3, 9, 8)
        assert mixed.inputs[1:3, :, 0, 0].tolist() == [[10, 20, 30], [20, 40, 60]]

    def test_that_cannot_be_used(self):
        with pytest.raises(UserError, match=r"differ in size \(9x8, but that in row 1 is 8x8\)"):
            from_tensors([*pictures("L"), *pictures("L", size=(8, 8))])
        with pytest.raises(UserError, match="more than 8 bits"):
            from_tensors([Image.fromarray(np.full((8, 8), 40000, np.uint16))])
        with pytest.raises(UserError, match="all of one shape"):
            from_tensors([*pictures("L"), "text"])


class TestArrays:
    IMAGES = np.random.default_rng(0).integers(0, 256, (4, 3, 9, 8))

    @pytest.mark.parametrize("kind", ["uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", ">i2"])
    def test_bytes_of_every_integer_type(self, kind):
        pool = from_tensors(self.IMAGES.astype(kind))
        assert (pool.inputs.dtype, pool.inputs.tolist()) == (torch.uint8, self.IMAGES.tolist())

    @pytest.mark.parametrize(
        ("images", "says"),
        [
            (np.full((1, 1, 8, 8), 65535, np.uint16), "not torch.uint16 from 65535 to 65535; scale them to bytes"),
            (np.full((1, 1, 8, 8), -1, np.int8), "from -1 to -1"),
            (np.ones((1, 1, 8, 8), bool), "not torch.bool; convert them"),
            (np.ones((1, 1, 8, 8), np.float32), "not torch.float32; convert them"),
            (np.ones((2, 0, 8, 8), np.uint8), "hold no values"),
            (np.ones((2, 0), np.float32), "hold no values"),
        ],
    )
    def test_images_that_are_not_bytes(self, images, says):
        with pytest.raises(UserError, match=says):
            from_tensors(images)

    @pytest.mark.parametrize(
        "make", [list, lambda it: [torch.from_numpy(one) for one in it], lambda it: it[::-1][::-1]]
    )
    def test_lists_and_views(self, make):
        images = self.IMAGES.astype(np.uint8)
        assert torch.equal(from_tensors(make(images)).inputs, torch.from_numpy(images))
        vectors = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)
        pool = from_tensors(make(vectors))
        assert torch.equal(pool.inputs, torch.from_numpy(vectors))
        assert pool.inputs.dtype == torch.float32

    def test_lists_of_unlike_tensors(self):
        with pytest.raises(UserError, match="all of one shape"):
            from_tensors([torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)])

    @pytest.mark.parametrize("inputs", ["text", {"a": 1}, iter(["a"])])
    def test_what_is_not_a_sequence(self, inputs):
        with pytest.raises(UserError, match="a pool is made of sequences, not of"):
            from_tensors(inputs)

    def test_half_a_character(self):
        with pytest.raises(UserError, match="text in row 1 holds half a character"):
            from_tensors(["a", "b \ud83d"])
