"""Learning from inputs that nobody was asked about: against a plain loop, without their labels, and the same again."""

import copy
import json
import os
import signal
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tuition import UserError, data, distill, models
from tuition.data import TransferSet
from tuition.data.strong import strong_images
from tuition.errors import Notice
from tuition.training import TrainSettings, check
from tuition.training.schedule import Schedule


def regression(student, teacher, labels):
    return F.mse_loss(student, teacher)


@pytest.fixture(scope="module")
def rest(pool):
    """What is left of the pool behind the transfer set, without labels."""
    return pool[64:150].without_labels


def same(a, b):
    return all(torch.equal(value, b.student.state_dict()[name]) for name, value in a.student.state_dict().items())


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


@pytest.mark.parametrize("near", [False, True])
def test_a_plain_loop_gives_the_same_weights(transfer, rest, near):
    """Both draws, the weak and the strong view, the average and its outputs, the pairs and the rising weight; by
    nearness, shares of the mean of answers and labels for the weak view."""
    nearness = torch.rand(len(rest), 64, generator=torch.Generator().manual_seed(1)) if near else None
    known = (transfer.responses["logits"] + F.one_hot(transfer.labels, 10)) / 2
    epochs, size, rate = 5, 32, 0.02
    run = distill(
        net(), transfer, regression, unasked=rest, seed=3, epochs=epochs, batch_size=size, learning_rate=rate,
        momentum=0.0, weight_decay=0.0, average=0.9, nearness=nearness,
    )  # fmt: skip
    model, crop, inputs = net().train(), transfer.pool.augment, transfer.pool.inputs
    scale = models.Preprocess.fit(inputs)
    average = copy.deepcopy(model).eval()
    generator = torch.Generator().manual_seed(3)
    schedule, step = Schedule(TrainSettings(epochs=epochs, learning_rate=rate), 2), 0
    for _ in range(epochs):
        order, views = torch.randperm(64, generator=generator), crop.draw(64, (8, 8), generator)
        rows = torch.randint(len(rest), (2, size), generator=generator)
        seeds = torch.randint(2**63 - 1, (2,), generator=generator).tolist()
        for i in range(2):
            own = torch.Generator().manual_seed(seeds[i])
            left = rest.inputs[rows[i]]
            weak = crop(left, crop.draw(size, (8, 8), own))
            strong = strong_images(crop(left, crop.draw(size, (8, 8), own)), own)
            with torch.no_grad():
                target = copy.deepcopy(average).train()(scale(weak))  # by the batch's statistics, and no others
            if near:
                strong = weak
                target = torch.stack([sum(nearness[row, i] * known[i] for i in range(64)) for row in rows[i]])
            at = slice(i * size, (i + 1) * size)
            loss = F.mse_loss(model(scale(crop(inputs[order[at]], views[at]))), transfer.responses["logits"][order[at]])
            difference = model(scale(strong)) - target
            between = (difference[:, None] - difference[None]).square().sum() / (size * (size - 1) * 10)
            loss = loss + min(step / 2, 1) * (between + 0.1 * 2 / 10 * difference.mean(0).square().sum())
            model.zero_grad()
            loss.backward()
            decay = min(0.9, (1 + step) / (10 + step))
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= rate * schedule.factor(step) * parameter.grad
                for mine, now in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
                    mine.copy_(decay * mine + (1 - decay) * now if mine.is_floating_point() else now)
            step += 1
    for name, value in run.student.model.state_dict().items():
        torch.testing.assert_close(value, average.state_dict()[name], rtol=2e-4, atol=2e-6)
    assert (run.steps, run.images_seen) == (10, 2 * 10 * size)
    assert [row["images"] for row in run.history] == [128, 256, 384, 512, 640]
    assert all(row["unasked"] > 0 for row in run.history)


class Poison:
    """Labels that cannot even be looked at."""

    def __getattribute__(self, *_):
        raise AssertionError("a label of an unasked input was read")

    __getitem__ = __len__ = __iter__ = __getattribute__


def test_labels_of_unasked_inputs_are_never_read(pool, transfer, rest, tmp_path):
    given = {"epochs": 2, "validation": pool[150:], "seed": 1}
    bare = distill("cnn_4", transfer, "ckd", unasked=rest, out=tmp_path / "bare", **given)
    poisoned = replace(rest, labels=Poison())
    with pytest.raises(AssertionError, match="was read"):
        poisoned[:1]
    found = distill("cnn_4", transfer, "ckd", unasked=poisoned, out=tmp_path / "poisoned", **given)
    assert same(found, bare)
    assert {**found.results(), "seconds": 0} == {**bare.results(), "seconds": 0}
    records = [json.loads((run.directory / "run.json").read_text())["settings"] for run in (bare, found)]
    assert records[0] == records[1]
    assert records[0]["average"] == 0.99
    alone = distill("cnn_4", transfer, "ckd", average=0.99, **given)
    assert not same(alone, bare), "and they are learned from"


@pytest.mark.parametrize(("method", "near"), [("ckd", False), ("mixup", False), ("ckd", True)])
def test_a_run_stopped_within_an_epoch_resumes_in_the_same_bits(transfer, rest, tmp_path, method, near, monkeypatch):
    nearness = torch.full((len(rest), 64), 1 / 64) if near else None
    given = {"epochs": 3, "batch_size": 16, "unasked": rest, "nearness": nearness}
    straight = distill("cnn_4", transfer, method, out=tmp_path / "straight", **given)
    steps = iter(range(100))

    def stop(self, step, risen=Schedule.risen):
        if next(steps) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return risen(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Schedule, "risen", stop)
        with pytest.raises(KeyboardInterrupt):
            distill("cnn_4", transfer, method, out=tmp_path / "stopped", **given)
    assert next(steps) == 6, "in the second of four steps of an epoch"
    resumed = distill("cnn_4", transfer, method, out=tmp_path / "stopped", **given)
    assert same(resumed, straight)
    assert resumed.images_seen == straight.images_seen == 12 * 2 * 16
    fewer = {"unasked": rest[1:], "nearness": nearness[1:] if near else None}
    with pytest.raises(UserError, match="unasked_digest"):
        distill("cnn_4", transfer, method, out=tmp_path / "stopped", **given | fewer)
    with pytest.raises(UserError, match="nearness_digest"):
        distill("cnn_4", transfer, method, out=tmp_path / "stopped", **given | {"nearness": torch.eye(len(rest), 64)})


def test_vectors_and_texts(pool, transfer, rest):
    flat = [replace(part, inputs=part.inputs.flatten(1).float() / 255, augment=None) for part in (transfer.pool, rest)]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    settings = {"epochs": 3, "batch_size": 32, "learning_rate": 0.02}
    run = distill(model, replace(transfer, pool=flat[0]), "kd", unasked=flat[1], **settings)
    assert 0 < run.history[-1]["unasked"] < 10
    words = ["red", "blue", "green", "black", "white", "grey"]
    texts = data.from_tensors([f"{words[i % 6]} {words[i // 6]}" for i in range(36)])
    answers = {"logits": torch.randn(20, 3, generator=torch.Generator().manual_seed(0))}
    run = distill("bag_8", TransferSet(texts[:20], answers), "ckd", unasked=texts[20:], epochs=3)
    assert 0 < run.history[-1]["unasked"] < 10


def test_embeddings_as_answers(transfer, rest):
    answers = {"embedding": torch.randn(64, 12, generator=torch.Generator().manual_seed(0))}
    bare = TransferSet(transfer.pool.without_labels, answers)
    run = distill("cnn_4", bare[:40], "ckd", validation=bare[40:], unasked=rest, epochs=2)
    assert run.student.output == "embedding"
    assert run.history[-1]["unasked"] > 0


def test_what_does_not_fit_is_refused(transfer, rest):
    answers = dict(transfer.responses) | {"stage2": torch.zeros(64, 16, 4, 4)}
    white = replace(transfer, responses=answers)
    with pytest.raises(UserError, match="fitnets compares feature maps, and unasked inputs have none"):
        distill("cnn_8", white, "fitnets", unasked=rest, epochs=1)
    with pytest.raises(UserError, match="average: 0 turns off"):
        distill("cnn_4", transfer, unasked=rest, average=0.0, epochs=1)
    with pytest.raises(UserError, match="fitnets compares feature maps"):
        check("cnn_8", transfer.pool, "fitnets", answer=None, unasked=rest)
    large = data.from_tensors(torch.zeros(4, 1, 9, 9, dtype=torch.uint8))
    with pytest.raises(UserError, match="images 1x9x9, and the student reads others"):
        distill("cnn_4", transfer, unasked=large, epochs=1)
    with pytest.raises(UserError, match="a Pool, not a TransferSet"):
        distill("cnn_4", transfer, unasked=transfer, epochs=1)
    for nearness in (torch.ones(64, len(rest)), "near"):
        with pytest.raises(UserError, match=r"a tensor \(86, 64\), a row an unasked input and a column an answer"):
            distill("cnn_4", transfer, unasked=rest, nearness=nearness, epochs=1)
    with pytest.raises(UserError, match="is not finite"):
        distill("cnn_4", transfer, unasked=rest, nearness=torch.full((len(rest), 64), torch.nan), epochs=1)
    with pytest.raises(UserError, match="pass unasked too"):
        distill("cnn_4", transfer, nearness=torch.ones(86, 64), epochs=1)


def test_inputs_that_are_measured_on_are_pointed_out(pool, transfer):
    with pytest.warns(Notice, match="5 of the 50 validation inputs are in the unasked pool too"):
        distill("cnn_4", transfer, unasked=pool[140:155], validation=pool[150:], epochs=1)


def test_the_weight_rises_in_the_first_fifth():
    schedule = Schedule(TrainSettings(epochs=50), 4)
    assert [schedule.risen(step) for step in (0, 1, 20, 40, 199)] == [0, 1 / 40, 0.5, 1, 1]
    schedule.since = 50
    assert schedule.risen(200) == 1
    stages = Schedule(TrainSettings(schedule="stages", epochs=1000, patience=10), 4)
    assert [stages.risen(step) for step in (0, 20, 40)] == [0, 0.5, 1]
