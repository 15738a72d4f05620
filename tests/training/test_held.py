"""Signals in the middle of an epoch: a checkpoint of complete steps is written, and the run ends in the same bits."""

import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from tuition import distill
from tuition.errors import Notice
from tuition.held import Held
from tuition.training import files
from tuition.training.callbacks import Shown


class Interrupted(nn.Module):
    """Has dropout, and gets a signal in the forward passes of training whose numbers are in `at`."""

    def __init__(self, at=(), number=signal.SIGINT):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(144, 10)
        )
        self.at, self.number = set(at), number

    def forward(self, inputs):
        if self.training and len(inputs) > 4:  # not the trial before the training
            steps.append(len(inputs))
            if len(steps) in self.at:
                signal.raise_signal(self.number)
        return self.layers(inputs)


steps: list[int] = []


@pytest.fixture(autouse=True)
def counted():
    steps.clear()


def student(at=()):
    model = Interrupted(at)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 5
    return model


@pytest.mark.parametrize("method", ["ckd", "ckd_published", "mixup"])
def test_a_signal_in_any_step_loses_no_step(transfer, pool, tmp_path, method):
    """64 inputs in batches of 16: 4 steps an epoch. Every run is stopped in another place of the epoch."""
    given = {"validation": pool[64:104], "epochs": 3, "batch_size": 16, "seed": 5, "weight_decay": 0.0}
    whole = distill(student(), transfer, method, out=tmp_path / "whole", **given)
    complete = len(steps)

    def stopped(at):
        steps.clear()
        with pytest.raises(KeyboardInterrupt):
            distill(student([at]), transfer, method, out=tmp_path / "parts", **given)
        return files.load_checkpoint(tmp_path / "parts" / "checkpoint.bin")["state"]

    each = complete // whole.steps  # forward passes of a step
    seen = [(state["epoch"], state["done"]) for state in (stopped(2 * each + 1), stopped(2 * each + 1), stopped(each))]
    assert len(set(seen)) == 3, "each resumes where the one before was stopped"
    assert any(done for _, done in seen), "in the middle of an epoch"
    run = distill(student(), transfer, method, out=tmp_path / "parts", **given)
    for name, value in whole.student.state_dict().items():
        assert torch.equal(value, run.student.state_dict()[name]), name
    without = [{k: v for k, v in row.items() if k != "seconds"} for row in run.history]
    assert without == [{k: v for k, v in row.items() if k != "seconds"} for row in whole.history]
    assert (run.steps, run.images_seen) == (whole.steps, whole.images_seen)


def test_dropout_follows_from_the_seed_and_the_callers_state_stays(transfer):
    model, state = student(), torch.get_rng_state()
    a, b, c = (distill(model, transfer, "kd", epochs=1, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(a.student.model.layers[-1].weight, b.student.model.layers[-1].weight)
    assert not torch.equal(a.student.model.layers[-1].weight, c.student.model.layers[-1].weight)


def test_handlers_are_put_back(transfer):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    distill("cnn_4", transfer, epochs=1)
    with pytest.raises(KeyboardInterrupt):
        distill(student([3]), transfer, epochs=1, batch_size=16)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_a_handler_that_returns_lets_the_training_go_on(transfer, tmp_path):
    told = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    try:
        model = student([3, 4])
        model.number = signal.SIGTERM
        run = distill(model, transfer, "kd", epochs=2, batch_size=16, out=tmp_path / "run")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert told == [signal.SIGTERM] * 2
    assert run.steps == 8


def twice(seen):
    with Held() as held:
        signal.raise_signal(signal.SIGINT)
        seen.append(held.arrived)
        signal.raise_signal(signal.SIGINT)
        seen.append("after the second")


@pytest.mark.parametrize(("together", "after"), [(-1.0, []), (1000.0, ["after the second"])])
def test_a_second_signal_takes_effect_at_once_unless_it_comes_with_the_first(monkeypatch, together, after):
    monkeypatch.setattr("tuition.held.TOGETHER", together)
    seen = []
    with pytest.raises(KeyboardInterrupt):
        twice(seen)
    assert seen == [signal.SIGINT, *after]


def test_other_threads_may_train(transfer):
    """Only the main thread may have handlers."""
    found = []
    thread = threading.Thread(target=lambda: found.append(distill("cnn_4", transfer, epochs=1)))
    thread.start()
    thread.join()
    assert found[0].steps == 1


SCRIPT = """
import os, signal, sys
import torch
from torch import nn
from tuition import data, distill
from tuition.data import TransferSet

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers, self.steps = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), 0
    def forward(self, inputs):
        self.steps += self.training and len(inputs) > 4
        if self.steps == 3:
            os.kill(os.getpid(), int(sys.argv[1]))
        return self.layers(inputs)

pool = data.load("digits").sample(64, seed=0)
torch.manual_seed(0)
distill(Net(), TransferSet(pool, {}), "ce", out="run", epochs=2, batch_size=16)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_process_ends_by_its_signal_with_a_checkpoint(tmp_path, number):
    command = [sys.executable, "-c", SCRIPT, str(int(number))]
    ended = subprocess.run(command, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    assert ended.returncode == -number
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "running"
    assert 0 < files.load_checkpoint(tmp_path / "run/checkpoint.bin")["state"]["done"] < 4


def test_a_run_resumes_with_its_number_of_threads(transfer, tmp_path):
    """Another number adds in another order."""
    threads, used = torch.get_num_threads(), []

    def note(done, total, figures):
        used.append(torch.get_num_threads())
        if len(used) == 1:
            raise KeyboardInterrupt

    given = {"epochs": 3, "out": tmp_path / "run", "callbacks": [Shown(note, 3)]}
    try:
        torch.set_num_threads(2)
        with pytest.raises(KeyboardInterrupt):
            distill("cnn_4", transfer, "kd", **given)
        torch.set_num_threads(1)
        with (
            pytest.warns(Notice, match="resumes with the 2 threads that it began with"),
            pytest.warns(Notice, match="this run resumes in epoch 2 of 3"),
        ):
            distill("cnn_4", transfer, "kd", **given)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    assert used == [2, 2, 2]


def test_a_resumed_run_says_when_another_torch_goes_on(transfer, tmp_path):
    def stop(done, total, figures):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill("cnn_4", transfer, "kd", epochs=2, out=tmp_path, callbacks=[Shown(stop, 2)])
    path = Path(tmp_path / "checkpoint.bin")
    saved = files.load_checkpoint(path)
    saved["made_by"]["torch"] = "1.0"
    files.save_checkpoint(path, saved)
    with pytest.warns(UserWarning, match=r"began with torch 1\.0 and resumes with"):
        distill("cnn_4", transfer, "kd", epochs=2, out=tmp_path)


def test_an_undisturbed_run_says_nothing(transfer, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distill("cnn_4", transfer, "kd", epochs=1, out=tmp_path)
