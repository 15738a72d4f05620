"""The average of a student against a naive one, and where it stands in for the student."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tuition import UserError, distill, models
from tuition.training import Objective, Student, Term, TrainSettings
from tuition.training.average import Average
from tuition.training.batches import Batches
from tuition.training.callbacks import Shown
from tuition.training.loop import train


def recorded(seen):
    """An objective that notes the student's state when its loss is computed."""

    def loss(student, teacher, labels):
        seen.append(copy.deepcopy(seen.model.state_dict()))
        return F.mse_loss(student, teacher)

    return loss


class Seen(list):
    """States, of the model that reports them."""

    model = None


class Reporting(nn.Module):
    """A small net with batch norm that is found again where it was copied."""

    def __init__(self, seen):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
        self.seen = [seen]

    def __deepcopy__(self, memo):
        twin = Reporting(self.seen[0])
        twin.load_state_dict(self.state_dict())
        return twin

    def forward(self, inputs):
        if self.training:
            self.seen[0].model = self
        return self.layers(inputs)


def test_the_average_is_that_of_a_naive_loop(transfer):
    given = {"seed": 1, "epochs": 3, "batch_size": 16, "learning_rate": 0.02}
    torch.manual_seed(0)
    seen = Seen()
    net = Reporting(seen)
    last = distill(net, transfer, recorded(seen), **given).student.model.state_dict()
    states = [*seen[-12:], last]
    kept = distill(net, transfer, recorded(seen), average=0.5, **given).student.model.state_dict()
    expected = {name: value.double() for name, value in net.state_dict().items()}
    for step in range(12):
        decay = min(0.5, (1 + step) / (10 + step))
        for name, value in expected.items():
            # Batch norm has seen the step's batch when the loss is computed; weights change after it.
            now = (states[step] if "running" in name else states[step + 1])[name].double()
            expected[name] = decay * value + (1 - decay) * now
    for name, value in kept.items():
        if name.endswith("tracked"):
            assert int(value) == 12
        else:
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-7)
            assert not torch.equal(value, last[name]), name


def whole(model, transfer):
    return Student(model, models.Preprocess.fit(transfer.pool.inputs), input_shape=(1, 8, 8))


def test_validation_best_and_last_are_the_average_and_a_stage_begins_with_it(plain):
    student = whole(models.create("cnn_4", num_classes=10, in_channels=1, seed=0), plain)
    measured, begun, course = [], [], iter([50.0, 10.0, 20.0, 30.0])

    def loss(logits, batch):
        if len(begun) == len(measured):
            begun.append(copy.deepcopy(student.state_dict()))
        return F.mse_loss(logits, batch.responses["logits"])

    def validate(shown):
        assert shown is not student
        assert not shown.training
        measured.append(copy.deepcopy(shown.state_dict()))
        return next(course)

    objective = Objective([Term("mse", loss)])
    settings = TrainSettings(schedule="stages", patience=2, epochs=4, batch_size=32, average=0.9)
    generator = torch.Generator().manual_seed(0)
    fixed = {"augment": None, "num_classes": 10, "device": torch.device("cpu"), "generator": generator}
    batches = Batches(plain, objective, batch_size=32, **fixed)
    state, best = train(student, objective, batches, settings, validate=validate)
    assert (state.best_epoch, state.epoch) == (1, 4)
    assert all(torch.equal(value, measured[0][name]) for name, value in best.items())
    assert all(torch.equal(value, measured[3][name]) for name, value in student.state_dict().items())
    weights = [name for name, _ in student.named_parameters()]
    assert all(torch.equal(begun[3][name], measured[0][name]) for name in weights), "the first stage's best"
    assert not any(torch.equal(begun[1][name], measured[0][name]) for name in weights)


@pytest.mark.parametrize("settings", [{}, {"schedule": "stages", "patience": 1, "precision": "bf16"}])
def test_a_stopped_run_resumes_in_the_same_bits(pool, transfer, tmp_path, settings):
    def stop(done, epochs, figures):
        if done == 2:
            raise KeyboardInterrupt

    given = {"student": "cnn_4", "transfer": transfer, "validation": pool[64:104], "batch_size": 16, "epochs": 4}
    given |= {"average": 0.9, **settings}
    straight = distill(**given, out=tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        distill(**given, out=tmp_path / "stopped", callbacks=[Shown(stop, given["epochs"])])
    resumed = distill(**given, out=tmp_path / "stopped")
    for name, value in straight.student.state_dict().items():
        assert torch.equal(value, resumed.student.state_dict()[name]), name
    timeless = [[{**row, "seconds": 0} for row in run.history] for run in (straight, resumed)]
    assert timeless[0] == timeless[1]
    with pytest.raises(UserError, match=r"average: 0\.9 there, 0\.0 now"):
        distill(**given | {"average": 0.0}, out=tmp_path / "stopped")


def test_frozen_parts_stay(transfer):
    net = models.create("cnn_4", num_classes=10, in_channels=1, seed=0)
    before = copy.deepcopy(net.state_dict())
    after = distill(net, transfer, "ckd", epochs=2, average=0.9, freeze="stage1").student.model.state_dict()
    assert any("running" in name for name in after)
    for name, value in after.items():
        assert torch.equal(value, before[name]) == name.startswith("stage1"), name


def test_shared_weights_are_averaged_once(transfer):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, 10))
    net[3].weight = net[1].weight
    student = whole(net, transfer)
    average = Average(student, 0.9)
    before = net[1].weight.detach().clone()
    with torch.no_grad():
        net[1].weight.add_(1.0)
    average.update(0)
    torch.testing.assert_close(average.student.model[1].weight, before + 0.9)
    assert average.student.model[3].weight is average.student.model[1].weight


def test_targets_are_of_the_batch_s_statistics_unless_the_student_s_are_frozen(transfer):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, 10))
    student = whole(net, transfer)
    average = Average(student.train(), 0.9)
    before, images = copy.deepcopy(average.student.state_dict()), transfer.pool.inputs[:16]
    read = student.preprocess(images).flatten(1)
    normal = (read - read.mean(0)) / (read.var(0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(average.outputs(images), net[3](normal).detach(), rtol=1e-4, atol=1e-5)
    plain = average.student(images)
    torch.testing.assert_close(plain, net[3](read / (1 + 1e-5) ** 0.5).detach(), rtol=1e-4, atol=1e-5)
    net[1].eval()
    assert torch.equal(average.outputs(images), plain)
    after = average.student.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items()), "statistics are not touched"
    assert not any(module.training for module in average.student.modules())


def test_a_decay_is_below_1():
    with pytest.raises(UserError, match="average cannot be 1"):
        TrainSettings.of({"average": 1.0})
