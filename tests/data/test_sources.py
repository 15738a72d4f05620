import hashlib
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from tuition.data import Crop, load
from tuition.data.sources import read_images
from tuition.errors import UserError


def picture(seed=0, width=10, height=10, mode="RGB"):
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "LA": (2,)}[mode]
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8), mode
    )


def encode(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write_parquet(path, contents, labels=None, *, image="img", label="label", names=None, flat=False):
    """A file as the hub has them: a struct of bytes and path, features in the schema's metadata."""
    columns = {image: contents if flat else [{"bytes": content, "path": None} for content in contents]}
    features = {image: {"_type": "Image"}}
    if labels is not None:
        columns[label] = labels
        features[label] = {"_type": "ClassLabel", "names": names} if names else {"_type": "Value", "dtype": "int64"}
    table = pa.table(columns)
    if not flat:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def write_images(folder, **classes):
    """`folder/<class>/<number>.png` for each image of each class."""
    for name, images in classes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(images):
            image.save(folder / name / f"{number}.png")


def pixels(pool):
    return [image.permute(1, 2, 0).squeeze(-1).numpy() for image in pool.inputs]


class TestDigits:
    def test_the_split_is_fixed_stratified_and_complete(self):
        train, test = load("digits"), load("digits", split="test")
        assert (len(train), len(test)) == (1297, 500)
        assert train.inputs.shape[1:] == (1, 8, 8)
        source = load_digits()
        everything = torch.cat([train.inputs, test.inputs]).flatten(1).numpy()
        expected = np.floor(source.data * 255 / 16 + 0.5).astype(np.uint8)
        order, found = np.lexsort(expected.T), np.lexsort(everything.T)
        np.testing.assert_array_equal(everything[found], expected[order])
        np.testing.assert_array_equal(torch.cat([train.labels, test.labels]).numpy()[found], source.target[order])
        shares = test.labels.bincount() / 500 - torch.from_numpy(np.bincount(source.target)) / 1797
        assert shares.abs().max() < 1 / 500
        assert not set(train.digests) & set(test.digests)
        # Published figures hold for this split alone.
        assert hashlib.sha256(b"".join(test.digests)).hexdigest()[:16] == "971b3d55070b6a47"

    def test_what_it_knows_of_itself(self):
        train = load("digits")
        assert train.class_names == tuple("0123456789")
        assert train.augment == Crop(padding=1, flip=False)  # a mirrored 2 is not a 2
        assert train.crop is None
        assert train.name == "digits train"

    def test_a_validation_split_is_missing(self):
        with pytest.raises(UserError, match="digits has no split 'validation'; choose one of: train, test"):
            load("digits", split="validation")


class TestParquet:
    def test_shards_in_order_with_names_of_classes(self, tmp_path):
        images = [picture(seed) for seed in range(5)]
        contents = [
            encode(image, kind) for image, kind in zip(images, ["PNG", "WEBP", "BMP", "PPM", "TIFF"], strict=True)
        ]
        contents[1] = encode(images[1], "WEBP", lossless=True)
        names = ["ant", "bee", "cat"]
        write_parquet(tmp_path / "set/train-00000-of-00002.parquet", contents[:3], [0, 2, 1], names=names)
        write_parquet(tmp_path / "set/train-00001-of-00002.parquet", contents[3:], [1, 1], names=names)
        write_parquet(tmp_path / "set/test.parquet", contents[:1], [2], names=names)
        pool = load(tmp_path / "set")
        assert pool.labels.tolist() == [0, 2, 1, 1, 1]
        assert pool.class_names == ("ant", "bee", "cat")
        for found, image in zip(pixels(pool), images, strict=True):
            np.testing.assert_array_equal(found, np.asarray(image))
        assert load(tmp_path / "set", split="test").labels.tolist() == [2]
        assert pool.name == "set train"
        assert pool.augment == Crop(padding=1)

    @pytest.mark.parametrize("place", [".", "data", "plain_text"])
    def test_where_the_hub_puts_files(self, tmp_path, place):
        write_parquet(tmp_path / place / "validation-00000-of-00001-0123456789abcdef.parquet", [encode(picture())], [0])
        assert len(load(tmp_path, split="validation")) == 1

    def test_configurations(self, tmp_path):
        for config, count in (("large", 3), ("small", 1)):
            write_parquet(tmp_path / config / "train.parquet", [encode(picture())] * count, [0] * count)
        assert len(load(tmp_path, config="large")) == 3
        assert len(load(tmp_path / "small")) == 1
        with pytest.raises(UserError, match="several configurations; name one of: large, small"):
            load(tmp_path)
        with pytest.raises(UserError, match="the configuration 'medium' was not found"):
            load(tmp_path, config="medium")

    def test_columns(self, tmp_path):
        table = pa.table({
            "picture": [encode(picture(1))], "image": [encode(picture(2))],
            "fine_label": [3], "label": [2], "coarse": [1], "text": ["a"],
        })  # fmt: skip
        pq.write_table(table, tmp_path / "train.parquet")
        assert load(tmp_path).labels.tolist() == [3]
        np.testing.assert_array_equal(pixels(load(tmp_path))[0], np.asarray(picture(2)))
        pool = load(tmp_path, image_column="picture", label_column="coarse")
        assert pool.labels.tolist() == [1]
        np.testing.assert_array_equal(pixels(pool)[0], np.asarray(picture(1)))
        assert load(tmp_path, label_column=None).labels is None
        with pytest.raises(
            UserError, match="no column 'grade'; it has picture, image, fine_label, label, coarse, text"
        ):
            load(tmp_path, label_column="grade")
        assert load(tmp_path, label_column="text").class_names == ("a",)
        with pytest.raises(UserError, match="holds int64, not images"):
            load(tmp_path, image_column="label")

    def test_missing_columns(self, tmp_path):
        write_parquet(tmp_path / "train.parquet", [encode(picture())], [0], image="photo", label="kind")
        with pytest.raises(UserError, match=r"no label column .* \(photo, kind\); pass label_column, or None"):
            load(tmp_path)
        assert load(tmp_path, label_column="kind").labels.tolist() == [0]  # the metadata says that photo is an image
        write_parquet(tmp_path / "test.parquet", [encode(picture())], [0], image="photo", flat=True)
        with pytest.raises(UserError, match="nor an image column"):
            load(tmp_path, split="test")

    def test_withheld_labels(self, tmp_path):
        write_parquet(tmp_path / "test.parquet", [encode(picture())] * 2, [-1, -1], names=["a", "b"])
        pool = load(tmp_path, split="test")
        assert pool.labels is None
        assert pool.num_classes == 2

    @pytest.mark.parametrize(
        ("labels", "says"),
        [
            ([0, 2], "labels of set train run from 0 to 2, but class indices run from 0 to 1"),
            ([0, -1], "run from -1 to 0"),
            ([0, None], "1 rows of .* have no label"),
        ],
    )
    def test_labels_that_cannot_be(self, tmp_path, labels, says):
        write_parquet(tmp_path / "set/train.parquet", [encode(picture())] * 2, labels, names=["a", "b"])
        with pytest.raises(UserError, match=says):
            load(tmp_path / "set")

    def test_missing_shards(self, tmp_path):
        for shard in (0, 2):
            write_parquet(tmp_path / f"train-0000{shard}-of-00003.parquet", [encode(picture())], [0])
        with pytest.raises(UserError, match="holds 2 of the 3 files of its train split"):
            load(tmp_path)

    def test_damaged_file(self, tmp_path):
        write_parquet(tmp_path / "train.parquet", [encode(picture())] * 50, list(range(50)))
        whole = (tmp_path / "train.parquet").read_bytes()
        (tmp_path / "train.parquet").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError, match="cannot read the parquet files"):
            load(tmp_path)
        (tmp_path / "train.parquet").write_bytes(b"")
        with pytest.raises(UserError, match="cannot read the parquet files"):
            load(tmp_path)

    def test_damaged_image_is_named_by_its_row(self, tmp_path):
        contents = [encode(picture(seed, 40, 40), "JPEG") for seed in range(1500)]
        contents[1300] = contents[1300][:-200]
        write_parquet(tmp_path / "train.parquet", contents, [0] * 1500)
        with pytest.raises(UserError, match=r"cannot read the image in row 1300 .*truncated"):
            load(tmp_path)
        contents[1300] = None
        write_parquet(tmp_path / "train.parquet", contents, [0] * 1500)
        with pytest.raises(UserError, match=r"the image in row 1300 .* is missing"):
            load(tmp_path)

    def test_no_rows(self, tmp_path):
        write_parquet(tmp_path / "train.parquet", pa.array([], pa.binary()), pa.array([], pa.int64()), flat=True)
        with pytest.raises(UserError, match="holds no images in its train split"):
            load(tmp_path)

    def test_stanford_cars_are_known_by_their_classes(self, tmp_path):
        names = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]
        write_parquet(tmp_path / "train.parquet", [encode(picture(1, 80, 50))], [1], names=names)
        pool = load(tmp_path, size=64)
        assert pool.crop == pool.augment == Crop(padding=0, size=56)
        assert pool.asked().shape == (1, 3, 56, 56)
        assert pool.inputs.shape == (1, 3, 64, 64)
        assert load(tmp_path, size=32).augment == Crop(padding=4)


class TestImageFolders:
    def test_classes_in_order_of_name_whatever_splits_they_are_in(self, tmp_path):
        a, b, c, d = (picture(seed) for seed in range(4))
        write_images(tmp_path / "train", wasp=[a], ant=[b, c])
        write_images(tmp_path / "val", moth=[d])
        train, validation = load(tmp_path), load(tmp_path, split="validation")
        assert train.class_names == validation.class_names == ("ant", "moth", "wasp")
        assert train.labels.tolist() == [0, 0, 2]
        assert validation.labels.tolist() == [1]
        for found, image in zip(pixels(train), [b, c, a], strict=True):
            np.testing.assert_array_equal(found, np.asarray(image))
        with pytest.raises(UserError, match="no split 'test'; choose one of: train, val"):
            load(tmp_path, split="test")

    def test_without_folders_for_splits(self, tmp_path):
        write_images(tmp_path, b=[picture(0)], a=[picture(1)])
        assert load(tmp_path).class_names == ("a", "b")
        with pytest.raises(UserError, match="no split 'test'; choose one of: train"):
            load(tmp_path, split="test")

    def test_without_folders_for_classes(self, tmp_path):
        write_images(tmp_path, train=[picture(0), picture(1)])
        pool = load(tmp_path)
        assert len(pool) == 2
        assert pool.labels is None
        assert pool.num_classes is None

    def test_subfolders_hidden_files_and_other_files(self, tmp_path):
        write_images(tmp_path / "train" / "cat", deep=[picture(0)])
        write_images(tmp_path / "train", cat=[picture(1)], dog=[picture(2)])
        (tmp_path / "train" / "dog" / "notes.txt").write_text("not an image")
        write_images(tmp_path / "train", **{".thumbnails": [picture(3)]})
        pool = load(tmp_path)
        assert pool.class_names == ("cat", "dog")
        assert pool.labels.tolist() == [0, 0, 1]

    def test_no_images(self, tmp_path):
        (tmp_path / "train" / "cat").mkdir(parents=True)
        for place in (tmp_path, tmp_path / "train" / "cat"):
            with pytest.raises(UserError, match="holds no images"):
                load(place)

    def test_damaged_image_is_named_by_its_file(self, tmp_path):
        write_images(tmp_path, cat=[picture(0), picture(1)])
        whole = (tmp_path / "cat" / "1.png").read_bytes()
        for damage in (whole[:-100], b"", b"no image at all"):
            (tmp_path / "cat" / "1.png").write_bytes(damage)
            with pytest.raises(UserError, match=r"cannot read the image .*cat/1\.png \(") as caught:
                load(tmp_path)
            assert "\n" not in str(caught.value)

    def test_broken_link(self, tmp_path):
        write_images(tmp_path, cat=[picture(0)])
        (tmp_path / "cat" / "x.png").symlink_to(tmp_path / "gone.png")
        with pytest.raises(UserError, match=r"cannot read .*x\.png \(No such file"):
            load(tmp_path)


class TestDecoding:
    def one(self, tmp_path, *images, **options):
        write_images(tmp_path, a=images)
        return load(tmp_path, **options)

    @pytest.mark.parametrize("side", [8, 9, 33])
    @pytest.mark.parametrize("mode", ["L", "RGB"])
    def test_sizes_and_modes(self, tmp_path, side, mode):
        image = picture(0, side, side + 3, mode)
        pool = self.one(tmp_path, image)
        assert pool.inputs.shape == (1, {"L": 1, "RGB": 3}[mode], side + 3, side)
        np.testing.assert_array_equal(pixels(pool)[0], np.asarray(image))
        assert pool.augment == Crop(padding=side // 8, flip=mode == "RGB")

    def test_modes_become_grey_or_rgb(self, tmp_path):
        colour, grey = picture(0, mode="RGBA"), picture(1, mode="LA")
        palette = picture(2).quantize(16)
        transparent = palette.copy()
        transparent.info["transparency"] = bytes(range(16))
        pool = self.one(tmp_path, colour, palette, transparent, grey)
        np.testing.assert_array_equal(pixels(pool)[0], np.asarray(colour)[:, :, :3])
        expected = np.array(palette.getpalette()).reshape(-1, 3)[np.asarray(palette)]
        np.testing.assert_array_equal(pixels(pool)[1], expected)
        np.testing.assert_array_equal(pixels(pool)[2], expected)
        np.testing.assert_array_equal(pixels(pool)[3], np.asarray(grey)[:, :, :1].repeat(3, axis=2))

    def test_grey_before_colour(self, tmp_path):
        """That a set is of colour may show late: what was read as grey until then must hold."""
        images = [picture(seed, mode="RGB" if seed == 70 else "L") for seed in range(100)]
        write_parquet(tmp_path / "train.parquet", [encode(image) for image in images], [0] * 100)
        pool = load(tmp_path)
        for found, image in zip(pixels(pool), images, strict=True):
            np.testing.assert_array_equal(found, np.asarray(image.convert("RGB")))

    def test_black_and_white(self, tmp_path):
        image = picture(0, mode="L").point(lambda level: 255 * (level > 127), "1")
        pool = self.one(tmp_path, image)
        np.testing.assert_array_equal(pixels(pool)[0], np.asarray(image) * np.uint8(255))

    def test_sixteen_bits_are_refused(self, tmp_path):
        deep = Image.fromarray(np.full((10, 10), 40000, np.uint16))
        with pytest.raises(UserError, match="more than 8 bits"):
            self.one(tmp_path, deep)

    def test_turned_photographs_stand_upright(self, tmp_path):
        image = picture(0, 16, 12)
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by a quarter, clockwise
        (tmp_path / "a").mkdir()
        image.save(tmp_path / "a" / "x.png", exif=exif)
        np.testing.assert_array_equal(pixels(load(tmp_path))[0], np.rot90(np.asarray(image), -1))

    def test_differing_sizes_need_a_size(self, tmp_path):
        images = picture(0, 20, 10), picture(1, 20, 12)
        with pytest.raises(UserError, match=r"differ in size \(10x20, but .*1\.png is 12x20\); pass a size"):
            self.one(tmp_path, *images)
        pool = load(tmp_path, size=8)
        assert pool.inputs.shape == (2, 3, 8, 8)

    def test_size_squashes_the_whole_picture(self, tmp_path):
        """Four quarters of one colour each, twice as wide as high: their means stay, and all four corners are kept."""
        quarters = np.array([[0, 100], [200, 250]], np.uint8).repeat(32, axis=0).repeat(64, axis=1)
        pool = self.one(tmp_path, Image.fromarray(quarters), size=16)
        found = pool.inputs[0, 0]
        assert found.shape == (16, 16)
        assert [int(found[i, j]) for i in (0, 15) for j in (0, 15)] == [0, 100, 200, 250]
        assert abs(found.float().mean() - quarters.mean()) < 1

    def test_large_jpeg_is_read_at_a_fraction_without_visible_change(self, tmp_path):
        rows, columns = np.mgrid[:800, :1200]
        smooth = np.stack([rows / 4, columns / 6, 100 + 50 * np.sin(rows / 60)], axis=2).astype(np.uint8)
        write_parquet(tmp_path / "train.parquet", [encode(Image.fromarray(smooth), "JPEG", quality=95)], [0])
        expected = np.asarray(Image.fromarray(smooth).resize((32, 32), Image.Resampling.BOX)).astype(int)
        assert np.abs(pixels(load(tmp_path, size=32))[0].astype(int) - expected).max() <= 4

    @pytest.mark.parametrize("size", [7, 0, -3])
    def test_size_too_small(self, tmp_path, size):
        with pytest.raises(UserError, match="too small"):
            load(tmp_path, size=size)

    def test_images_too_small(self, tmp_path):
        with pytest.raises(UserError, match="at least 8 pixels high and wide, not 8x7"):
            self.one(tmp_path, picture(0, 7, 8))


def test_a_size_that_would_be_ignored_is_refused(tmp_path):
    (tmp_path / "train.txt").write_text("one\ntwo\n")
    with pytest.raises(UserError, match="digits train holds decoded images of 8 x 8, which are not resized"):
        load("digits", size=16)
    with pytest.raises(UserError, match="holds texts, which are not resized; leave out the size"):
        load(tmp_path, size=16)
    assert load("digits", size=8).shape == (1, 8, 8)


def test_image_files_by_name(tmp_path):
    write_images(tmp_path, a=[picture(0), picture(1)])
    pool = read_images([tmp_path / "a" / "1.png", str(tmp_path / "a" / "0.png")])
    np.testing.assert_array_equal(pixels(pool)[0], np.asarray(picture(1)))
    assert pool.labels is None
    assert read_images([tmp_path / "a" / "0.png"], size=20).inputs.shape == (1, 3, 20, 20)
    with pytest.raises(UserError, match=r"cannot read the image .*gone\.png"):
        read_images([tmp_path / "gone.png"])
    with pytest.raises(UserError, match="no inputs"):
        read_images([])


class TestArrays:
    def test_images_and_vectors(self, tmp_path):
        images = np.random.default_rng(0).integers(0, 256, (3, 3, 16, 16), dtype=np.uint8)
        np.savez(tmp_path / "train.npz", inputs=images, labels=np.array([0, 1, 0]), class_names=np.array(["a", "b"]))
        np.savez(tmp_path / "test.npz", inputs=np.ones((2, 5), np.float32))
        train, test = load(tmp_path), load(tmp_path, split="test")
        np.testing.assert_array_equal(train.inputs.numpy(), images)
        assert train.class_names == ("a", "b")
        assert train.augment == Crop(padding=2)
        assert test.labels is None
        assert test.augment is None

    def test_what_cannot_be_read(self, tmp_path):
        (tmp_path / "train.npz").write_bytes(b"PK damaged")
        with pytest.raises(UserError, match="cannot read"):
            load(tmp_path)
        np.savez(tmp_path / "train.npz", x=np.ones(3))
        with pytest.raises(UserError, match="holds x, but no array named inputs"):
            load(tmp_path)
        np.savez(tmp_path / "train.npz", inputs=np.array([{"a": 1}], dtype=object))
        with pytest.raises(UserError, match="cannot read"):
            load(tmp_path)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("cifar10O", r"the data 'cifar10O' were not found \(did you mean cifar100\?\); give"),
        ("nothing of the kind", "the data 'nothing of the kind' were not found; give digits, cifar100"),
        ("./gone/set", "the data './gone/set' were not found"),
    ],
)
def test_unknown_names(name, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=says):
        load(name)


def test_a_folder_here_comes_before_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("cifar100", "owner/name"):
        write_parquet(tmp_path / name / "train.parquet", [encode(picture())], [0])
        assert len(load(name)) == 1


def test_a_file(tmp_path):
    write_parquet(tmp_path / "some.parquet", [encode(picture())], [0])
    assert (len(load(tmp_path / "some.parquet")), load(tmp_path / "some.parquet").name) == (1, "some.parquet")
    (tmp_path / "notes.md").write_text("about this")
    with pytest.raises(UserError, match=r"notes\.md is not a table"):
        load(tmp_path / "notes.md")
