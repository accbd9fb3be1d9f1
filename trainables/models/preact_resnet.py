"""Pre-activation residual networks (He et al., 2016, "Identity mappings"), as SAP uses them."""

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F

from trainables.models.shape import Shape


class PreactBlock(nn.Module):
    """BatchNorm, ReLU and 3x3 convolution, twice, around a shortcut.

    Where the shape changes the shortcut is a 1x1 convolution of the first *activated* input.
    Maps [N, inputs, H, W] to [N, outputs, H / stride, W / stride].
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = (
            nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            if stride != 1 or inputs != outputs
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        return self.conv2(F.relu(self.norm2(self.conv1(activated)))) + shortcut


def resnet18(shape: Shape, classes: int) -> nn.Module:
    """Pre-activation ResNet-18 with a 3x3 stem and no max-pool (SAP Table 3, "ResNet18").

    Maps images [N, C, H, W] to logits [N, classes].
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(shape[0], 64, 3, padding=1, bias=False)
    )
    channels = 64
    for index, width in enumerate((64, 128, 256, 512), start=1):
        layers[f"stage{index}"] = _stage(channels, width, stride=1 if index == 1 else 2)
        channels = width
    layers["norm"] = nn.BatchNorm2d(channels)
    layers["relu"] = nn.ReLU()
    layers["average"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(channels, classes)
    return nn.Sequential(layers)


def _stage(inputs: int, outputs: int, stride: int) -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            block1=PreactBlock(inputs, outputs, stride),
            block2=PreactBlock(outputs, outputs, 1),
        )
    )
