"""A pool on disk equals the same pool in memory, whatever is done with it."""

import os
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tuition import ResponseStore, UserError, data, models, teachers
from tuition.data import Crop, ondisk
from tuition.data.ondisk import OnDisk

ROWS = 40
rows = st.lists(st.integers(-ROWS, ROWS - 1), max_size=60)
seeds = st.integers(0, 1000)


def arrays(dtype=np.uint8, shape=(3, 9, 8)):
    generator = np.random.default_rng(0)
    inputs = generator.integers(0, 256, (ROWS, *shape)).astype(dtype)
    inputs[7] = inputs[30]  # one call, two rows
    return {"inputs": inputs, "labels": generator.integers(0, 3, ROWS), "class_names": np.array(["a", "b", "c"])}


def write(folder, **parts):
    folder.mkdir(parents=True)
    for name, array in parts.items():
        np.save(folder / f"{name}.npy", array)


def nothing_fits():
    return mock.patch.object(ondisk, "IN_MEMORY", -1)


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arrays")
    write(folder / "train", **arrays())
    inside = data.load(folder)
    with nothing_fits():
        yield inside, data.load(folder)


def same(inside, outside):
    assert isinstance(outside.inputs, OnDisk)
    assert len(inside) == len(outside)
    assert torch.equal(inside.inputs, outside.inputs.read())
    assert inside.inputs.shape == outside.inputs.shape
    assert inside.inputs.nbytes == outside.inputs.nbytes
    assert torch.equal(inside.labels, outside.labels)
    assert torch.equal(inside.asked(), outside.asked())
    assert inside.digests == outside.digests
    assert repr(inside) == repr(outside).replace(", on disk", "")


def test_as_loaded(pools):
    same(*pools)
    inside, _ = pools
    assert torch.equal(inside.inputs, torch.from_numpy(arrays()["inputs"]))
    assert inside.augment == Crop(padding=1)
    assert inside.class_names == ("a", "b", "c")


@given(rows, rows)
def test_rows_and_rows_of_them(pools, first, second):
    second = [row % len(first) for row in second] if first else []
    same(*(pool[first] for pool in pools))
    same(*(pool[first][second] for pool in pools))


@given(st.slices(ROWS), st.lists(st.booleans(), min_size=ROWS, max_size=ROWS))
def test_slices_and_masks(pools, part, mask):
    same(*(pool[part] for pool in pools))
    same(*(pool[np.array(mask)] for pool in pools))


@given(seeds, st.integers(1, ROWS - 1), st.booleans())
def test_draws_and_views(pools, seed, count, stratified):
    same(*(pool.sample(count, seed=seed, stratified=stratified) for pool in pools))
    for parts in zip(*(pool.split(count, seed=seed, stratified=stratified) for pool in pools), strict=True):
        same(*parts)
    for crop in (Crop(padding=2), Crop(padding=0, size=8)):
        same(*(pool.view(crop, seed=seed)[: count + 1] for pool in pools))
        same(*(pool.view(crop)[:count] for pool in pools))
        inside, outside = (pool.view(crop, seed=seed).asked_views(Crop(size=crop.size)) for pool in pools)
        assert torch.equal(inside, outside)


def test_selection_and_answers(pools, tmp_path):
    features = torch.randn(ROWS, 5, generator=torch.Generator().manual_seed(0))
    for method in ("random", "stratified", "k-centre", "medoids"):
        inside, outside = (data.select(pool, 9, method=method, features=features, seed=1) for pool in pools)
        assert torch.equal(inside, outside)
    with pytest.raises(UserError, match="do not fit in memory; give features"):
        data.select(pools[1], 3, method="k-centre", seed=0)

    def answer(inputs):
        return inputs.float().flatten(1)[:, :4] + torch.arange(4)

    # An embedding, because the labels are random: classes that follow them no better than chance are not bought.
    teacher = teachers.from_callable(lambda inputs: {"embedding": answer(inputs)}, fingerprint="1")
    for batch_size in (3, 64):
        store = ResponseStore(str(tmp_path / f"{batch_size}.db"))
        transfer = store.ask(teacher, pools[1], budget=ROWS - 1, batch_size=batch_size)
        assert torch.equal(transfer.responses["embedding"], answer(pools[0].inputs))
        assert (transfer.accounts.paid, transfer.accounts.served) == (ROWS - 1, 1)
        again = store.ask(teacher, pools[0], budget=ROWS - 1)  # the same digests: nothing is paid twice
        assert (again.accounts.paid, again.accounts.served) == (0, ROWS)
        same(again[[5, 3]].pool, transfer[[5, 3]].pool)


@pytest.mark.parametrize(("dtype", "shape"), [(np.uint8, (1, 8, 8)), (np.float32, (6,)), (np.float64, (2,))])
def test_kinds_of_arrays(tmp_path, dtype, shape):
    parts = arrays(dtype, shape) | {"labels": None}
    write(tmp_path / "test", inputs=parts["inputs"])
    with nothing_fits():
        pool = data.load(tmp_path, split="test")
        assert pool.labels is None
        found = pool.asked([3, 4, 5, 0])
        assert torch.equal(found, torch.from_numpy(parts["inputs"][[3, 4, 5, 0]]))
        statistics = models.Preprocess.fit(pool.inputs)
    expected = parts["inputs"].astype(np.float64) / (255 if dtype == np.uint8 else 1)
    axes = tuple(axis for axis in range(expected.ndim) if axis != 1)
    np.testing.assert_allclose(statistics.mean, expected.mean(axes), rtol=1e-6)
    np.testing.assert_allclose(statistics.std, expected.std(axes), rtol=1e-6)
    same_in_memory = models.Preprocess.fit(torch.from_numpy(parts["inputs"]))
    assert torch.equal(statistics.mean, same_in_memory.mean)
    assert torch.equal(statistics.std, same_in_memory.std)


def test_small_parts_are_read(tmp_path):
    parts = arrays()
    write(tmp_path / "train", **parts)
    with mock.patch.object(ondisk, "IN_MEMORY", 10 * 216):
        pool = data.load(tmp_path)
        assert isinstance(pool[:11].inputs, OnDisk)
        assert isinstance(pool[:10].inputs, torch.Tensor)
        assert isinstance(pool.sample(11, seed=0)[:10].inputs, torch.Tensor)


def test_a_packed_file_and_the_same_unpacked(tmp_path):
    np.savez(tmp_path / "packed.npz", **arrays())
    write(tmp_path / "train", **arrays())
    packed, unpacked = data.load(tmp_path, split="packed"), data.load(tmp_path)
    assert packed.digests == unpacked.digests
    assert torch.equal(packed.labels, unpacked.labels)
    assert packed.class_names == unpacked.class_names


def test_files_that_change_or_go(tmp_path):
    write(tmp_path / "train", **arrays())
    file = tmp_path / "train/inputs.npy"
    with nothing_fits():
        pool = data.load(tmp_path)
    content = file.read_bytes()
    for damage in (content[:-1], content + b"1"):
        file.write_bytes(damage)
        with pytest.raises(UserError, match="has changed while it was in use"):
            pool.asked(slice(3))
    file.write_bytes(content)
    with nothing_fits():
        pool = data.load(tmp_path)
    os.utime(file, ns=(1, 1))
    with pytest.raises(UserError, match="has changed while it was in use"):
        pool.asked([1])
    file.unlink()
    with pytest.raises(UserError, match=r"cannot read .*inputs\.npy any more"):
        pool.asked()


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        (np.asfortranarray(arrays()["inputs"]), "column by column"),
        (arrays()["inputs"].astype(">u4"), "cannot read"),
        (arrays()["inputs"].astype(np.float32), "images are uint8"),
        (np.full((3, 2), np.nan), "NaN or infinity"),
        (arrays()["inputs"][:5], "5 inputs but 40 labels"),
        (np.array([object()]), "cannot read"),
    ],
)
def test_arrays_that_cannot_be_used(tmp_path, inputs, says):
    write(tmp_path / "train", labels=arrays()["labels"], inputs=inputs)
    with pytest.raises(UserError, match=says):
        data.load(tmp_path)
    (tmp_path / "train/inputs.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(UserError, match="cannot read"):
        data.load(tmp_path)
