import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import max_pool2d

from tuition import models
from tuition.errors import UserError


@pytest.fixture
def net():
    return models.create("cnn_4", num_classes=3, in_channels=2, seed=0).eval()


@pytest.fixture
def inputs():
    return torch.randn(5, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_equals_the_computation_by_hand(net, inputs):
    paths = ["stage1.0", "stage2", "stage3:input", "classifier:input", "classifier"]
    logits, captured = models.forward_with_features(net, inputs, paths)
    first = net.stage1(inputs)
    second = net.stage2(max_pool2d(first, 2))
    penultimate = net.stage3(max_pool2d(second, 2)).flatten(2).mean(2)
    assert list(captured) == paths
    torch.testing.assert_close(captured["stage1.0"], net.stage1[0](inputs))
    torch.testing.assert_close(captured["stage2"], second)
    torch.testing.assert_close(captured["stage3:input"], max_pool2d(second, 2))
    torch.testing.assert_close(captured["classifier:input"], penultimate)
    torch.testing.assert_close(captured["classifier"], logits)
    torch.testing.assert_close(logits, penultimate @ net.classifier.weight.T + net.classifier.bias)


def test_gradients_pass_through(net, inputs):
    _, captured = models.forward_with_features(net, inputs, ["stage2"])
    captured["stage2"].square().sum().backward()
    got = net.stage1[0].weight.grad.clone()
    net.zero_grad()
    net.stage2(max_pool2d(net.stage1(inputs), 2)).square().sum().backward()
    torch.testing.assert_close(got, net.stage1[0].weight.grad)
    assert net.stage3[0].weight.grad is None


def test_a_relu_in_place_changes_nothing_captured(inputs):
    net = nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(inplace=True))
    outputs, captured = models.forward_with_features(net, inputs, ["0"])
    torch.testing.assert_close(captured["0"], net[0](inputs))
    assert (captured["0"] < 0).any()
    assert (outputs >= 0).all()


def test_hooks_only_while_asked(net, inputs):
    assert hooks(net) == 0
    with models.Capture(net, []):
        assert hooks(net) == 0
    with models.Capture(net, ["stage1", "stage2:input"]) as outer:
        with models.Capture(net, ["stage1"]) as inner:
            net(inputs)
            assert torch.equal(inner["stage1"], outer["stage1"])
        assert hooks(net) == 3
        with pytest.raises(RuntimeError, match="already in use"), outer:
            pass
        assert hooks(net) == 3
    assert hooks(net) == 0
    with pytest.raises(RuntimeError), models.Capture(net, ["stage1"]):
        net(torch.zeros(1, 9, 8, 8))  # nine channels for a model of two
    assert hooks(net) == 0
    with outer:  # may be used again
        net(inputs[:2])
        assert len(outer["stage1"]) == 2


def test_values_are_those_of_the_last_forward(inputs):
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.always, self.rarely = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, maps, rarely):
            maps = self.always(maps)
            return self.rarely(maps) if rarely else maps

    net = Sometimes()
    with models.Capture(net, ["always", "rarely"]) as captured:
        net(inputs, rarely=True)
        assert set(captured) == {"always", "rarely"}
        net(inputs[:2], rarely=False)
        assert len(captured["always"]) == 2
        with pytest.raises(UserError, match="did not run"):
            captured["rarely"]


def test_outputs_that_are_no_tensor(inputs):
    recurrent = nn.Sequential(nn.LSTM(2, 3))
    with models.Capture(recurrent, ["0", "0:input"]) as captured:
        recurrent(torch.zeros(4, 2))
        assert captured["0:input"].shape == (4, 2)
        with pytest.raises(UserError, match="not a single tensor"):
            captured["0"]


def test_unknown_paths(net):
    with pytest.raises(UserError, match=r"'stage9' \(nearest: stage\d, stage\d, stage\d\)"):
        models.Capture(net, ["stage1", "stage9"])
    with pytest.raises(UserError, match=r"no module 'clasifier' .*classifier"):
        models.Capture(net, ["clasifier:input"])


def test_model_can_be_copied_meanwhile(net, inputs):
    with models.Capture(net, ["stage1"]):
        net(inputs)
        copied = copy.deepcopy(net)
    torch.testing.assert_close(copied(inputs), net(inputs))


def test_stages_and_classifier_elsewhere(net):
    wrapped = nn.Sequential(models.Preprocess([0, 0], [1, 1]), net)
    assert models.stages(wrapped) == ["1.stage1", "1.stage2", "1.stage3"]
    assert models.classifier(wrapped) == "1.classifier"
    assert models.classifier(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4), nn.Softmax(1))) == "2"
    with pytest.raises(UserError, match="no linear layer"):
        models.classifier(nn.Conv2d(1, 1, 1))
    with pytest.raises(UserError, match="name its layers"):
        models.stages(nn.Linear(2, 2))


@pytest.mark.parametrize("name", ["cnn_4", "mlp_8", "vgg8", "wrn_10_1", "resnet8", "resnet8x4"])
def test_every_model_ends_in_its_classifier(name):
    assert models.classifier(models.create(name, num_classes=3)) == "classifier"
    assert models.stages(name)[0] == "stage1"


def test_describe():
    model = nn.Sequential(models.create("cnn_8", num_classes=10, in_channels=1), nn.Identity())
    model[0].stage2.eval()
    training = [module.training for module in model.modules()]
    statistics = model[0].stage1[1].running_mean.clone()
    rows = {row.path: row for row in models.describe(model, (1, 8, 8))}
    assert list(rows) == [path for path, _ in model.named_modules() if path]
    assert rows["0.stage2.0"] == ("0.stage2.0", "Conv2d", (1, 16, 4, 4), 9 * 8 * 16)
    assert rows["0.stage2"] == ("0.stage2", "Sequential", (1, 16, 4, 4), 9 * 8 * 16 + 32)
    assert rows["0.classifier"] == ("0.classifier", "Linear", (1, 10), 330)
    assert rows["0"].parameters == models.num_parameters(model) == 88 + 1184 + 4672 + 330
    assert rows["1"].shape == (1, 10)
    assert [module.training for module in model.modules()] == training
    assert torch.equal(model[0].stage1[1].running_mean, statistics)
    assert hooks(model) == 0


def test_describe_what_does_not_run_or_fit():
    model = nn.ModuleDict({"used": nn.Linear(2, 3)})
    model.forward = lambda inputs: model["used"](inputs)
    model["spare"] = nn.LSTM(2, 2)
    assert [(row.path, row.shape) for row in models.describe(model, (2,))] == [("used", (1, 3)), ("spare", None)]
    with pytest.raises(UserError, match=r"does not take inputs of shape \(7,\)"):
        models.describe(model, (7,))
    assert hooks(model) == 0
    assert model.training
