"""Pre-activation residual networks (He et al., 2016, "Identity mappings"), as SAP uses them."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from trainables.models.entry import model
from trainables.models.initialization import Init, initialized
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
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        return self.conv2(F.relu(self.norm2(self.conv1(activated)))) + shortcut


class PreactBottleneck(nn.Module):
    """BatchNorm, ReLU and convolution, thrice (1x1, 3x3, 1x1), around the shortcut of PreactBlock.

    The 3x3 convolution has a quarter of the channels and the stride. Maps [N, inputs, H, W] to
    [N, outputs, H / stride, W / stride].
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        width = outputs // 4
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        residual = self.conv2(F.relu(self.norm2(self.conv1(activated))))
        return self.conv3(F.relu(self.norm3(residual))) + shortcut


Block = type[PreactBlock] | type[PreactBottleneck]


@model
def resnet18(shape: Shape, classes: int, *, init: Init = "kaiming_fan_out_conv") -> nn.Module:
    """Pre-activation ResNet-18 with a 3x3 stem and no max-pool (SAP Table 3, "ResNet18").

    Maps images [N, C, H, W] to logits [N, classes].
    """
    stages = ((64, 2), (128, 2), (256, 2), (512, 2))
    return initialized(_network(shape, classes, 64, stages, PreactBlock), init)


@model
def resnet50(shape: Shape, classes: int, *, init: Init = "kaiming_fan_out_conv") -> nn.Module:
    """Pre-activation ResNet-50 with a 3x3 stem and no max-pool, as SAP's ResNet18 is built.

    SAP's published code trains torchvision's on Tiny ImageNet instead: `imagenet_resnet50`. Maps
    images [N, C, H, W] to logits [N, classes].
    """
    stages = ((256, 3), (512, 4), (1024, 6), (2048, 3))
    return initialized(_network(shape, classes, 64, stages, PreactBottleneck), init)


@model
def wide_resnet_28x8(
    shape: Shape, classes: int, *, init: Init = "kaiming_fan_out_conv"
) -> nn.Module:
    """WRN-28-8 of Zagoruyko & Komodakis (2016) without dropout (SAP §4.1, "WResNet28x8").

    Maps images [N, C, H, W] to logits [N, classes].
    """
    stages = ((128, 4), (256, 4), (512, 4))
    return initialized(_network(shape, classes, 16, stages, PreactBlock), init)


def _network(
    shape: Shape,
    classes: int,
    stem: int,
    stages: Sequence[tuple[int, int]],
    block: Block,
) -> nn.Module:
    """A 3x3 convolution to `stem` channels, then the `stages`: (channels, blocks) of each.

    The image is halved between stages; a global average and one Linear layer end it.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(shape[0], stem, 3, padding=1, bias=False)
    )
    inputs = stem
    for index, (outputs, blocks) in enumerate(stages, start=1):
        layers[f"stage{index}"] = _stage(inputs, outputs, 1 if index == 1 else 2, blocks, block)
        inputs = outputs
    layers["norm"] = nn.BatchNorm2d(inputs)
    layers["relu"] = nn.ReLU()
    layers["average"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(inputs, classes)
    return nn.Sequential(layers)


def _stage(inputs: int, outputs: int, stride: int, blocks: int, block: Block) -> nn.Module:
    layers: OrderedDict[str, nn.Module] = OrderedDict(block1=block(inputs, outputs, stride))
    for index in range(2, blocks + 1):
        layers[f"block{index}"] = block(outputs, outputs, 1)
    return nn.Sequential(layers)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
