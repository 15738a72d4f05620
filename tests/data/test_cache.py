import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from tuition.data import files, images, load, ondisk
from tuition.data.ondisk import OnDisk, scratch
from tuition.errors import UserError


@pytest.fixture
def source(tmp_path):
    """Three images in two classes."""
    for number, name in enumerate(["ant", "ant", "bee"]):
        (tmp_path / "source" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 10 * number, np.uint8)).save(tmp_path / "source" / name / f"{number}.png")
    return tmp_path / "source"


def levels(pool):
    return pool.inputs[:, 0, 0, 0].tolist()


def same(left, right):
    return (
        torch.equal(left.inputs, right.inputs)
        and torch.equal(left.labels, right.labels)
        and (left.class_names, left.name, left.augment) == (right.class_names, right.name, right.augment)
    )


def the_file(folder):
    (file,) = folder.iterdir()
    return file


def test_the_second_time_nothing_is_decoded(source, cache_folder, monkeypatch):
    first = load(source)
    monkeypatch.setattr(images, "decode_one", lambda *_: pytest.fail("an image was decoded"))
    assert same(load(source), first)
    the_file(cache_folder).unlink()
    with pytest.raises(pytest.fail.Exception, match="an image was decoded"):
        load(source)


@pytest.mark.parametrize("row", [0, 1, 2])
def test_a_file_rewritten_with_its_size_and_time_is_noticed(source, row):
    for image in source.rglob("*.png"):
        image.write_bytes(image.read_bytes().ljust(100, b"\0"))
    assert levels(load(source)) == [0, 10, 20]
    image = sorted(source.rglob("*.png"))[row]
    times, size = image.stat(), 100
    Image.fromarray(np.full((8, 8), 77, np.uint8)).save(image)
    image.write_bytes(image.read_bytes().ljust(size, b"\0"))
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (image.stat().st_size, image.stat().st_mtime_ns) == (size, times.st_mtime_ns)
    assert levels(load(source)) == [77 if i == row else level for i, level in enumerate([0, 10, 20])]


def test_content_is_sampled_where_times_say_nothing(tmp_path, monkeypatch):
    """As on a disk without times of change: of few files, 192 blocks each are compared."""
    file = tmp_path / "train.parquet"
    content = bytearray(os.urandom(300_000))
    file.write_bytes(content)
    known = os.stat_result((file.stat().st_mode, *[0] * 5, len(content), 0, 0, 0))
    monkeypatch.setattr(files, "regular", lambda path: known)
    before = files.state([file], tmp_path)
    for at in (0, 150_000, 299_999):
        file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert files.state([file], tmp_path) != before
    file.write_bytes(content)
    assert files.state([file], tmp_path) == before


def test_a_changed_source_takes_the_place_of_the_old(source, cache_folder):
    load(source)
    before = the_file(cache_folder)
    Image.fromarray(np.full((8, 8), 77, np.uint8)).save(source / "bee" / "2.png")
    assert levels(load(source)) == [0, 10, 77]
    assert the_file(cache_folder) == before
    (source / "ant" / "1.png").unlink()
    assert levels(load(source)) == [0, 77]
    (source / "ant" / "0.png").rename(source / "bee" / "0.png")
    assert load(source).labels.tolist() == [1, 1]


def test_options_and_folders_do_not_mix(source, cache_folder, tmp_path):
    assert load(source).inputs.shape[2] == 8
    assert load(source, size=16).inputs.shape[2] == 16
    assert load(source).inputs.shape[2] == 8
    other = tmp_path / "elsewhere" / "source"
    (other / "wasp").mkdir(parents=True)
    Image.fromarray(np.full((8, 8), 5, np.uint8)).save(other / "wasp" / "0.png")
    assert levels(load(other)) == [5]
    assert levels(load(source)) == [0, 10, 20]
    assert len(list(cache_folder.iterdir())) == 3


def test_a_damaged_file_is_rebuilt(source, cache_folder, caplog):
    expected = load(source)
    file = the_file(cache_folder)
    whole = file.read_bytes()
    body = 8 + int.from_bytes(whole[:8], "little")  # where safetensors' header ends
    damages = [(at, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]) for at in range(0, len(whole), 3)]
    damages += [(body, damage) for damage in (whole[:-1], b"", whole + b"\0", os.urandom(len(whole)))]
    for at, damage in damages:
        caplog.clear()
        file.write_bytes(damage)
        assert same(load(source), expected), at
        # A header whose damage lies in the state of the source reads as that of an older state.
        assert "is rebuilt" in caplog.text or at < body, at
        assert all("\n" not in record.getMessage() for record in caplog.records)
    caplog.clear()
    load(source)
    assert not caplog.records


def test_a_cache_that_cannot_be_written_costs_a_warning(source, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TUITION_CACHE", str(tmp_path / "file" / "cache"))
    assert levels(load(source)) == [0, 10, 20]
    assert "cannot cache" in caplog.text
    assert "set TUITION_CACHE" in caplog.text


def test_a_full_disk_leaves_nothing_behind(source, cache_folder, caplog):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # files cannot grow beyond 100 bytes
    try:
        pool = load(source)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert levels(pool) == [0, 10, 20]
    assert "cannot cache" in caplog.text
    assert not list(cache_folder.iterdir())


def test_where_it_lies(source, tmp_path, monkeypatch):
    monkeypatch.delenv("TUITION_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    load(source)
    assert len(list((tmp_path / "xdg" / "tuition").iterdir())) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    load(source)
    assert len(list((tmp_path / "home" / ".cache" / "tuition").iterdir())) == 1


def test_it_is_mapped_and_what_is_done_to_a_pool_stays_with_it(source, cache_folder):
    load(source)
    pool = load(source)
    if Path("/proc/self/maps").exists():
        assert str(the_file(cache_folder)) in Path("/proc/self/maps").read_text()
    pool.inputs.zero_()
    assert levels(load(source)) == [0, 10, 20]


@pytest.mark.slow
def test_processes_that_load_at_once_all_get_the_whole(source, cache_folder):
    program = (
        "import sys, torch, tuition.data as data\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for _ in range(30):\n"
        "    for file in data.ondisk.cache_folder().glob('*'): file.unlink(missing_ok=True)\n"
        "    assert data.load(sys.argv[1]).inputs[:, 0, 0, 0].tolist() == [0, 10, 20]\n"
    )
    command = [sys.executable, "-c", program, str(source)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert levels(load(source)) == [0, 10, 20]


def test_what_does_not_fit_in_memory_stays_in_the_file(source, cache_folder):
    inside = load(source)
    assert safe_open(the_file(cache_folder), "pt").get_slice("inputs").get_shape() == [3, 1, 8, 8]
    the_file(cache_folder).unlink()
    with mock.patch.object(ondisk, "IN_MEMORY", 3 * 64 - 1):
        for _ in range(2):  # as decoded, and from the cache
            outside = load(source)
            assert isinstance(outside.inputs, OnDisk)
            assert same(replace(outside, inputs=outside.asked()), inside)
        assert same(outside[:2], inside[:2])
        the_file(cache_folder).unlink()
        load(source)  # another process makes the same file again: reading goes on
        assert same(replace(outside, inputs=outside.asked()), inside)
        Image.fromarray(np.full((8, 8), 77, np.uint8)).save(source / "bee" / "2.png")
        load(source)
        with pytest.raises(UserError, match="has changed while it was in use"):
            outside.asked()
    assert levels(load(source)) == [0, 10, 77]


def test_scratch_is_memory_or_a_file_that_nobody_sees(cache_folder, monkeypatch):
    with mock.patch.object(ondisk, "IN_MEMORY", 100):
        for count in (10, 11, 5000):
            found = scratch((count, 5), torch.bfloat16)
            assert (found.shape, found.dtype) == ((count, 5), torch.bfloat16)
            found[:] = torch.arange(count)[:, None] % 100
            assert found.sum(dtype=torch.float64) == 5 * sum(row % 100 for row in range(count))
        assert list(cache_folder.iterdir()) == []
        with pytest.raises(UserError, match=r"do not fit in memory, nor in .*; set TUITION_CACHE"):
            scratch((2**50,), torch.uint8)


def test_a_user_without_a_home_has_a_cache_among_temporary_files(tmp_path, monkeypatch, caplog):
    """As in a container: no HOME, and a number that is not in /etc/passwd."""
    import pwd

    def nobody(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("HOME", "XDG_CACHE_HOME", "TUITION_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mine = tmp_path / f"tuition-{os.getuid()}"
    assert ondisk.cache_folder() == mine
    assert mine.stat().st_mode & 0o777 == 0o700
    assert caplog.text.count("this user has no home folder") == 1
    mine.chmod(0o777)  # anybody may have put something there
    other = tmp_path / f"tuition-{os.getuid()}-{os.getpid()}"
    assert ondisk.cache_folder() == ondisk.cache_folder() == other
    assert other.stat().st_mode & 0o777 == 0o700
    other.chmod(0o777)
    with pytest.raises(UserError, match="no home folder to cache data in; set TUITION_CACHE"):
        ondisk.cache_folder()
