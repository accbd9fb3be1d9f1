"""Pre-activation residual networks (He et al., 2016, "Identity mappings"), as SAP uses them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from trainables.lazy_torch import nn
from trainables.models.entry import model
from trainables.models.initialization import Init, initialized
from trainables.models.shape import Shape

if TYPE_CHECKING:
    Block = Callable[[int, int, int], nn.Module]


@model
def resnet18(shape: Shape, classes: int, *, init: Init = "kaiming_fan_out_conv") -> nn.Module:
    """Pre-activation ResNet-18 with a 3x3 stem and no max-pool (SAP Table 3, "ResNet18").

    Maps images [N, C, H, W] to logits [N, classes].
    """
    stages = ((64, 2), (128, 2), (256, 2), (512, 2))
    return initialized(_network(shape, classes, 64, stages), init)


@model
def resnet50(shape: Shape, classes: int, *, init: Init = "kaiming_fan_out_conv") -> nn.Module:
    """Pre-activation ResNet-50 with a 3x3 stem and no max-pool, as SAP's ResNet18 is built.

    SAP's published code trains torchvision's on Tiny ImageNet instead: `imagenet_resnet50`. Maps
    images [N, C, H, W] to logits [N, classes].
    """
    stages = ((256, 3), (512, 4), (1024, 6), (2048, 3))
    return initialized(_network(shape, classes, 64, stages, bottleneck=True), init)


@model
def wide_resnet_28x8(
    shape: Shape, classes: int, *, init: Init = "kaiming_fan_out_conv"
) -> nn.Module:
    """WRN-28-8 of Zagoruyko & Komodakis (2016) without dropout (SAP §4.1, "WResNet28x8").

    Maps images [N, C, H, W] to logits [N, classes].
    """
    stages = ((128, 4), (256, 4), (512, 4))
    return initialized(_network(shape, classes, 16, stages), init)


def _network(
    shape: Shape,
    classes: int,
    stem: int,
    stages: Sequence[tuple[int, int]],
    bottleneck: bool = False,
) -> nn.Module:
    """A 3x3 convolution to `stem` channels, then the `stages`: (channels, blocks) of each.

    The image is halved between stages; a global average and one Linear layer end it.
    """
    from trainables.models.blocks.preactivation import PreactBlock, PreactBottleneck

    block = PreactBottleneck if bottleneck else PreactBlock
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


def _stage(
    inputs: int, outputs: int, stride: int, blocks: int, block: Callable[[int, int, int], nn.Module]
) -> nn.Module:
    layers: OrderedDict[str, nn.Module] = OrderedDict(block1=block(inputs, outputs, stride))
    for index in range(2, blocks + 1):
        layers[f"block{index}"] = block(outputs, outputs, 1)
    return nn.Sequential(layers)
