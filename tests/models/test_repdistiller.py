"""Checkpoints of RepDistiller: logits equal to those of nets with its module names, written from the papers."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tuition
from tuition.errors import UserError
from tuition.models.repdistiller import load_repdistiller


class PlainBlock(nn.Module):
    """He et al. 2016: conv-bn-relu-conv-bn plus the input."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
        self.downsample = None
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class TheirResNet(nn.Module):
    def __init__(self, blocks: int, widths: list[int], classes: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0])
        for i in (1, 2, 3):
            first = PlainBlock(widths[i - 1], widths[i], 1 if i == 1 else 2)
            rest = [PlainBlock(widths[i], widths[i], 1) for _ in range(blocks - 1)]
            self.add_module(f"layer{i}", nn.Sequential(first, *rest))
        self.fc = nn.Linear(widths[3], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for name in ("layer1", "layer2", "layer3"):
            x = self.get_submodule(name)(x)
        return self.fc(F.avg_pool2d(x, 8).flatten(1))


class WideBlock(nn.Module):
    """Zagoruyko and Komodakis 2016: bn-relu-conv twice; a shortcut reads the activated input."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(before), nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(after), nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.convShortcut = None if before == after else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out + (x if self.convShortcut is None else self.convShortcut(active))


class WideGroup(nn.Module):
    def __init__(self, blocks: int, before: int, after: int, stride: int) -> None:
        super().__init__()
        rest = [WideBlock(after, after, 1) for _ in range(blocks - 1)]
        self.layer = nn.Sequential(WideBlock(before, after, stride), *rest)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class TheirWRN(nn.Module):
    def __init__(self, blocks: int, width: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.block1 = WideGroup(blocks, 16, 16 * width, 1)
        self.block2 = WideGroup(blocks, 16 * width, 32 * width, 2)
        self.block3 = WideGroup(blocks, 32 * width, 64 * width, 2)
        self.bn1, self.fc = nn.BatchNorm2d(64 * width), nn.Linear(64 * width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.avg_pool2d(F.relu(self.bn1(x)), 8).flatten(1))


class TheirVGG(nn.Module):
    """A block ends in its batch norm; the ReLU after it, and the pooling, have no names."""

    def __init__(self, convolutions: list[int], classes: int) -> None:
        super().__init__()
        before = 3
        for i, (count, width) in enumerate(zip(convolutions, (64, 128, 256, 512, 512), strict=True)):
            layers = []
            for _ in range(count):
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                before = width
            self.add_module(f"block{i}", nn.Sequential(*layers[:-1]))
        self.classifier = nn.Linear(512, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i in range(5):
            x = F.relu(self.get_submodule(f"block{i}")(x))
            x = F.max_pool2d(x, 2) if i < 3 else x
        return self.classifier(x.mean((2, 3)))


NETS = {
    "resnet8x4": lambda: TheirResNet(1, [32, 64, 128, 256], 5),
    "resnet14": lambda: TheirResNet(2, [16, 16, 32, 64], 5),
    "wrn_16_1": lambda: TheirWRN(2, 1, 5),
    "wrn_16_2": lambda: TheirWRN(2, 2, 5),
    "vgg8": lambda: TheirVGG([1, 1, 1, 1, 1], 5),
    "vgg13": lambda: TheirVGG([2, 2, 2, 2, 2], 5),
}


def trained(name: str) -> nn.Module:
    """A net of theirs whose statistics and scales are not those of a new one."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(1)
        net = NETS[name]()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
                nn.init.normal_(module.running_mean, std=0.2)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.eval()


def images() -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def same(ours: nn.Module, theirs: nn.Module) -> None:
    inputs = images().float() / 255
    with torch.no_grad():
        torch.testing.assert_close(ours(inputs), theirs(inputs), atol=1e-5, rtol=0)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", NETS)
def test_logits_are_equal(name, prefix, tmp_path):
    net = trained(name)
    state = {prefix + key: value for key, value in net.state_dict().items()}
    torch.save({"epoch": 240, "model": state, "best_acc": torch.tensor(75.6)}, tmp_path / "ckpt.pth")
    inputs = images().float() / 255
    with torch.no_grad():
        torch.testing.assert_close(
            load_repdistiller(tmp_path / "ckpt.pth", name)(inputs), net(inputs), atol=1e-5, rtol=0
        )


def test_files_before_batches_were_counted(tmp_path):
    net = trained("wrn_16_1")
    state = {key: value for key, value in net.state_dict().items() if "num_batches" not in key}
    torch.save(state, tmp_path / "old.pth")
    inputs = images().float() / 255
    with torch.no_grad():
        torch.testing.assert_close(
            load_repdistiller(tmp_path / "old.pth", "wrn_16_1")(inputs), net(inputs), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize(
    ("name", "message"), [("wrn_16_2", "is for another model"), ("vgg8", "has no weights of a vgg8")]
)
def test_another_architecture_is_a_sentence(name, message, tmp_path):
    torch.save({"model": trained("wrn_16_1").state_dict()}, tmp_path / "ckpt.pth")
    with pytest.raises(UserError, match=message):
        load_repdistiller(tmp_path / "ckpt.pth", name)


def test_code_in_a_file_is_not_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"model": trained("wrn_16_1").state_dict(), "opt": Harmful()}, tmp_path / "ckpt.pth")
    with pytest.raises(UserError, match="holds no weights that can be read"):
        load_repdistiller(tmp_path / "ckpt.pth", "wrn_16_1")
    assert not (tmp_path / "ran").exists()


def test_the_command_makes_a_teacher(tmp_path, monkeypatch):
    from tuition.cli import main as cli
    from tuition.pipeline.teacher import find_teacher

    monkeypatch.chdir(tmp_path)
    net = trained("resnet14")
    torch.save({"model": net.state_dict()}, "ckpt.pth")
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\ne\n")
    command = "tuition import-teacher ckpt.pth --model resnet14 --out teachers/x --class-names names.txt"
    monkeypatch.setattr("sys.argv", command.split())
    assert cli.main() == 0
    teacher = find_teacher("teachers/x")
    mean, std = torch.tensor([0.5071, 0.4867, 0.4408]), torch.tensor([0.2675, 0.2565, 0.2761])
    normal = (images().float() / 255 - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        torch.testing.assert_close(teacher(images())["logits"], net(normal), atol=1e-5, rtol=0)
    assert teacher.class_names == tuple("abcde")
    assert tuition.load("teachers/x").input_shape == (3, 32, 32)
    assert json.loads((tmp_path / "teachers/x/run.json").read_text())["settings"]["imported"] == "ckpt.pth"
    assert cli.main() == 0, "again, in the same folder"
    monkeypatch.setattr("sys.argv", [*command.split(), "--mean", "0.5;0.5"])
    assert cli.main() == 2
