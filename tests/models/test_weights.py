import os
import resource
import signal
import stat
import time

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from tuition import models
from tuition.disk import write as write_atomically
from tuition.errors import UserError


@pytest.fixture
def model():
    model = models.create("wrn_10_1", num_classes=10, seed=0)
    model.bn.running_mean.fill_(0.5)
    return model


def fresh(num_classes=10, name="wrn_10_1", **arguments):
    return models.create(name, num_classes=num_classes, seed=1, **arguments)


def same(first, second):
    first, second = first.state_dict(), second.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_round_trip(model, tmp_path):
    path = tmp_path / "new" / "student.safetensors"
    models.save_weights(model, path)
    loaded = fresh()
    assert not same(loaded, model)
    models.load_weights(loaded, path)
    assert same(loaded, model)
    assert os.listdir(path.parent) == [path.name]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask  # as any file: not private to who trained it


def test_saves_shared_and_strided_weights(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Conv2d(3, 4, 3))
    model[1].weight = model[0].weight
    model.to(memory_format=torch.channels_last)
    models.save_weights(model, tmp_path / "weights")
    loaded = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Conv2d(3, 4, 3))
    loaded[1].weight = loaded[0].weight
    models.load_weights(loaded, tmp_path / "weights")
    assert same(loaded, model)


@pytest.mark.parametrize("wrap", [dict, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_torch_files(model, tmp_path, wrap, prefix):
    torch.save(wrap({prefix + key: value for key, value in model.state_dict().items()}), tmp_path / "weights.pth")
    loaded = fresh()
    models.load_weights(loaded, tmp_path / "weights.pth")
    assert same(loaded, model)


def test_a_model_with_its_own_module_child(tmp_path):
    model, loaded = nn.ModuleDict({"module": nn.Linear(2, 3)}), nn.ModuleDict({"module": nn.Linear(2, 3)})
    models.save_weights(model, tmp_path / "weights")
    models.load_weights(loaded, tmp_path / "weights")
    assert same(loaded, model)


def test_half_precision_files(model, tmp_path):
    save_file({key: value.half() for key, value in model.state_dict().items()}, tmp_path / "half.safetensors")
    loaded = fresh()
    models.load_weights(loaded, tmp_path / "half.safetensors")
    for key, value in loaded.state_dict().items():
        assert value.dtype == model.state_dict()[key].dtype
        torch.testing.assert_close(value, model.state_dict()[key], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("receiver", "says"),
    [
        ({"num_classes": 100}, "for 10 classes, the model has 100: create the model with num_classes=10"),
        ({"in_channels": 1}, r"stem.weight is \(16, 3, 3, 3\) there and \(16, 1, 3, 3\) here"),
        ({"name": "wrn_10_2"}, "lacks stage1.0.shortcut.weight"),
        ({"name": "wrn_16_1"}, r"lacks stage1.1.bn1.bias, .* and \d+ more"),
        ({"name": "resnet8"}, "lacks"),
    ],
)
def test_weights_of_another_model(model, tmp_path, receiver, says):
    models.save_weights(model, tmp_path / "weights")
    other = fresh(**receiver)
    before = [value.clone() for value in other.state_dict().values()]
    with pytest.raises(UserError, match=says):
        models.load_weights(other, tmp_path / "weights")
    assert all(torch.equal(a, b) for a, b in zip(before, other.state_dict().values(), strict=True))


def test_weights_with_more_than_the_model(model, tmp_path):
    save_file({**model.state_dict(), "stage4.weight": torch.zeros(1)}, tmp_path / "weights")
    with pytest.raises(UserError, match=r"also has stage4\.weight;"):
        models.load_weights(fresh(), tmp_path / "weights")


class Payload:
    """Runs code when unpickled."""

    def __reduce__(self):
        return (os.mkdir, ("unpickled",))


def test_never_unpickles(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "extra": Payload()}, "evil.pth")
    torch.save(nn.Linear(2, 2), "whole_module.pth")
    for path in ("evil.pth", "whole_module.pth"):
        with pytest.raises(UserError, match="holds more than tensors"):
            models.load_weights(nn.Linear(2, 2), path)
    assert not os.path.exists("unpickled")


@pytest.mark.parametrize(
    "content", [{"state_dict": {"weight": 1.0}}, [torch.zeros(1)], torch.zeros(1), {3: torch.zeros(1)}]
)
def test_torch_files_without_weights(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(UserError, match="holds no weights"):
        models.load_weights(nn.Linear(2, 2), tmp_path / "weights.pth")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.floats(0, 1, exclude_max=True), as_torch=st.booleans())
def test_cut_short(tmp_path, cut, as_torch):
    model = nn.Linear(3, 4)
    path = tmp_path / "weights"
    if as_torch:
        torch.save(model.state_dict(), path)
    else:
        models.save_weights(model, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(cut * len(whole))])
    with pytest.raises(UserError, match="cut short"):
        models.load_weights(model, path)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        models.load_weights(nn.Linear(2, 2), tmp_path / "absent")
    with pytest.raises(UserError, match="Is a directory"):
        models.load_weights(nn.Linear(2, 2), tmp_path)
    (tmp_path / "text").write_text("not weights at all")
    with pytest.raises(UserError, match="holds no weights"):
        models.load_weights(nn.Linear(2, 2), tmp_path / "text")


def test_full_disk_leaves_the_old_file(model, tmp_path):
    path = tmp_path / "weights"
    models.save_weights(model, path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # writing past it fails as a full disk does
    try:
        with pytest.raises(UserError, match="cannot be written"):
            models.save_weights(fresh(), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["weights"]
    with pytest.raises(UserError, match="cannot be written"):
        models.save_weights(model, path / "inside a file")


def test_killed_while_writing(tmp_path):
    path = tmp_path / "file"
    contents = [bytes([i]) * 3_000_000 for i in range(2)]
    write_atomically(path, contents[0])
    unfinished = attempt = 0
    while not unfinished or attempt < 12:
        attempt += 1
        assert attempt < 1000, "no kill fell within a write, so nothing was tested"
        child = os.fork()
        if child == 0:  # writes for ever
            try:
                while True:
                    for content in contents:
                        write_atomically(path, content)
            finally:
                os._exit(1)
        time.sleep(0.001 * (attempt % 50))
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        assert path.read_bytes() in contents
        unfinished += any(name != "file" for name in os.listdir(tmp_path))
