"""Residual networks for CIFAR, He et al. 2016 (arXiv 1512.03385), with the 1x1 projection shortcut (option B)."""

import math

from torch import Tensor, nn
from torch.nn.functional import relu

from tuition.models.blocks import conv1x1, conv3x3, conv_bn_relu, initialise
from tuition.models.named import NamedModel


class BasicBlock(nn.Module):
    """conv-bn-relu-conv-bn plus the input, then relu; where the shape changes, the input passes a 1x1 conv and bn."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))

    def forward(self, inputs: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(relu(self.bn1(self.conv1(inputs)))))
        return relu(residual + (inputs if self.shortcut is None else self.shortcut(inputs)))


class ResNet(NamedModel):
    """ResNet of `depth` = 6 blocks + 2 layers: (n, in_channels, h, w) -> (n, num_classes).

    `widths`: channels of the stem and of the three stages.
    """

    def __init__(self, depth: int, widths: tuple[int, int, int, int], num_classes: int, in_channels: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.stem = conv_bn_relu(in_channels, widths[0])
        self.stage1 = _stage(widths[0], widths[1], blocks, stride=1)
        self.stage2 = _stage(widths[1], widths[2], blocks, stride=2)
        self.stage3 = _stage(widths[2], widths[3], blocks, stride=2)
        self.classifier = nn.Linear(widths[3], num_classes)
        initialise(self)

    def begin_as_repdistiller(self) -> None:
        bound = 1 / math.sqrt(self.classifier.in_features)  # of PyTorch's own bias
        nn.init.uniform_(self.classifier.bias, -bound, bound)

    def forward(self, inputs: Tensor) -> Tensor:
        maps: Tensor = self.stage3(self.stage2(self.stage1(self.stem(inputs))))
        return self.classifier(maps.mean((2, 3)))


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)))
