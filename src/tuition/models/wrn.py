"""Wide residual networks, Zagoruyko and Komodakis 2016 (arXiv 1605.07146), in the CIFAR form."""

from torch import Tensor, nn
from torch.nn.functional import relu

from tuition.models.blocks import conv1x1, conv3x3, initialise
from tuition.models.named import NamedModel


class PreActivationBlock(nn.Module):
    """bn-relu-conv twice, plus the input; where the shape changes, a 1x1 convolution of the activated input instead."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        changes = stride != 1 or in_channels != out_channels
        self.shortcut = conv1x1(in_channels, out_channels, stride) if changes else None

    def forward(self, inputs: Tensor) -> Tensor:
        active = relu(self.bn1(inputs))
        residual = self.conv2(relu(self.bn2(self.conv1(active))))
        return residual + (inputs if self.shortcut is None else self.shortcut(active))


class WideResNet(NamedModel):
    """WRN-`depth`-`width`, depth = 6 blocks + 4: (n, in_channels, h, w) -> (n, num_classes).

    Stage outputs are sums before batch norm and ReLU (pre-activation), of 16, 32 and 64 times `width` channels.
    """

    def __init__(self, depth: int, width: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        self.stem = conv3x3(in_channels, 16)
        self.stage1 = _stage(16, 16 * width, blocks, stride=1)
        self.stage2 = _stage(16 * width, 32 * width, blocks, stride=2)
        self.stage3 = _stage(32 * width, 64 * width, blocks, stride=2)
        self.bn = nn.BatchNorm2d(64 * width)
        self.classifier = nn.Linear(64 * width, num_classes)
        initialise(self)

    def forward(self, inputs: Tensor) -> Tensor:
        maps = self.stage3(self.stage2(self.stage1(self.stem(inputs))))
        return self.classifier(relu(self.bn(maps)).mean((2, 3)))


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = PreActivationBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(PreActivationBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)))
