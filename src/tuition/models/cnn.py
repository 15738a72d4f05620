"""Small nets for small inputs: `cnn_W` for images, `mlp_W` for vectors."""

from torch import Tensor, nn

from tuition.models.blocks import conv_bn_relu, halve, initialise
from tuition.models.named import NamedModel


class CNN(NamedModel):
    """Three 3x3 convolutions with batch norm, of `width`, 2 `width` and 4 `width` channels, with 2x2 pooling between.

    (n, in_channels, h, w) -> (n, num_classes). Stage outputs are taken before the pooling.
    """

    def __init__(self, width: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.stage1 = conv_bn_relu(in_channels, width)
        self.stage2 = conv_bn_relu(width, 2 * width)
        self.stage3 = conv_bn_relu(2 * width, 4 * width)
        self.classifier = nn.Linear(4 * width, num_classes)
        initialise(self)

    def forward(self, inputs: Tensor) -> Tensor:
        maps: Tensor = self.stage3(halve(self.stage2(halve(self.stage1(inputs)))))
        return self.classifier(maps.mean((2, 3)))


class MLP(NamedModel):
    """Two hidden layers of `width` units with batch norm: (n, in_features) -> (n, num_classes)."""

    def __init__(self, width: int, num_classes: int, in_features: int) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Linear(in_features, width), nn.BatchNorm1d(width), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU())
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.classifier(self.stage2(self.stage1(inputs)))
