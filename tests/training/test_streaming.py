"""Training from disk: the same student bit for bit as from memory, in little memory."""

import json
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
import torch

from tuition import data, distill
from tuition.data import TransferSet, ondisk
from tuition.data.ondisk import OnDisk
from tuition.training.batches import ahead


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    for split in ("train", "test"):
        part = data.load("digits", split=split).sample(160, seed=0)
        (folder / split).mkdir()
        np.save(folder / split / "inputs.npy", part.inputs.numpy())
        np.save(folder / split / "labels.npy", part.labels.numpy())
    return folder


def trained(folder, out, in_memory, *, method, answers="logits", view=False, validate="labels", **settings):
    beside = settings.pop("unasked", False)
    with mock.patch.object(ondisk, "IN_MEMORY", in_memory):
        train, test = data.load(folder), data.load(folder, split="test")
        assert isinstance(train.inputs, OnDisk) == isinstance(test.inputs, OnDisk) == (in_memory < 0)
        pool = train.view(data.Crop(padding=1), seed=3) if view else train
        generator = torch.Generator().manual_seed(0)
        shape = (16, 4, 4) if answers == "stage2" else (10,)
        responses = {"logits": 3 * torch.randn(160, 10, generator=generator)}
        responses[answers] = torch.randn(160, *shape, generator=generator)
        transfer = TransferSet(pool, responses)[10:]
        validation = test[:90] if validate == "labels" else TransferSet(test, responses)
        if beside:
            settings |= {"unasked": train[:100]}
        return distill(
            "cnn_8", transfer, method, validation=validation, test=test, out=out, epochs=2, batch_size=32, **settings
        )


@pytest.mark.parametrize(
    "case",
    [
        {"method": "ckd"},
        {"method": "ckd", "augment": False, "view": True},
        {"method": "ckd_published", "validate": "answers"},  # pairs, and a student that is recentred
        {"method": "cutmix", "view": True},
        {"method": "crd"},
        {"method": "fitnets", "answers": "stage2", "aligned": True, "view": True},
        {"method": "mse", "unasked": True},
        {"method": "mse", "unasked": True, "augment": False, "view": True},
    ],
    ids=lambda case: " ".join(map(str, case.values())),
)
def test_the_same_student_bit_for_bit(folder, tmp_path, case):
    inside, outside = (trained(folder, tmp_path / str(bound), bound, **case) for bound in (2**20, -1))
    for name, value in inside.student.state_dict().items():
        assert torch.equal(value, outside.student.state_dict()[name]), name
    assert {**inside.results(), "seconds": 0} == {**outside.results(), "seconds": 0}
    records = [json.loads((run.directory / "run.json").read_text())["settings"] for run in (inside, outside)]
    assert records[0] == records[1]  # digests of transfer set, validation and test among them


def test_working_ahead_is_bounded_ordered_and_stops():
    begun = []

    def double(x):
        begun.append(x)
        return 2 * x

    results = ahead(double, range(100))
    assert [next(results) for _ in range(10)] == list(range(0, 20, 2))
    assert len(begun) <= 10 + 5
    results.close()
    assert len(begun) <= 10 + 5
    assert list(ahead(double, [])) == []

    def fail(x):
        raise ValueError(f"no {x}")

    with pytest.raises(ValueError, match="no 7"):
        next(ahead(fail, [7]))


PROGRAM = """
import json, re, sys, threading
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tuition import ResponseStore, data, distill, teachers
from tuition.data import ondisk


def watch(peaks, over):
    # Of the process itself: pages of a mapped file are the system's, which drops them at any time.
    while not over.wait(0.002):
        peaks.append(int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024)


def student():
    torch.manual_seed(0)
    return nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(48, 10))


def everything(split, **settings):
    pool = data.load(sys.argv[1], split=split)
    teacher = teachers.from_torch(student(), name="teacher")
    store = ResponseStore(sys.argv[1] + "/" + split + ".db")
    transfer = store.ask(teacher, pool, budget=len(pool), batch_size=1000, check_answers=False)  # labels are random
    run = distill(student(), transfer, "mse", epochs=1, batch_size=128, out=sys.argv[1] + "/run-" + split)
    return pool, run.student.evaluate(pool).count


torch.set_num_threads(1)
ondisk.IN_MEMORY = 32 << 20
peaks, over = [], threading.Event()
threading.Thread(target=watch, args=(peaks, over)).start()
everything("small")  # all libraries are loaded
before = max(peaks)
pool, count = everything("large")
over.set()
growth = max(peaks) - before
print(json.dumps({"kind": type(pool.inputs).__name__, "count": count, "growth": growth}))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are read from /proc")
def test_a_large_pool_is_asked_stored_trained_on_and_evaluated_in_little_memory(tmp_path):
    """234 MiB of pictures, where 32 are taken to fit; in memory they would take five times as much."""
    generator = np.random.default_rng(0)
    for split, count in (("small", 1_000), ("large", 20_000)):
        (tmp_path / split).mkdir()
        np.save(tmp_path / split / "labels.npy", np.arange(count) % 10)
        block = np.frombuffer(generator.bytes(1_000 * 12288), np.uint8).reshape(1_000, 3, 64, 64).copy()
        with (tmp_path / split / "inputs.npy").open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (count, 3, 64, 64)}
            np.lib.format.write_array_header_1_0(file, header)
            for number in range(count // 1_000):
                block[:, 0, 0, 0] = number  # all are different
                file.write(block.data)
    found = subprocess.run([sys.executable, "-c", PROGRAM, tmp_path], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    result = json.loads(found.stdout.splitlines()[-1])
    assert (result["kind"], result["count"]) == ("OnDisk", 20_000)
    assert result["growth"] < 100, result
