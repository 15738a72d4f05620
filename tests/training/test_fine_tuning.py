"""Settings of fine-tuning against loops written out here, and the sentences about what cannot be."""

import math
import signal
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tuition import UserError, distill, losses, models
from tuition.training import Objective, Student, Term, TrainSettings, files
from tuition.training.learner import Learner, make_optimizer
from tuition.training.learner import step as take_step
from tuition.training.objective import Batch
from tuition.training.schedule import Schedule
from tuition.training.trained import stack


def net(seed=0):
    return models.create("cnn_4", num_classes=10, in_channels=1, seed=seed)


def same(a, b):
    return all(torch.equal(value, b[name]) for name, value in a.items())


# -- the schedule ------------------------------------------------------------------------------------------------------


def test_warm_up_rises_by_equal_parts_and_the_cosine_takes_the_rest():
    """One epoch of 4 steps of 3: 1/4, 2/4, 3/4, 1; then half a cosine over the 8 steps that are left."""
    schedule = Schedule(TrainSettings(epochs=3, warm_up=1), 4)
    rest = [math.cos(math.pi * step / 16) ** 2 for step in range(8)]
    assert [schedule.factor(step) for step in range(12)] == pytest.approx([0.25, 0.5, 0.75, 1.0, *rest])
    share = Schedule(TrainSettings(epochs=16, warm_up=0.25), 1)
    assert [share.factor(step) for step in range(6)] == pytest.approx(
        [0.25, 0.5, 0.75, 1.0, 1.0, math.cos(math.pi / 24) ** 2]
    )
    stages = Schedule(TrainSettings(schedule="stages", epochs=16, warm_up=2, patience=3), 2)
    assert [stages.factor(step) for step in range(6)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])
    for improved in (True, False, False, False):
        stages.update(improved)
    assert stages.factor(10) == pytest.approx(0.1)


def test_a_cosine_ends_after_epochs_without_a_better_validation(transfer, pool, monkeypatch):
    course = iter([50.0, 60.0, 60.0, 55.0, 70.0, 80.0])
    monkeypatch.setattr("tuition.training.distillation._validator", lambda *_: lambda student: next(course))
    run = distill("cnn_4", transfer, "kd", epochs=10, validation=pool[64:], stop_after=2)
    assert (run.epochs, run.best_epoch, run.validation) == (4, 3, 60.0), "60 again is no better, and of ties the later"
    rates = [row["learning_rate"] for row in run.history]
    steps = run.steps // 4
    expected = [0.05 * math.cos(math.pi * (epoch * steps - 1) / (20 * steps)) ** 2 for epoch in (1, 2, 3, 4)]
    assert rates == pytest.approx(expected), "of the length that was set"


# -- rates, clipping and weights of classes ----------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [0.5, 1e9])
def test_a_plain_loop_gives_the_same_weights(plain, clip):
    """SGD with warm-up, a head and layers with rates of their own, clipping, and weighted cross-entropy."""
    rate, head, decay, seed = 0.05, 0.2, 0.5, 3
    settings = {"warm_up": 1, "head_learning_rate": head, "layer_decay": decay, "clip_norm": clip}
    run = distill(
        net(), plain, "ce", epochs=2, batch_size=16, seed=seed, learning_rate=rate, class_weights="balanced", **settings
    )

    model = net().train()
    images = plain.pool.inputs.float() / 255
    inputs = (images - images.mean()) / images.std(correction=0)
    counts = [sum(1 for y in plain.labels.tolist() if y == k) for k in range(10)]
    weights = [64 / (10 * n) for n in counts]
    generator, velocity, clipped = torch.Generator().manual_seed(seed), {}, 0
    rates = {"stage1": rate * decay**3, "stage2": rate * decay**2, "stage3": rate * decay, "classifier": head}
    for step in range(8):
        if step % 4 == 0:
            batches = torch.randperm(64, generator=generator).tensor_split(4)
        rows = batches[step % 4]
        each = [weights[y] * -p[y] for p, y in zip(model(inputs[rows]).log_softmax(1), plain.labels[rows], strict=True)]
        model.zero_grad()
        (sum(each) / len(rows)).backward()
        norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in model.parameters()))
        clipped += norm > clip
        factor = (step + 1) / 4 if step < 4 else math.cos(math.pi * (step - 4) / 8) ** 2
        for name, p in model.named_parameters():
            gradient = p.grad * min(1.0, clip / norm) + 5e-4 * p.data
            velocity[name] = gradient if step == 0 else 0.9 * velocity[name] + gradient
            p.data -= factor * rates[name.partition(".")[0]] * velocity[name]
    assert clipped == (8 if clip < 1 else 0)
    for name, value in run.student.model.named_parameters():
        torch.testing.assert_close(
            value, model.state_dict()[name], rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_weights_of_classes_in_both_forms_of_targets():
    logits, labels, weights = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 2, 0]), torch.tensor([1.0, 3.0, 0.5])
    expected = sum(float(weights[y] * -logits[i].log_softmax(0)[y]) for i, y in enumerate(labels)) / 6
    for target in (labels, F.one_hot(labels, 3).float()):
        assert float(losses.cross_entropy(logits, target, weights)) == pytest.approx(expected, rel=1e-6)


def test_layers_are_numbered_siblings_of_one_class():
    class Blocks(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.blocks = nn.Linear(4, 4), nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
            self.head1 = nn.Linear(4, 4)

    model = Blocks()
    assert stack(model) == list(model.blocks)
    assert len(stack(net())) == 3
    with pytest.raises(UserError, match="no stack of layers"):
        stack(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, 2)))


# -- freezing ----------------------------------------------------------------------------------------------------------


def test_frozen_modules_keep_their_bits_and_are_free_afterwards(transfer):
    run = distill(net(), transfer, "kd", epochs=2, freeze=["stage1", "stage2.0"])
    before, after = net().state_dict(), run.student.model.state_dict()
    frozen = [name for name in before if name.startswith(("stage1.", "stage2.0."))]
    assert any("running_mean" in name for name in frozen)
    for name in before:
        assert torch.equal(before[name], after[name]) == (name in frozen), name
    assert all(p.requires_grad for p in run.student.parameters())
    alone = distill(net(), transfer, "kd", epochs=2, freeze="stage1")
    assert torch.equal(alone.student.model.stage1[0].weight, net().stage1[0].weight)


def test_the_head_alone(transfer):
    run = distill(net(), transfer, "kd", epochs=2, head_only=True)
    before, after = net().state_dict(), run.student.model.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        "classifier.weight",
        "classifier.bias",
    }


# -- precision ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["kd", "vid_ckd"])
def test_half_precision_is_of_the_forward_pass_alone(plain, method):
    answered, options = plain, {}
    if method == "vid_ckd":
        captured = models.forward_with_features(net(1).eval(), plain.pool.inputs.float() / 255, ["stage1", "stage2"])[1]
        answered = replace(plain, responses=plain.responses | {k: v.detach() for k, v in captured.items()})
        options = {"pairs": {"stage1": "stage1", "stage2": "stage2"}}
    full, auto, half = (
        distill(net(), answered, method, options=options, epochs=2, precision=precision, device="cpu")
        for precision in ("float32", "auto", "bf16")
    )
    assert same(full.student.state_dict(), auto.student.state_dict()), "auto is float32 on a CPU"
    assert not same(full.student.state_dict(), half.student.state_dict())
    for name, value in half.student.state_dict().items():
        assert value.dtype == full.student.state_dict()[name].dtype
    for a, b in zip(full.history, half.history, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=0.1)


def test_a_scaled_loss_is_unscaled_before_it_is_clipped(plain):
    """A power of two changes no bit; without unscaling every gradient would be clipped."""
    trained = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=2.0**10)):
        settings = TrainSettings()
        student = Student(net(), models.Preprocess.fit(plain.pool.inputs), input_shape=(1, 8, 8)).train()
        learner = Learner(student, Objective([Term("mse", lambda x, batch: F.mse_loss(x, batch.responses["logits"]))]))
        optimizer = make_optimizer(learner, settings, torch.device("cpu"))
        batch = Batch(plain.pool.inputs, torch.arange(64), plain.responses)
        take_step(learner, optimizer, batch, clip_norm=100.0, scaler=scaler)
        trained.append(student.state_dict())
    assert same(*trained)
    assert not same(net().state_dict(), student.model.state_dict())


# -- all of them, and a kill -------------------------------------------------------------------------------------------

left = [0]  # forward passes until a signal


class Interrupted(nn.Module):
    """Gets a signal in the forward passes of training that are counted down to 0."""

    def __init__(self):
        super().__init__()
        self.inner = net()

    def forward(self, inputs):
        if self.training and len(inputs) > 4:  # not the trial before the training
            left[0] -= 1
            if left[0] == 0:
                signal.raise_signal(signal.SIGINT)
        return self.inner(inputs)


def test_a_stopped_run_resumes_in_the_same_bits(transfer, pool, tmp_path):
    given = {
        "validation": pool[64:104],
        "epochs": 4,
        "batch_size": 16,
        "optimizer": "adamw",
        "learning_rate": 0.003,
        "warm_up": 1.5,
        "clip_norm": 0.5,
        "head_learning_rate": 0.01,
        "layer_decay": 0.7,
        "freeze": ["inner.stage1"],
        "precision": "bf16",
        "class_weights": "balanced",
        "stop_after": 3,
    }
    complete = distill(Interrupted(), transfer, "kd", out=tmp_path / "complete", **given)
    for passes in (3, 4):
        left[0] = passes
        with pytest.raises(KeyboardInterrupt):
            distill(Interrupted(), transfer, "kd", out=tmp_path / "parts", **given)
    state = files.load_checkpoint(tmp_path / "parts" / "checkpoint.bin")["state"]
    assert (state["epoch"], state["done"]) == (1, 3)
    run = distill(Interrupted(), transfer, "kd", out=tmp_path / "parts", **given)
    assert same(complete.student.state_dict(), run.student.state_dict())
    for name, value in net().stage1.state_dict().items():
        assert torch.equal(value, run.student.model.inner.stage1.state_dict()[name])


# -- what cannot be ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "settings", "sentence"),
    [
        ("kd", {"precision": "fp16", "device": "cpu"}, "fp16 needs a CUDA device, and this training runs on cpu"),
        ("kd", {"freeze": ["stag1"]}, "has no module 'stag1' (nearest: stage1,"),
        (
            "kd",
            {"freeze": ["stage1", "stage2", "stage3", "classifier"]},
            "freeze names all that the student could learn",
        ),
        ("kd", {"head_only": True, "freeze": ["classifier"]}, "freeze names all that the student could learn"),
        (
            "ckd_published",
            {"freeze": ["classifier"]},
            "ckd_published shifts the bias of classifier, which freeze holds",
        ),
        (
            "ckd",
            {"class_weights": "balanced"},
            "class_weights needs a cross-entropy on labels, which ckd does not have",
        ),
        ("kd", {"stop_after": 2}, "stop_after needs validation"),
        ("kd", {"stop_after": 2, "schedule": "stages"}, "leave stop_after out"),
        ("kd", {"warm_up": 3}, "a warm-up of 3 epochs is not shorter than the schedule of 3"),
        ("kd", {"precision": "half"}, "the setting precision cannot be 'half'"),
        ("kd", {"layer_decay": 1.5}, "the setting layer_decay cannot be 1.5"),
    ],
)
def test_one_sentence_about_what_cannot_be(transfer, method, settings, sentence):
    options = {"recentre": True} if "shifts" in sentence else {}
    with pytest.raises(UserError) as caught:
        distill("cnn_4", transfer, method, options=options, epochs=3, **settings)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_labels_to_weigh(transfer):
    unlabelled = replace(transfer, pool=transfer.pool.without_labels)
    with pytest.raises(UserError, match="class_weights needs a cross-entropy on labels"):
        distill("cnn_4", unlabelled, "kd", epochs=1, class_weights="balanced")
