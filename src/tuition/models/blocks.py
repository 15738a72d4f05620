"""What the families share. No ReLU works in place, so that features captured anywhere stay what they were."""

from torch import Tensor, nn
from torch.nn.functional import max_pool2d


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=bias)


def conv1x1(in_channels: int, out_channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)


def conv_bn_relu(in_channels: int, out_channels: int, stride: int = 1, bias: bool = False) -> nn.Sequential:
    return nn.Sequential(conv3x3(in_channels, out_channels, stride, bias), nn.BatchNorm2d(out_channels), nn.ReLU())


def halve(maps: Tensor) -> Tensor:
    """2x2 max pooling. Rounding up keeps the border of odd sizes, and one pixel stays one pixel."""
    return max_pool2d(maps, 2, ceil_mode=True)


def initialise(model: nn.Module) -> None:
    """He et al. 2015 (arXiv 1502.01852; normal, fan-out) for convolutions; all biases of these and linear layers 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
