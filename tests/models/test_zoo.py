import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import conv2d, cross_entropy, relu
from torch.utils.flop_counter import FlopCounterMode

from tuition import models
from tuition.errors import UserError

# Counts at 3x32x32 and 100 classes, as published for this family (Tian et al. 2020).
COUNTS = {
    "vgg8": 3_965_028,
    "vgg13": 9_462_180,
    "wrn_16_2": 703_284,
    "wrn_40_2": 2_255_156,
    "resnet32": 472_756,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
}
# Published multiply-adds in millions at 32x32, which depend on where the strides are. VGG-16's are the usual 313 with
# its last three layers at 4x4 instead of 2x2: 3 * 12 * 9 * 512 * 512 = 85 more.
MULTIPLY_ADDS = {"resnet20": 41, "resnet56": 126, "resnet110": 255, "wrn_40_2": 328, "wrn_28_10": 5_245, "vgg16": 398}
SMALL = ["cnn_4", "wrn_10_1", "resnet8", "vgg8"]


def on_meta(name, **arguments):
    with torch.device("meta"):
        return models.create(name, **arguments).eval()


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_parameter_counts(name, count):
    assert models.num_parameters(on_meta(name, num_classes=100)) == count


@pytest.mark.parametrize("name", ["vgg8", "vgg11", "vgg13", "vgg16", "vgg19"])
@pytest.mark.parametrize(("channels", "classes"), [(1, 7), (3, 100)])
def test_vgg_counts_in_closed_form(name, channels, classes):
    repeats = {
        "vgg8": [1] * 5,
        "vgg11": [1, 1, 2, 2, 2],
        "vgg13": [2] * 5,
        "vgg16": [2, 2, 3, 3, 3],
        "vgg19": [2, 2, 4, 4, 4],
    }
    total, before = 512 * classes + classes, channels
    for width, count in zip([64, 128, 256, 512, 512], repeats[name], strict=True):
        for _ in range(count):
            total += 9 * before * width + width + 2 * width  # kernel, bias, scale and shift
            before = width
    assert models.num_parameters(on_meta(name, num_classes=classes, in_channels=channels)) == total


@pytest.mark.parametrize(("depth", "widths"), [(8, 1), (14, 1), (20, 1), (44, 1), (56, 1), (8, 4), (32, 4)])
def test_resnet_counts_in_closed_form(depth, widths):
    stem, stages = (16, [16, 32, 64]) if widths == 1 else (32, [64, 128, 256])
    total, before = 9 * 3 * stem + 2 * stem + stages[-1] * 10 + 10, stem
    for width in stages:
        for block in range((depth - 2) // 6):
            total += 9 * before * width + 9 * width * width + 4 * width
            if block == 0 and before != width:
                total += before * width + 2 * width
            before = width
    name = f"resnet{depth}" + ("x4" if widths == 4 else "")
    assert models.num_parameters(on_meta(name, num_classes=10)) == total


@pytest.mark.parametrize(("name", "millions"), MULTIPLY_ADDS.items())
def test_multiply_adds(name, millions):
    model = on_meta(name, num_classes=10)
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, 32, 32, device="meta"))
    assert counter.get_total_flops() / 2e6 == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize("name", ["vgg13", "vgg19", "resnet20", "resnet56", "resnet8x4", "wrn_16_2", "wrn_40_1"])
def test_depth_is_the_number_of_layers_with_weights(name):
    model = on_meta(name, num_classes=10)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    spatial = sum(conv.kernel_size == (3, 3) for conv in convolutions)
    if name.startswith("vgg"):
        assert spatial + 3 == int(name[3:])  # the papers' three linear layers, of which one is left here
        assert all(conv.bias is not None for conv in convolutions)
    else:
        depth = int(name.removesuffix("x4").removeprefix("resnet")) if "resnet" in name else int(name.split("_")[1])
        assert spatial == (depth - 1 if "resnet" in name else depth - 3)
        assert all(conv.bias is None for conv in convolutions)


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("wrn_40_2", [(32, 32), (64, 16), (128, 8)]),
        ("resnet32", [(16, 32), (32, 16), (64, 8)]),
        ("resnet8x4", [(64, 32), (128, 16), (256, 8)]),
        ("vgg13", [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)]),
        ("vgg8", [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)]),
        ("cnn_8", [(8, 32), (16, 16), (32, 8)]),
    ],
)
def test_stages_pair_naturally(name, shapes):
    model = on_meta(name, num_classes=10)
    paths = models.stages(model)
    assert paths == models.stages(name) == [f"stage{i + 1}" for i in range(len(shapes))]
    _, maps = models.forward_with_features(model, torch.empty(2, 3, 32, 32, device="meta"), paths)
    assert [tuple(maps[path].shape) for path in paths] == [(2, channels, side, side) for channels, side in shapes]


def test_vgg_pools_once_more_at_64():
    model = on_meta("vgg8", num_classes=10)
    for side, last in [(8, 1), (32, 4), (56, 7), (64, 4)]:
        _, maps = models.forward_with_features(model, torch.empty(1, 3, side, side, device="meta"), ["stage5"])
        assert maps["stage5"].shape[-2:] == (last, last)


def test_wrn_block_is_pre_activation():
    stage = models.create("wrn_16_2", num_classes=10, seed=0).eval().stage2
    first, second = stage
    inputs = torch.randn(2, 32, 9, 7, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for block in stage:
            block.bn1.running_mean.uniform_(-1, 1, generator=torch.Generator().manual_seed(2))
            block.conv2.weight.zero_()
        active = relu((inputs - first.bn1.running_mean[:, None, None]) / (1 + 1e-5) ** 0.5)
        projected = conv2d(active, first.shortcut.weight, stride=2)
        torch.testing.assert_close(first(inputs), projected)  # the shortcut reads the activated input
        assert torch.equal(second(projected), projected)  # and what is passed on is not rectified
        assert (projected < 0).any()


def test_resnet_block_rectifies_the_sum():
    stage = models.create("resnet14", num_classes=10, seed=0).eval().stage2
    first, second = stage
    inputs = torch.randn(2, 16, 9, 7, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for block in stage:
            block.bn2.weight.zero_()
        projected = conv2d(inputs, first.shortcut[0].weight, stride=2) / (1 + 1e-5) ** 0.5
        torch.testing.assert_close(first(inputs), projected.clamp(min=0))
        assert torch.equal(second(projected), projected.clamp(min=0))


def test_convolutions_start_with_unit_gain_backwards():
    model = models.create("wrn_16_4", num_classes=10, seed=0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5_000:
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


@settings(max_examples=12, deadline=None)
@given(st.data())
@pytest.mark.parametrize("name", SMALL)
def test_any_size_channels_and_classes(name, data):
    height, width = data.draw(st.integers(8, 40)), data.draw(st.integers(8, 40))
    channels, classes, rows = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 30)), data.draw(st.integers(2, 3))
    model = models.create(name, num_classes=classes, in_channels=channels, seed=0)
    logits = model(torch.randn(rows, channels, height, width, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (rows, classes)
    assert logits.isfinite().all()
    logits.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("size", [(8, 8), (9, 13), (56, 56), (64, 64)])
@pytest.mark.parametrize("name", ["cnn_32", "vgg13", "wrn_40_2", "resnet110", "resnet32x4"])
def test_sizes_of_the_data_sets(name, size):
    with torch.inference_mode():
        assert models.create(name, num_classes=196, seed=0).eval()(torch.zeros(1, 3, *size)).shape == (1, 196)


@pytest.mark.parametrize("name", [*SMALL, "mlp_16", "resnet8x4"])
def test_a_few_steps_lower_the_loss(name):
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(16, 5, generator=random) if "mlp" in name else torch.randn(16, 5, 8, 8, generator=random)
    labels = torch.arange(16) % 4
    model = models.create(name, num_classes=4, in_channels=5, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    losses = []
    for _ in range(20):
        loss = cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_seed_alone_decides_the_weights():
    torch.manual_seed(5)  # the caller's state must neither matter nor move
    before = torch.get_rng_state()
    first = models.create("cnn_4", num_classes=3, seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again = models.create("cnn_4", num_classes=3, seed=1).state_dict()
    other = models.create("cnn_4", num_classes=3, seed=2).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["stage1.0.weight"], other["stage1.0.weight"])


def test_recipe_makes_the_same_architecture():
    model = models.create("wrn_10_1", num_classes=3, in_channels=2)
    models.create(**model.recipe).load_state_dict(model.state_dict())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("wnr_16_2", "nearest: wrn_16_2"),
        ("VGG-13", "vgg13"),
        ("resnet33", "resnet32"),
        ("wrn_17_2", "6 n \\+ 4"),
        ("wrn_4_2", "'wrn_4_2' is not a model"),
        ("cnn_0", "cnn_W"),
        ("cnn_8\n", "is not a model"),
        ("", "is not a model"),
        ("a b:c", "is not a model"),
        ("no.such.module:make", "PYTHONPATH"),
        ("math:sqrt", "part of Python"),
        ("their_models:fixd", "nearest: fixed"),
        ("their_models:SIZE", "no function"),
        ("their_models:demanding", "more than num_classes"),
        ("their_models:words", "returned str"),
    ],
)
def test_bad_names(name, says, tmp_path, monkeypatch):
    (tmp_path / "their_models.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their_models", raising=False)
    with pytest.raises(UserError, match=says):
        models.create(name, num_classes=3)


def test_bad_numbers():
    with pytest.raises(UserError, match="at least one class"):
        models.create("cnn_4", num_classes=0)
    with pytest.raises(UserError, match="at least one"):
        models.create("cnn_4", num_classes=2, in_channels=0)
    with pytest.raises(UserError, match="has no setting pretrained"):
        models.create("cnn_4", num_classes=2, pretrained=True)


def test_every_family_listed_exists():
    listed = models.available()
    for name in ["cnn_8", "mlp_64", "wrn_16_2", "vgg19", "resnet8x4"]:
        assert any(name in sentence for sentence in listed.values())
        on_meta(name, num_classes=2)


FACTORIES = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes=2, in_channels=3, extra=None):
        super().__init__()
        self.head = nn.Linear(in_channels, num_classes)

def fixed():
    return nn.Linear(4, 5)

def everything(**options):
    assert options == {"num_classes": 7, "in_channels": 6}
    return Net(**options)

def classes_only(num_classes):
    return nn.Linear(4, num_classes)

SIZE = 8

def words():
    return "a model"

def demanding(num_classes, depth):
    raise AssertionError("must not be called")
"""


def test_factories_of_the_user(tmp_path, monkeypatch):
    (tmp_path / "their_models.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their_models", raising=False)
    for factory, shape in [("Net", (7, 6)), ("fixed", (5, 4)), ("everything", (7, 6)), ("classes_only", (7, 4))]:
        model = models.create(f"their_models:{factory}", num_classes=7, in_channels=6, seed=0)
        assert next(model.parameters()).shape == shape
    with pytest.raises(UserError, match="depth"):
        models.create("their_models:demanding", num_classes=7)


def test_timm_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"tuition\[timm\]"):
        models.create("timm:resnet18", num_classes=3)


def test_timm():
    try:
        import timm  # noqa: F401
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm does not import here: {error}")
    model = models.create("timm:resnet10t", num_classes=7, in_channels=1, seed=0).eval()
    inputs = torch.randn(2, 1, 64, 48, generator=torch.Generator().manual_seed(0))
    penultimate = models.classifier(model) + ":input"
    with torch.no_grad():
        logits, captured = models.forward_with_features(model, inputs, ["layer2", penultimate])
        torch.testing.assert_close(
            captured["layer2"], model.layer2(model.layer1(model.maxpool(model.act1(model.bn1(model.conv1(inputs))))))
        )
        torch.testing.assert_close(model.fc(captured[penultimate]), logits)
    assert logits.shape == (2, 7)
    assert models.describe(model, (1, 64, 48))[-1] == ("fc", "Linear", (1, 7), 512 * 7 + 7)
    with pytest.raises(UserError, match=r"nearest: .*resnet18"):
        models.create("timm:resnet188", num_classes=7)
    with pytest.raises(UserError, match="cannot make"):
        models.create("timm:resnet18.no_such_tag", num_classes=7, pretrained=True)
