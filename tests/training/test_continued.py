"""A finished run that is trained for more epochs."""

import json
import math

import pytest
import torch

from tuition import UserError, distill, load
from tuition.training.callbacks import Shown


def same(a, b):
    return all(torch.equal(value, b.student.state_dict()[name]) for name, value in a.student.state_dict().items())


def rates(run):
    return [row["learning_rate"] for row in run.history]


@pytest.fixture
def given(pool, transfer, tmp_path):
    return {
        "student": "cnn_4",
        "transfer": transfer,
        "objective": "kd",
        "validation": pool[64:104],
        "batch_size": 16,
        "out": tmp_path / "run",
    }


def test_stages_go_on_as_in_one_long_run(given, tmp_path):
    short = distill(**given, schedule="stages", patience=2, epochs=3)
    assert short.epochs == 3
    longer = distill(**given, schedule="stages", patience=2, epochs=7)
    at_once = distill(**given | {"out": tmp_path / "long"}, schedule="stages", patience=2, epochs=7)
    assert same(longer, at_once)
    assert rates(longer) == rates(at_once)
    assert (longer.steps, longer.images_seen, longer.best_epoch) == (28, 7 * 64, at_once.best_epoch)


def test_a_cosine_begins_again_from_the_last_state(given):
    first = distill(**given, epochs=2)
    run = distill(**given, epochs=5, learning_rate=0.02)
    assert run.history[:2] == first.history
    # Steps 4, 8 and 12 of a cosine over 3 epochs of 4 steps, of which each epoch shows the rate of its last step.
    expected = [0.02 * math.cos(math.pi * step / 24) ** 2 for step in (3, 7, 11)]
    assert rates(run)[2:] == pytest.approx(expected)
    record = json.loads((given["out"] / "run.json").read_text())
    assert record["continued"] == [{"ended_after": 2, "epochs": 2, "learning_rate": 0.05}]
    assert (record["settings"]["epochs"], record["settings"]["learning_rate"], record["status"]) == (5, 0.02, "done")
    assert record["results"]["epochs"] == 5
    assert same(load_run(given), run)
    again = distill(**given, epochs=5, learning_rate=0.02)
    assert same(again, run)
    assert again.history == run.history
    with pytest.raises(UserError, match="epochs: 5 there, 2 now"):
        distill(**given, epochs=2)


def load_run(given):
    class Loaded:
        student = load(given["out"])

    return Loaded


def test_a_continued_run_that_is_stopped_resumes_in_the_same_bits(given, tmp_path):
    def stop(done, epochs, figures):
        if done == 4:
            raise KeyboardInterrupt

    distill(**given, epochs=2, warm_up=0.5)
    with pytest.raises(KeyboardInterrupt):
        distill(**given, epochs=6, warm_up=0.5, callbacks=[Shown(stop, 6)])
    with pytest.raises(UserError, match="not finished"):
        load(given["out"])
    with pytest.raises(UserError, match="epochs: 6 there, 8 now"):
        distill(**given, epochs=8, warm_up=0.5)
    stopped = distill(**given, epochs=6, warm_up=0.5)
    other = given | {"out": tmp_path / "other"}
    distill(**other, epochs=2, warm_up=0.5)
    straight = distill(**other, epochs=6, warm_up=0.5)
    assert same(stopped, straight)
    assert rates(stopped) == rates(straight)


def test_the_wait_for_a_better_validation_begins_again(given, monkeypatch):
    course = iter([60.0, 50.0, 40.0, 30.0, 20.0])
    monkeypatch.setattr("tuition.training.distillation._validator", lambda *_: lambda student: next(course))
    assert distill(**given, epochs=9, stop_after=1).epochs == 2
    run = distill(**given, epochs=10, stop_after=1)
    assert (run.epochs, run.best_epoch, run.validation) == (3, 1, 60.0)


def test_without_its_checkpoint_a_run_is_not_continued(given):
    distill(**given, epochs=2, keep_checkpoint=False)
    files = {path: path.read_bytes() for path in given["out"].iterdir()}
    assert "checkpoint.bin" not in {path.name for path in files}
    with pytest.raises(UserError, match="holds a finished run without its checkpoint"):
        distill(**given, epochs=3)
    assert {path: path.read_bytes() for path in given["out"].iterdir()} == files


def test_a_kept_checkpoint_is_removed_when_it_is_no_longer_wanted(given):
    run = distill(**given, epochs=2)
    size = (given["out"] / "checkpoint.bin").stat().st_size
    weights = sum(value.nbytes for value in run.student.state_dict().values())
    assert 3 * weights < size < 3 * weights + 40_000, "weights, momentum and the best weights"
    distill(**given, epochs=2, keep_checkpoint=False)
    assert not (given["out"] / "checkpoint.bin").exists()
