"""VGG, Simonyan and Zisserman 2015 (arXiv 1409.1556), for small images: batch norm and one linear layer.

The form of the distillation literature (Tian et al. 2020, arXiv 1910.10699): convolutions keep their biases, and the
last two stages share one resolution at 32 pixels.
"""

from torch import Tensor, nn

from tuition.models.blocks import conv_bn_relu, halve, initialise
from tuition.models.named import NamedModel


class VGG(NamedModel):
    """Five stages of `convolutions[i]` 3x3 convolutions each: (n, in_channels, h, w) -> (n, num_classes).

    The maps are halved after each of the first three stages, and after the fourth where they still measure 8 or more
    (inputs above 56). Stage outputs are taken before the pooling.
    """

    def __init__(self, convolutions: tuple[int, int, int, int, int], num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.stage1 = _stage(in_channels, 64, convolutions[0])
        self.stage2 = _stage(64, 128, convolutions[1])
        self.stage3 = _stage(128, 256, convolutions[2])
        self.stage4 = _stage(256, 512, convolutions[3])
        self.stage5 = _stage(512, 512, convolutions[4])
        self.classifier = nn.Linear(512, num_classes)
        initialise(self)

    def begin_as_repdistiller(self) -> None:
        nn.init.normal_(self.classifier.weight, std=0.01)

    def forward(self, inputs: Tensor) -> Tensor:
        maps = halve(self.stage3(halve(self.stage2(halve(self.stage1(inputs))))))
        maps = self.stage4(maps)
        if min(maps.shape[-2:]) >= 8:
            maps = halve(maps)
        return self.classifier(self.stage5(maps).mean((2, 3)))


def _stage(in_channels: int, out_channels: int, convolutions: int) -> nn.Sequential:
    first = conv_bn_relu(in_channels, out_channels, bias=True)
    return nn.Sequential(first, *(conv_bn_relu(out_channels, out_channels, bias=True) for _ in range(convolutions - 1)))
