"""Several data sets as one pool, and class names from a list or a file."""

import numpy as np
import pytest
from PIL import Image

from tuition import UserError
from tuition.data import Crop, from_tensors, load
from tuition.data.combine import joined
from tuition.pipeline.parts import DataSettings
from tuition.pipeline.sources import Sources


def picture(path, level, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), level, np.uint8)).convert(mode).save(path)


def write(path, rows, header="text,label"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")


class TestJoined:
    def test_folders_of_images(self, tmp_path):
        picture(tmp_path / "a/train/cat/x.png", 1)
        picture(tmp_path / "a/train/ant/x.png", 2)
        picture(tmp_path / "b/train/bee/x.png", 3, "L")
        picture(tmp_path / "b/train/cat/x.png", 4, "L")
        pool = load([tmp_path / "a", tmp_path / "b"])
        assert pool.class_names == ("ant", "bee", "cat")
        assert pool.labels.tolist() == [0, 2, 1, 2]
        assert pool.inputs[:, 2, 0, 0].tolist() == [2, 1, 3, 4]
        assert (pool.name, pool.augment) == ("a train + b train", Crop(padding=1))
        assert load([tmp_path / "a"]).digests == load(tmp_path / "a").digests

    def test_texts_and_numbered_classes(self, tmp_path):
        write(tmp_path / "a/train.csv", ["one,0", "two,1"])
        write(tmp_path / "b/train.csv", ["three,2"])
        pool = load([tmp_path / "a", tmp_path / "b"])
        assert (pool.inputs, pool.labels.tolist(), pool.num_classes) == (["one", "two", "three"], [0, 1, 2], 3)

    def test_vectors_without_labels(self):
        parts = [from_tensors(np.full((2000, 3), i, np.float32)) for i in range(2)]
        pool = joined(parts)
        assert pool.labels is None
        assert pool.inputs.mean(1).tolist() == [0.0] * 2000 + [1.0] * 2000

    def test_data_that_do_not_fit(self, tmp_path):
        picture(tmp_path / "a/train/ant/x.png", 1)
        write(tmp_path / "b/train.csv", ["one,x"])
        write(tmp_path / "c/train.csv", ["two"], "text")
        write(tmp_path / "d/train.csv", ["two,0", "three,1"])
        a, b, c, d = (tmp_path / name for name in "abcd")
        with pytest.raises(UserError, match="a train holds images of 3 x 8 x 8, and b train holds texts"):
            load([a, b])
        with pytest.raises(UserError, match="c train has no labels, and b train has"):
            load([b, c])
        with pytest.raises(UserError, match="classes without names, and others have x"):
            load([b, d])
        with pytest.raises(UserError, match="name at least one data set"):
            load([])


class TestNamed:
    def test_indices_are_named(self, tmp_path):
        write(tmp_path / "d/train.csv", ["one,1", "two,0"])
        (tmp_path / "names.txt").write_text("good\n\nbad \nneither\n")
        for names in (["good", "bad", "neither"], tmp_path / "names.txt", str(tmp_path / "names.txt")):
            pool = load(tmp_path / "d", class_names=names)
            assert (pool.labels.tolist(), pool.class_names) == ([1, 0], ("good", "bad", "neither"))

    def test_names_give_the_order(self, tmp_path):
        write(tmp_path / "train.csv", ["one,good", "two,bad"])
        pool = load(tmp_path, class_names=["good", "neither", "bad"])
        assert (pool.labels.tolist(), pool.class_names) == ([0, 2], ("good", "neither", "bad"))
        with pytest.raises(UserError, match="has the class bad, which the list of class names does not know"):
            load(tmp_path, class_names=["good", "neither"])

    def test_a_setting_names_the_file(self, tmp_path):
        write(tmp_path / "d/train.csv", ["one,1", "two,0"])
        (tmp_path / "names.txt").write_text("good\nbad\n")
        given = {"data": str(tmp_path / "d"), "class_names": str(tmp_path / "names.txt")}
        assert Sources().pool(DataSettings(**given), "train").class_names == ("good", "bad")

    def test_names_that_cannot_be_used(self, tmp_path):
        write(tmp_path / "d/train.csv", ["one,1", "two,0"])
        (tmp_path / "names.txt").write_bytes(b"\xff\xfe")
        for names, says in (
            (["a"], "has 2 classes, and 1 class names are listed"),
            (["a", "a"], "'a' is listed twice"),
            (tmp_path / "names.txt", "one class name a line, in UTF-8"),
            (tmp_path / "none.txt", "was not found"),
            (tmp_path, "is not a regular file"),
        ):
            with pytest.raises(UserError, match=says):
                load(tmp_path / "d", class_names=names)
