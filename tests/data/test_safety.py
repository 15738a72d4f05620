"""A stranger's data folder: paths that lead out of it, what is not a file, and numbers that are too large."""

import io
import json
import os
import socket
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from tuition import UserError
from tuition.cli.main import app
from tuition.data import from_tensors, load, ondisk
from tuition.data.sources import read_images


def picture(path, level=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), level).save(path)


@pytest.fixture
def folder(tmp_path):
    picture(tmp_path / "outside.png")
    picture(tmp_path / "d/train/ant/0.png", 1)
    picture(tmp_path / "d/train/bee/0.png", 2)
    return tmp_path / "d"


class TestLinks:
    @pytest.mark.parametrize(
        ("link", "target"),
        [
            ("train/ant/x.png", "../../../outside.png"),
            ("train/ant/x.png", "/etc/passwd"),
            ("train/ant/x", "/etc"),
            ("train/cat", "/etc"),
            ("test", "/etc"),
            ("train/ant/x.png", "/dev/zero"),
        ],
    )
    def test_that_lead_out(self, folder, link, target):
        (folder / link).symlink_to(target)
        with pytest.raises(UserError, match=rf"{link} leads out of the data folder .*; put what it names inside"):
            load(folder)

    def test_of_other_kinds_of_data(self, tmp_path):
        (tmp_path / "secret.txt").write_text("a password")
        np.save(tmp_path / "secret.npy", np.ones((2, 2)))
        places = {kind: tmp_path / kind for kind in ("texts", "arrays", "unpacked", "parquet")}
        for place in places.values():
            place.mkdir()
        (places["texts"] / "train.txt").symlink_to("../secret.txt")
        (places["arrays"] / "train.npz").symlink_to("../secret.npy")
        (places["unpacked"] / "train").mkdir()
        (places["unpacked"] / "train/inputs.npy").symlink_to("../../secret.npy")
        (places["parquet"] / "train.parquet").symlink_to("../secret.txt")
        for place in places.values():
            with pytest.raises(UserError, match="leads out of the data folder"):
                load(place)

    def test_inside_are_followed_once(self, folder, caplog):
        (folder / "train/ant/1.png").symlink_to("0.png")
        (folder / "train/ant/more").symlink_to("../bee")
        (folder / "train/ant/up").symlink_to("..")
        (folder / "train/ant/itself").symlink_to(".")
        (folder / "train/bee/top").symlink_to("../..")
        pool = load(folder)
        assert pool.inputs[:, 0, 0, 0].tolist() == [1, 1, 2, 2]
        assert pool.labels.tolist() == [0, 0, 0, 1]
        assert "4 entries are passed over" in caplog.text
        caplog.clear()
        load(folder)
        assert not caplog.records  # once is enough
        (folder / "train/bee/more").symlink_to("..")
        load(folder)
        assert "6 entries are passed over" in caplog.text

    def test_chains_end(self, tmp_path):
        """Ten folders, each with two links to the next: 1,024 ways, and one picture."""
        for i in range(10):
            (tmp_path / "d" / str(i)).mkdir(parents=True)
            for name in ("a", "b") if i < 9 else ():
                (tmp_path / "d" / str(i) / name).symlink_to(f"../{i + 1}")
        picture(tmp_path / "d/9/0.png")
        (tmp_path / "d/0/self").symlink_to("self")
        with pytest.raises(UserError, match=r"cannot read|leads out"):
            load(tmp_path / "d")
        (tmp_path / "d/0/self").unlink()
        assert load(tmp_path / "d").labels.tolist() == list(range(10))

    def test_a_folder_that_is_a_link_itself(self, folder, tmp_path):
        (tmp_path / "link").symlink_to("d")
        assert len(load(tmp_path / "link")) == 2

    def test_a_snapshot_of_the_hub(self, tmp_path):
        """In the hub's cache the files of a snapshot are links to blobs beside it."""
        blobs, snapshot = tmp_path / "hub/blobs", tmp_path / "hub/snapshots/1f"
        blobs.mkdir(parents=True)
        snapshot.mkdir(parents=True)
        pq.write_table(pa.table({"text": ["a"]}), blobs / "77")
        (snapshot / "train.parquet").symlink_to("../../blobs/77")
        assert load(snapshot).inputs == ["a"]


class TestRowsOfParquet:
    def write(self, folder, *rows):
        features = {"image": {"_type": "Image"}}
        table = pa.table({"image": list(rows), "label": [0] * len(rows)})
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        folder.mkdir(exist_ok=True)
        pq.write_table(table, folder / "train.parquet")

    @pytest.mark.parametrize("path", ["/etc/passwd", "../outside.png", "{tmp}/outside.png", "link.png", "/dev/zero"])
    def test_that_name_files_outside(self, tmp_path, path):
        picture(tmp_path / "outside.png")
        self.write(tmp_path / "d", {"bytes": None, "path": path.format(tmp=tmp_path)})
        (tmp_path / "d/link.png").symlink_to("../outside.png")
        with pytest.raises(UserError, match=r"image in row 0 of .* is a path that leads out of the data folder"):
            load(tmp_path / "d")

    def test_that_name_files_inside(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)  # a relative path begins at the file, not where the user stands
        picture(tmp_path / "d/images/0.png", 42)
        encoded = (tmp_path / "d/images/0.png").read_bytes()
        self.write(
            tmp_path / "d",
            {"bytes": None, "path": "images/0.png"},
            {"bytes": None, "path": f"{tmp_path}/d/images/0.png"},
            {"bytes": encoded, "path": "/etc/passwd"},
        )
        assert load(tmp_path / "d").inputs[:, 0, 0, 0].tolist() == [42] * 3


class TestOtherThanFiles:
    def pipe(self, path):
        os.mkfifo(path)

    def unix_socket(self, path):
        os.chdir(path.parent)
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)

    @pytest.mark.parametrize("make", ["pipe", "unix_socket"])
    @pytest.mark.parametrize(
        "name",
        ["train/ant/x.png", "texts/train.csv", "arrays/train.npz", "unpacked/train/inputs.npy", "p/train.parquet"],
    )
    def test_are_refused(self, folder, name, make, monkeypatch):
        monkeypatch.chdir(folder)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        getattr(self, make)(folder / name)
        place = folder if name.startswith("train") else folder / name.split("/")[0]
        with pytest.raises(UserError, match=r"is not a regular file but a (pipe|socket); remove it"):
            load(place)

    def test_one_picture(self, tmp_path):
        os.mkfifo(tmp_path / "x.png")
        with pytest.raises(UserError, match=r"cannot read the image .*x\.png \(it is not a regular file\)"):
            read_images([tmp_path / "x.png"])

    def test_the_command_line(self, folder):
        os.mkfifo(folder / "train/ant/x.png")
        done = CliRunner().invoke(app, ["data", str(folder)])
        assert isinstance(done.exception, UserError)


class TestNumbers:
    @pytest.mark.parametrize("label", [10**6, 2**32 - 1, 10**12, 2**63 - 1])
    def test_labels_are_bounded(self, tmp_path, label):
        with pytest.raises(UserError, match=r"run from 0 to .*, but class indices run from 0 below 1,000,000"):
            from_tensors(["a", "b"], np.array([0, label]))
        (tmp_path / "train.csv").write_text(f"text,label\na,0\nb,{label}\n")
        with pytest.raises(UserError, match=rf"the label {label} in row 1 of .*train\.csv is not a class index"):
            load(tmp_path)
        other = tmp_path / "p"
        other.mkdir()
        for column, values in (("text", ["a", "b"]), ("image", [encoded(), encoded()])):
            pq.write_table(pa.table({column: values, "label": [0, label]}), other / "train.parquet")
            with pytest.raises(UserError, match=rf"the label {label} in row 1 of .* is not a class index"):
                load(other)

    def test_labels_beyond_any_integer(self, tmp_path):
        (tmp_path / "train.jsonl").write_text('{"text": "a", "label": 1' + "0" * 400 + "}\n")
        with pytest.raises(UserError, match=r"in row 0 of .* is not a class index"):
            load(tmp_path)
        with pytest.raises(UserError, match="labels are n class indices"):
            from_tensors(["a"], [10**30])
        np.savez(tmp_path / "train.npz", inputs=np.ones((1, 2)), labels=np.array([2**64 - 1], np.uint64))
        (tmp_path / "train.jsonl").unlink()
        with pytest.raises(UserError, match="class indices run from 0"):
            load(tmp_path)

    def test_images_that_unpack_to_too_much(self, tmp_path):
        """A PNG file whose header announces 60,000 x 60,000 pixels."""
        picture(tmp_path / "ant/0.png")
        content = bytearray((tmp_path / "ant/0.png").read_bytes())
        content[16:24] = (60_000).to_bytes(4, "big") * 2
        import zlib

        content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
        (tmp_path / "ant/0.png").write_bytes(content)
        with pytest.raises(UserError, match=r"cannot read the image .*0\.png .*exceeds limit"):
            load(tmp_path)

    @pytest.mark.parametrize("shape", [(2**40, 4), (10**9, 3, 8, 8), (2**62, 2**62)])
    def test_arrays_announce_what_they_hold(self, tmp_path, shape):
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
        header = header.ljust(117) + b"\n"
        content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64)
        with zipfile.ZipFile(tmp_path / "train.npz", "w") as archive:
            archive.writestr("inputs.npy", content)
        with pytest.raises(UserError, match=r"announces .* bytes, but holds"):
            load(tmp_path)
        (tmp_path / "train.npz").unlink()
        (tmp_path / "train").mkdir()
        (tmp_path / "train/inputs.npy").write_bytes(content)
        with pytest.raises(UserError, match="cannot read"):
            load(tmp_path)

    def test_a_cache_that_announces_too_much(self, tmp_path, cache_folder, caplog):
        picture(tmp_path / "d/ant/0.png")
        load(tmp_path / "d")
        (file,) = cache_folder.iterdir()
        file.write_bytes((2**60).to_bytes(8, "little") + file.read_bytes()[8:])
        assert len(load(tmp_path / "d")) == 1
        assert "is damaged" in caplog.text
        with pytest.raises(UserError, match="do not fit in memory"):
            ondisk.scratch((2**62, 2**62), from_tensors(["a"], [0]).labels.dtype)


def encoded():
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "PNG")
    return file.getvalue()
