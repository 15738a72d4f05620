"""Folders of images as people have them: names of splits, lists of labels, and what systems leave behind."""

import logging
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tuition import UserError
from tuition.data import load
from tuition.data.images import reader_of
from tuition.data.splits import canonical
from tuition.pipeline.parts import DataSettings
from tuition.pipeline.predict_inputs import inputs_of


def picture(path, level=100, mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (level, level, 255 - level)).convert(mode).save(path, **options)


def classes_of(pool):
    """The class of each picture by name, with its level, as the pixels say it."""
    return {(int(image[0, 0, 0]), pool.class_names[i]) for image, i in zip(pool.inputs, pool.labels, strict=True)}


class TestClasses:
    @pytest.mark.parametrize(
        ("names", "order"),
        [
            (range(12), [str(i) for i in range(12)]),
            (["10", "-1", "2", "0"], ["-1", "0", "2", "10"]),
            (["01", "10", "002", "9"], ["01", "002", "9", "10"]),
            (["0.5", "10", "2"], ["0.5", "2", "10"]),
            (["b", "10", "a", "9"], ["9", "10", "a", "b"]),
            (["class_10", "class_9"], ["class_10", "class_9"]),  # words sort by character
        ],
    )
    def test_numbers_sort_as_numbers(self, tmp_path, names, order):
        for name in names:
            picture(tmp_path / "train" / str(name) / "x.png", 20 * order.index(str(name)))
        pool = load(tmp_path)
        assert list(pool.class_names) == order
        assert classes_of(pool) == {(20 * i, name) for i, name in enumerate(order)}

    def test_a_class_of_one_split_alone(self, tmp_path):
        picture(tmp_path / "train/2/x.png", 2)
        picture(tmp_path / "test/10/x.png", 10)
        picture(tmp_path / "val/1/x.png", 1)
        for split, class_name in (("train", "2"), ("test", "10"), ("validation", "1")):
            pool = load(tmp_path, split=split)
            assert pool.class_names == ("1", "2", "10")
            assert classes_of(pool) == {(int(class_name), class_name)}

    def test_the_train_split_may_be_unlabelled(self, tmp_path):
        picture(tmp_path / "train/x.png", 1)
        picture(tmp_path / "test/ant/x.png", 2)
        train, test = load(tmp_path), load(tmp_path, split="test")
        assert (train.labels, train.class_names, len(train)) == (None, ("ant",), 1)
        assert classes_of(test) == {(2, "ant")}


class TestSplits:
    @pytest.mark.parametrize(
        ("split", "names"),
        [
            ("train", "train Train TRAIN training Training_Set training-set TrainingData train_images images_train "
                      "trainset train2017 trn"),
            ("validation", "val valid Validation VAL dev Dev eval val_images valset val2014 validation_data"),
            ("test", "Test TEST testing testing_set test-images TestSet testdata tst"),
        ],
    )  # fmt: skip
    def test_usual_names(self, tmp_path, split, names):
        for number, name in enumerate(names.split()):
            assert canonical(name) == split
            picture(tmp_path / str(number) / name / "ant/x.png", 7)
            assert classes_of(load(tmp_path / str(number), split=split)) == {(7, "ant")}

    @pytest.mark.parametrize("name", ["trained", "contest", "ant", "0", "trainval", "value", "bullet_train", "images"])
    def test_other_names(self, name):
        assert canonical(name) is None

    @pytest.mark.parametrize(
        ("paths", "says"),
        [
            (["seg_train/ant/0.png", "seg_test/ant/0.png"], "look like splits; rename them train, validation, test"),
            (["archive/train/ant/0.png", "archive/test/ant/0.png"], "lie in its folder archive; name that folder"),
            (["ant/train/0.png", "ant/test/0.png", "bee/train/0.png"], "lie in its folder ant; .*splits above classes"),
            (["Train/ant/0.png", "training/ant/0.png"], "several splits of train: Train, training; name one of them"),
            (["car/0.png", "plane/0.png", "train/0.png"], "holds pictures in train, a split, and in car, plane"),
            (["test/ant/0.png"], "no split 'train'; choose one of: test"),
        ],
    )
    def test_splits_are_never_taken_for_classes(self, tmp_path, paths, says):
        for path in paths:
            picture(tmp_path / path)
        with pytest.raises(UserError, match=says):
            load(tmp_path)

    def test_lists_of_files_are_not_taken_for_texts(self, tmp_path):
        picture(tmp_path / "ant/deep/0.png")
        (tmp_path / "train.txt").write_text("ant/deep/0\n")
        with pytest.raises(UserError, match="holds texts in train and pictures in its folder ant; keep one of them"):
            load(tmp_path)

    def test_texts_and_arrays(self, tmp_path):
        (tmp_path / "Training.CSV").write_text("text,label\na,1\n")
        (tmp_path / "dev.csv").write_text("text,label\nb,0\n")
        assert load(tmp_path).inputs == ["a"]
        assert load(tmp_path, split="validation").inputs == ["b"]
        other = tmp_path / "arrays"
        other.mkdir()
        np.savez(other / "Test_Set.npz", inputs=np.ones((2, 3), np.float32))
        assert len(load(other, split="test")) == 2


class TestTinyImageNet:
    def make(self, tmp_path, listed=6):
        for name in ("n01", "n02"):
            for i in range(2):
                picture(tmp_path / f"train/{name}/images/{name}_{i}.JPEG", int(name[1:]), quality=100)
            (tmp_path / f"train/{name}/{name}_boxes.txt").write_text("n01_0.JPEG\t0\t0\t62\t62\n")
        rows = [("n02", 2), ("n01", 1), ("n03", 3)] * 2
        for i, (_, level) in enumerate(rows):
            picture(tmp_path / f"val/images/val_{i}.JPEG", level)
        lines = [f"val_{i}.JPEG\t{name}\t0\t0\t62\t62" for i, (name, _) in enumerate(rows)]
        (tmp_path / "val/val_annotations.txt").write_text("\n".join(lines[:listed]) + "\n")
        picture(tmp_path / "test/images/test_0.JPEG")
        (tmp_path / "wnids.txt").write_text("n01\nn02\n")
        (tmp_path / "words.txt").write_text("n01\tant\nn02\tbee\n")

    def test_labels_are_read_from_the_list(self, tmp_path, caplog):
        self.make(tmp_path)
        train, validation, test = (load(tmp_path, split=split) for split in ("train", "validation", "test"))
        assert train.class_names == validation.class_names == test.class_names == ("n01", "n02", "n03")
        assert train.labels.tolist() == [0, 0, 1, 1]
        assert validation.labels.tolist() == [1, 0, 2] * 2
        assert test.labels is None
        assert not caplog.records

    def test_pictures_without_a_label(self, tmp_path):
        self.make(tmp_path, listed=4)
        assert load(tmp_path).class_names == ("n01", "n02", "n03")
        with pytest.raises(UserError, match=r"2 of the 6 pictures of .*images have no label in val_annotations\.txt"):
            load(tmp_path, split="val")

    def test_without_a_list(self, tmp_path):
        self.make(tmp_path)
        (tmp_path / "val/val_annotations.txt").unlink()
        validation = load(tmp_path, split="validation")
        assert (validation.labels, validation.class_names) == (None, ("n01", "n02"))

    def test_lists_of_other_forms(self, tmp_path):
        picture(tmp_path / "d/train/10/a.png", 1)
        picture(tmp_path / "d/val/x.png", 2)
        picture(tmp_path / "d/val/y.png", 3)
        for name, text in (
            ("labels.csv", "file_name,label\nx.png,10\n./y.png,9\n"),
            ("list.txt", "x.png 10\ny.png 9\n"),
            ("l.tsv", "x.png\t10\ny.png\t9\n"),
        ):
            (tmp_path / "d/val" / name).write_text(text)
            pool = load(tmp_path / "d", split="val")
            assert pool.class_names == ("9", "10")
            assert classes_of(pool) == {(2, "10"), (3, "9")}
            (tmp_path / "d/val" / name).unlink()
        (tmp_path / "d/val/list.txt").write_text("x.png 0\ny.png 1\n")
        with pytest.raises(UserError, match=r"none of the labels in list\.txt \(0, 1\) is a class of the other splits"):
            load(tmp_path / "d", split="val")
        (tmp_path / "d/val/list.txt").write_text("x.png 10\ny.png 9\nx.png 9\n")
        with pytest.raises(UserError, match=r"gives x\.png two labels, 10 and 9"):
            load(tmp_path / "d", split="val")

    def test_folders_of_labels_beside_images(self, tmp_path):
        picture(tmp_path / "train/images/a.png")
        (tmp_path / "train/labels").mkdir()
        (tmp_path / "train/labels/a.txt").write_text("0 0.5 0.5 1 1\n")
        pool = load(tmp_path)
        assert (pool.labels, pool.class_names, len(pool)) == (None, None, 1)


LEFT = ["._0.png", ".DS_Store", "Thumbs.db", "desktop.ini", "~$notes.png", "0.png~", "0.png:Zone.Identifier"]
LEFT_FOLDERS = ["__MACOSX", ".ipynb_checkpoints", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information"]


class TestLeftovers:
    def litter(self, folder):
        for name in LEFT:
            (folder / name).write_bytes(b"\0\5\x16\7" + bytes(60))
        for name in LEFT_FOLDERS:
            picture(folder / name / "copy.png", 222)
            (folder / name / "train.csv").write_text("text\nleft over\n")

    def test_among_images(self, tmp_path, caplog):
        for split in ("train", "test"):
            for i, name in enumerate(("ant", "bee")):
                picture(tmp_path / split / name / "0.png", i)
        for folder in [tmp_path, *[path for path in tmp_path.rglob("*") if path.is_dir()]]:
            self.litter(folder)
        for split in ("train", "test"):
            pool = load(tmp_path, split=split)
            assert classes_of(pool) == {(0, "ant"), (1, "bee")}
            assert len(pool) == 2
        assert classes_of(load(tmp_path / "train")) == {(0, "ant"), (1, "bee")}
        assert not caplog.records

    def test_among_texts_arrays_and_parquet(self, tmp_path, caplog):
        import pyarrow as pa
        import pyarrow.parquet as pq

        for kind in ("texts", "arrays", "parquet"):
            (tmp_path / kind).mkdir()
            self.litter(tmp_path / kind)
        (tmp_path / "texts/train.csv").write_text("text\na\n")
        np.savez(tmp_path / "arrays/train.npz", inputs=np.ones((3, 2), np.float32))
        pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "parquet/train.parquet")
        for kind, name, count in (
            ("texts", "._train.csv", 1),
            ("arrays", "._train.npz", 3),
            ("parquet", "._t.parquet", 2),
        ):
            (tmp_path / kind / name).write_bytes(b"\0\5\x16\7" + bytes(60))
            assert len(load(tmp_path / kind)) == count
        assert not caplog.records

    def test_what_is_passed_over_is_counted_and_said(self, tmp_path, caplog):
        picture(tmp_path / "train/ant/0.png")
        for name in ("a.heic", "b.xyz", "notes.txt", "c.eps"):
            (tmp_path / "train/ant" / name).write_text("x")
        picture(tmp_path / "train/beside.png")
        (tmp_path / "README.md").write_text("a document")
        (tmp_path / "extra").mkdir()
        assert len(load(tmp_path)) == 1
        (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert "6 entries are passed over" in said
        assert "train/ant/a.heic, train/ant/b.xyz, train/ant/c.eps and 3 more" in said


@pytest.mark.parametrize("suffix", [".JPG", ".jfif", ".avif", ".jp2", ".tga", ".ico", ".pcx", ".dds", ".PBM", ".qoi"])
def test_pictures_of_every_suffix(tmp_path, suffix, caplog):
    if reader_of(Path(f"x{suffix}")) is None:
        pytest.skip("this Pillow has no reader of it")
    modes = {".pbm": "1"}
    try:
        picture(tmp_path / "ant" / f"x{suffix}", 200, modes.get(suffix.lower(), "RGB"))
    except KeyError:  # this Pillow has no writer of it
        pytest.skip("this Pillow has no writer of it")
    assert load(tmp_path).inputs.shape[0] == 1
    assert not caplog.records


def test_every_suffix_that_pillow_reads():
    Image.init()
    readable = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    left = {suffix for suffix in readable if reader_of(Path(f"x{suffix}")) is None}
    assert not left & {".png", ".jpe", ".webp", ".tiff", ".psd", ".icns"}
    # These would start Ghostscript, or are known by name alone.
    assert left <= {".ps", ".eps", ".bufr", ".grib", ".h5", ".hdf", ".mpg", ".mpeg", ".wmf", ".emf"}


class TestInputsToPredict:
    STUDENT = SimpleNamespace(image_size=(8, 8), reads_text=False, reads_grey=False)

    def read(self, place):
        """Names, inputs and what was skipped."""
        skipped = []
        blocks = list(inputs_of([str(place)], DataSettings(), "test", self.STUDENT, skipped.append))
        return [name for names, _ in blocks for name in names], [pool for _, pool in blocks], skipped

    def test_a_folder_of_pictures(self, tmp_path, caplog):
        picture(tmp_path / "d/0.png", 1)
        picture(tmp_path / "d/more/1.PNG", 2, "L")
        picture(tmp_path / "d/.ipynb_checkpoints/0-checkpoint.png", 9)
        (tmp_path / "d/._0.png").write_bytes(b"Mac OS X")
        (tmp_path / "d/notes.heic").write_text("x")
        (tmp_path / "d/more/up").symlink_to("..")
        names, (pool,), _ = self.read(tmp_path / "d")
        assert names == [str(tmp_path / "d/0.png"), str(tmp_path / "d/more/1.PNG")]
        assert pool.inputs.shape == (2, 3, 8, 8)
        assert "2 entries are passed over" in caplog.text
        (tmp_path / "d/link.png").symlink_to("/etc/passwd")
        with pytest.raises(UserError, match="leads out of the data folder"):
            self.read(tmp_path / "d")

    def test_a_name_in_latin_1(self, tmp_path):
        picture(tmp_path / "0.png", 1)
        os.rename(tmp_path / "0.png", os.fsencode(tmp_path) + b"/\xf1.png")
        names, (pool,), _ = self.read(tmp_path)
        assert names == [rf"{tmp_path}/\xf1.png"]
        assert pool.inputs.shape == (1, 3, 8, 8)
        assert len(load(tmp_path)) == 1

    def test_a_pipe(self, tmp_path):
        os.mkfifo(tmp_path / "x.png")
        for place in (tmp_path, tmp_path / "x.png"):
            _, pools, (reason,) = self.read(place)
            assert pools == []
            assert "not a regular file" in reason


class TestColours:
    def make(self, tmp_path, **modes):
        for split, mode in modes.items():
            for i, name in enumerate(("ant", "bee")):
                picture(tmp_path / split / name / "0.png", 60 * i, mode)

    @pytest.mark.parametrize(("train", "test"), [("RGB", "L"), ("L", "RGB"), ("P", "1")])
    def test_splits_are_made_alike_and_it_is_said(self, tmp_path, caplog, train, test):
        self.make(tmp_path, train=train, test=test)
        pools = {split: load(tmp_path, split=split) for split in ("train", "test")}
        assert [pool.inputs.shape for pool in pools.values()] == [(2, 3, 8, 8)] * 2
        grey = "test" if train != "L" else "train"
        assert [record.getMessage() for record in caplog.records] == [
            f"the pictures of {tmp_path.name} {grey} are grey; they are read as RGB, as other splits of this data are."
        ]
        made = pools[grey].inputs
        assert (made[:, :1] == made).all()

    def test_grey_stays_grey(self, tmp_path, caplog):
        self.make(tmp_path, train="L", test="LA")
        assert load(tmp_path).inputs.shape == load(tmp_path, split="test").inputs.shape == (2, 1, 8, 8)
        assert not caplog.records

    def test_the_cache_notices_other_splits(self, tmp_path):
        self.make(tmp_path, train="L", test="L")
        assert load(tmp_path).inputs.shape[1] == 1
        picture(tmp_path / "test/bee/0.png", 9)
        assert load(tmp_path).inputs.shape[1] == 3
        picture(tmp_path / "test/ape/0.png", 9)
        assert load(tmp_path).class_names == ("ant", "ape", "bee")
        shutil.rmtree(tmp_path / "test")
        assert load(tmp_path).class_names == ("ant", "bee")
        assert load(tmp_path).inputs.shape[1] == 1

    def test_parquet(self, tmp_path, caplog):
        import io

        import pyarrow as pa
        import pyarrow.parquet as pq

        for split, mode, labels in (("train", "L", [0, 1]), ("test", "RGB", [2, 10])):
            file = io.BytesIO()
            Image.new(mode, (8, 8)).save(file, "PNG")
            pq.write_table(pa.table({"image": [file.getvalue()] * 2, "label": labels}), tmp_path / f"{split}.parquet")
        train = load(tmp_path)
        assert (train.inputs.shape, train.num_classes, train.labels.tolist()) == ((2, 3, 8, 8), 11, [0, 1])
        assert load(tmp_path, split="test").labels.tolist() == [2, 10]
        assert "read as RGB" in caplog.text


def test_a_folder_of_texts_is_not_said_to_pass_over_its_tables(tmp_path, caplog):
    (tmp_path / "test.csv").write_text("text\nhello\ngood bye\n")
    student = SimpleNamespace(image_size=None, reads_text=True)
    ((names, pool),) = inputs_of([str(tmp_path)], DataSettings(), "test", student, pytest.fail)
    assert (names, pool.kind) == (["hello", "good bye"], "texts")
    assert caplog.text == ""
