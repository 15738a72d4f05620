"""The loop against a plain one written here, and what it does at the end of epochs and stages."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tuition import UserError, distill, models
from tuition.training import Objective, Student, Term, TrainSettings
from tuition.training.batches import Batches
from tuition.training.learner import forward
from tuition.training.loop import train
from tuition.training.objective import Batch

CPU = torch.device("cpu")


def test_a_plain_loop_gives_the_same_weights(transfer):
    """SGD, cosine, augmentation, batch norm and CKD over explicit pairs, written out from their definitions."""
    epochs, batch_size, rate, momentum, decay, anchor = 3, 20, 0.05, 0.9, 5e-4, 0.1
    run = distill("cnn_4", transfer, "ckd", seed=5, epochs=epochs, batch_size=batch_size, learning_rate=rate)

    model = models.create("cnn_4", num_classes=10, in_channels=1, seed=5).train()
    images = transfer.pool.inputs.float() / 255
    mean, std = images.mean(), images.std(correction=0)
    one_hot, answers = F.one_hot(transfer.labels, 10).float(), transfer.responses["logits"]
    generator = torch.Generator().manual_seed(5)
    velocity = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    crop, step, steps = transfer.pool.augment, 0, epochs * 4
    for _ in range(epochs):
        order = torch.randperm(64, generator=generator)
        views = crop.draw(64, (8, 8), generator)
        for at in torch.arange(64).tensor_split(4):
            inputs = (crop(transfer.pool.inputs[order[at]], views[at]).float() / 255 - mean) / std
            logits, n = model(inputs), len(at)
            loss = 0
            for target in (answers[order[at]], one_hot[order[at]]):
                differences = (logits[:, None] - logits[None]) - (target[:, None] - target[None])
                loss = loss + differences.square().sum() / (n * (n - 1) * 10)
                loss = loss + anchor * 2 / 10 * (logits - target).mean(0).square().sum()
            model.zero_grad()
            loss.backward()
            for name, parameter in model.named_parameters():
                gradient = parameter.grad + decay * parameter.data
                velocity[name] = gradient if step == 0 else momentum * velocity[name] + gradient
                parameter.data -= rate * 0.5 * (1 + math.cos(math.pi * step / steps)) * velocity[name]
            step += 1
    expected = model.state_dict()
    for name, value in run.student.model.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=2e-4, atol=2e-6, msg=lambda m, name=name: f"{name}: {m}")
    assert (run.steps, run.images_seen, run.epochs) == (12, 192, 3)


def whole(model, transfer):
    return Student(model, models.Preprocess.fit(transfer.pool.inputs), input_shape=(1, 8, 8))


def go(transfer, validation, schedule="cosine", epochs=20, patience=2, term=None):
    """Train on a made-up course of validation; what was seen: weights after each epoch, and at each first step."""
    student = whole(models.create("cnn_4", num_classes=10, in_channels=1, seed=0), transfer)
    after, begins, course = [], [], iter(validation)

    def loss(logits, batch):
        if len(begins) == len(after):
            begins.append(copy.deepcopy(student.state_dict()))
        return F.mse_loss(logits, batch.responses["logits"])

    def validate(_):
        after.append(copy.deepcopy(student.state_dict()))
        return next(course)

    objective = Objective([Term("mse", loss)])
    settings = TrainSettings(schedule=schedule, epochs=epochs, patience=patience, batch_size=32)
    batches = Batches(
        transfer,
        objective,
        batch_size=32,
        augment=None,
        num_classes=10,
        device=CPU,
        generator=torch.Generator().manual_seed(0),
    )
    state, best = train(student, objective, batches, settings, validate=validate)
    return student, state, best, after, begins


def same(a, b, statistics=True):
    """Equal weights, and equal statistics of batch norm."""
    names = [name for name in a if statistics or not ("running" in name or "tracked" in name)]
    return all(torch.equal(a[name], b[name]) for name in names)


def begun(begin, end):
    """Whether an epoch began with these weights; batch norm has seen a batch when that is looked at."""
    return same(begin, end, statistics=False)


def test_best_is_the_later_of_equals_and_last_is_last(plain):
    student, state, best, after, _ = go(plain, [10.0, 30.0, 30.0, 20.0], epochs=4)
    assert (state.best, state.best_epoch, state.epoch) == (30.0, 3, 4)
    assert same(best, after[2])
    assert same(student.state_dict(), after[3])
    assert not same(after[2], after[3])


def test_stages_wait_restore_and_end(plain):
    """Patience 2: the best of each stage begins the next at a tenth of the rate; the last weights stay."""
    course = [50.0, 40.0, 50.0, 60.0, 10.0, 20.0, 30.0, 40.0]
    student, state, best, after, begins = go(plain, course, schedule="stages")
    rates = [row["learning_rate"] for row in state.history]
    # After 50, neither 40 nor another 50 is better. 60 is; 10 and 20 end that stage, 30 and 40 the last.
    assert rates == pytest.approx([0.05] * 3 + [0.005] * 3 + [0.0005] * 2)
    assert state.epoch == 8
    assert begun(begins[3], after[2]), "the later of the equal 50s"
    assert begun(begins[6], after[3])
    assert begun(begins[1], after[0])
    assert (state.best, state.best_epoch) == (60.0, 4)
    assert same(best, after[3])
    assert same(student.state_dict(), after[7])


def test_stages_end_at_the_most_epochs(plain):
    _, state, *_ = go(plain, range(100), schedule="stages", epochs=5)
    assert state.epoch == 5
    assert {row["learning_rate"] for row in state.history} == {0.05}


def test_a_stage_begins_without_momentum(plain):
    """The first step of a stage is the gradient's alone."""
    student, _, _, after, begins = go(plain, [50.0, 40.0, 60.0, 10.0], schedule="stages", patience=1, epochs=3)
    assert begun(begins[2], after[0])
    model, settings = copy.deepcopy(student), TrainSettings()
    model.load_state_dict(begins[2])
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        torch.randperm(64, generator=generator)
    order = torch.randperm(64, generator=generator)
    velocity = {}
    for at in order.tensor_split(2):
        model.train().zero_grad()
        F.mse_loss(model(plain.pool.inputs[at]), plain.responses["logits"][at]).backward()
        for name, p in model.named_parameters():
            gradient = p.grad + settings.weight_decay * p.data
            velocity[name] = 0.9 * velocity[name] + gradient if name in velocity else gradient
            p.data -= 0.005 * velocity[name]
    for name, p in model.named_parameters():
        torch.testing.assert_close(after[2][name], p.data, rtol=1e-4, atol=1e-6)


def test_the_two_sides_of_groups_are_forwarded_apart(plain):
    """Batch norm sees each side alone: two updates a step, and outputs as of two passes."""
    student = whole(models.create("cnn_4", num_classes=10, in_channels=1, seed=0), plain).train()
    twice = copy.deepcopy(student)
    rows = torch.arange(12)
    batch = Batch(plain.pool.inputs[:12], rows, {}, groups=(2, 1))
    outputs = forward(student, batch, ["stage1"])
    expected = torch.cat([twice(plain.pool.inputs[:8]), twice(plain.pool.inputs[8:12])])
    assert torch.equal(outputs["logits"], expected)
    assert outputs["stage1"].shape[0] == 12
    assert {int(v) for n, v in student.state_dict().items() if n.endswith("num_batches_tracked")} == {2}
    together = copy.deepcopy(twice)(plain.pool.inputs[:12])
    assert not torch.allclose(together, expected)

    run = distill("cnn_4", plain, "ckd_published", epochs=2, batch_size=16)
    tracked = {int(v) for n, v in run.student.state_dict().items() if n.endswith("num_batches_tracked")}
    assert tracked == {2 * run.steps}


def test_a_loss_that_is_no_longer_finite_is_named(transfer):
    with pytest.raises(UserError) as caught:
        distill("cnn_4", transfer, "kd", epochs=5, learning_rate=1e30)
    assert "the loss term " in str(caught.value)
    assert " became nan in epoch " in str(caught.value)
    assert "at learning rate 1e+30" in str(caught.value) or "at learning rate 9" in str(caught.value)
    assert str(caught.value).endswith("; lower the learning rate.")


def test_a_loss_that_ends_finite_on_ruined_weights_is_found_too(transfer, pool):
    """One step: its loss is that of the fresh weights, and what it leaves behind answers with infinities."""
    with pytest.raises(UserError, match="lower learning rate"):
        distill("cnn_4", transfer, "kd", epochs=1, batch_size=64, learning_rate=1e38, test=pool[64:])


def test_stages_need_validation(transfer):
    with pytest.raises(UserError, match="the stages schedule needs validation"):
        distill("cnn_4", transfer, schedule="stages")


def test_modules_of_an_objective_are_trained(transfer):
    """A term's own module is optimised together with the student, and is the one the term calls."""
    projector = nn.Linear(10, 10)
    before = copy.deepcopy(projector.state_dict())
    term = Term("projected", lambda student, batch: F.mse_loss(projector(student), batch.responses["logits"]))
    distill("cnn_4", transfer, Objective([term], modules=[projector]), epochs=2)
    assert not same(before, projector.state_dict())


def test_frozen_parts_stay(transfer):
    model = models.create("cnn_4", num_classes=10, in_channels=1, seed=0)
    model.stage1.requires_grad_(False)
    run = distill(model, transfer, "kd", epochs=2)
    assert torch.equal(run.student.model.stage1[0].weight, model.stage1[0].weight)
    assert not torch.equal(run.student.model.stage2[0].weight, model.stage2[0].weight)


def test_without_labels_the_teachers_hard_answers_may_stand_in(transfer):
    unlabelled = replace(transfer, pool=transfer.pool.without_labels)
    hard = replace(transfer, pool=replace(transfer.pool, labels=transfer.responses["logits"].argmax(1)))
    a = distill("cnn_4", unlabelled, "kd", epochs=2, teacher_labels=True)
    b = distill("cnn_4", hard, "kd", epochs=2)
    assert same(a.student.state_dict(), b.student.state_dict())
    c = distill("cnn_4", transfer, "kd", epochs=2, teacher_labels=True)
    d = distill("cnn_4", transfer, "kd", epochs=2)
    assert same(c.student.state_dict(), d.student.state_dict()), "labels that are known are kept"


def test_objectives_refuse_terms_of_one_name_and_none_at_work():
    term = Term("a", lambda student, batch: student.sum())
    with pytest.raises(ValueError, match="distinct names"):
        Objective([term, term])
    for idle in ([], [replace(term, weight=0.0)]):
        with pytest.raises(ValueError, match="every weight is 0"):
            Objective(idle)
