"""What follows a run: called once an epoch, able to stop it cleanly, and never part of what is learned."""

import copy
import importlib
import json
import os
import struct
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest
import torch

from tuition import UserError, distill
from tuition.training import Callback, Deadline, UnfinishedError, logs


class Notes(Callback):
    """Notes all that it is called with; stops after the epoch `last`."""

    def __init__(self, last=None):
        self.last, self.calls = last, []

    def on_epoch(self, row):
        self.calls.append(("epoch", copy.deepcopy(row)))
        self.stop = row["epoch"] == self.last

    def on_end(self, run):
        self.calls.append(("end", run))

    @property
    def epochs(self):
        return [row["epoch"] for what, row in self.calls if what == "epoch"]


def test_every_epoch_and_the_end_are_followed(transfer, pool, tmp_path):
    one, other = Notes(), Notes()
    run = distill("cnn_4", transfer, validation=pool[100:], epochs=3, out=tmp_path, callbacks=[one, other])
    assert [row for what, row in one.calls if what == "epoch"] == run.history
    assert one.calls[-1] == ("end", run)
    assert one.calls == other.calls
    again = Notes()
    distill("cnn_4", transfer, validation=pool[100:], epochs=3, out=tmp_path, callbacks=[again])
    assert again.calls == [], "a finished run is not trained again"


def test_a_run_that_a_callback_stops_resumes_to_the_same_weights(transfer, tmp_path):
    complete = distill("cnn_4", transfer, epochs=4, out=tmp_path / "complete")
    with pytest.raises(UnfinishedError, match=r"was stopped after epoch 2 of 4; the same call resumes it\."):
        distill("cnn_4", transfer, epochs=4, out=tmp_path / "parts", callbacks=[Notes(last=2), Callback()])
    assert json.loads((tmp_path / "parts/run.json").read_text())["status"] == "running"
    rest = Notes()
    parts = distill("cnn_4", transfer, epochs=4, out=tmp_path / "parts", callbacks=[rest])
    assert rest.epochs == [3, 4]
    weights = complete.student.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in parts.student.state_dict().items())


def test_the_last_epoch_is_not_stopped(transfer):
    notes = Notes(last=2)
    assert distill("cnn_4", transfer, epochs=2, callbacks=[notes]).epochs == 2
    assert notes.calls[-1][0] == "end"


def test_a_deadline_ends_the_training_after_the_epoch_in_which_it_passes(transfer):
    notes = Notes()
    with pytest.raises(UnfinishedError, match=r"stopped after epoch 1 of 9; name a folder to resume it from\."):
        distill("cnn_4", transfer, epochs=9, callbacks=[Deadline(time.time() - 1), notes])
    assert notes.epochs == [1]
    assert distill("cnn_4", transfer, epochs=2, callbacks=[Deadline(time.time() + 1e6)]).epochs == 2


def test_an_error_of_a_callback_is_raised_after_a_checkpoint(transfer, tmp_path):
    class Broken(Callback):
        def on_epoch(self, row):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        distill("cnn_4", transfer, epochs=3, out=tmp_path, callbacks=[Broken()], checkpoint_seconds=1e6)
    rest = Notes()
    distill("cnn_4", transfer, epochs=3, out=tmp_path, callbacks=[rest])
    assert rest.epochs == [2, 3]


# -- logs --------------------------------------------------------------------------------------------------------------


def test_a_log_of_rounds_counts_epochs_on(tmp_path):
    """Read back by TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = logs.TensorBoard(str(tmp_path))
    for number in (1, 2, 3):
        for epoch in (1, 2):
            log.on_epoch({"epoch": epoch, "loss": 10.0 * number + epoch})
        log.on_round({"round": number, "calls": 100 * number, "validation": None, "price": "1.50"})
    events = EventAccumulator(str(tmp_path)).Reload()
    losses = [(event.step, event.value) for event in events.Scalars("loss")]
    assert losses == [(1, 11.0), (2, 12.0), (3, 21.0), (4, 22.0), (5, 31.0), (6, 32.0)]
    assert [(event.step, event.value) for event in events.Scalars("round/calls")] == [(1, 100), (2, 200), (3, 300)]
    assert set(events.Tags()["scalars"]) == {"loss", "round/calls"}, "what is not a number is left out"


WANDB = pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed; pip install 'tuition[wandb]'")


@WANDB
def test_weights_and_biases_has_every_epoch_and_the_result(transfer, pool, tmp_path, monkeypatch, capfd):
    """Offline, as the file of wandb's run has it."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    log = logs.WeightsAndBiases("digits", "small", {"method": "kd", "calls": 64})
    run = distill("cnn_4", transfer, "kd", validation=pool[100:], epochs=3, callbacks=[log])
    assert capfd.readouterr() == ("", "")
    importlib.import_module("wandb").teardown()  # its process ends, and has written all
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    rows, summary, config = read_wandb(path)
    assert [(row["epoch"], row["loss"], row["validation"]) for row in rows] == [
        (row["epoch"], row["loss"], row["validation"]) for row in run.history
    ]
    assert summary["agreement"] == run.agreement
    assert config["method"] == "kd"
    assert config["calls"] == 64


def read_wandb(path):
    """The rows, the last of each summary value, and the configuration that the file of a run holds."""
    from wandb.proto import wandb_internal_pb2

    rows, summary, config = [], {}, {}

    def value(it):
        return "".join(it.nested_key) or it.key, json.loads(it.value_json)

    for content in log_records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        if record.HasField("history"):
            rows.append(dict(map(value, record.history.item)))
        summary |= map(value, record.summary.update)
        config |= {it.key: json.loads(it.value_json) for it in record.run.config.update}
    return rows, summary, config


def log_records(content, block=32768):
    """The records of a log in LevelDB's format: checksum, length and kind before each; 7 bytes of wandb before all."""
    place, parts = 7, b""
    while place + 7 <= len(content):
        if block - place % block < 7:  # the rest of a block is too short for a record
            place += block - place % block
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # complete, or the last part
            yield parts
            parts = b""


@WANDB
def test_weights_and_biases_without_a_key_is_refused(tmp_path):
    program = "from tuition.training.logs import WeightsAndBiases; WeightsAndBiases.check()"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")} | {"HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "wandb_project needs a login" in done.stderr
    assert "WANDB_MODE=offline" in done.stderr


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"writing to wandb_project needs an extra .*pip install 'tuition\[wandb\]'"):
        logs.WeightsAndBiases.check()
