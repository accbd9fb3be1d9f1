"""Residual networks for CIFAR (He et al., 2015, §4.2), with OpenLTH's projection shortcuts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from trainables.lazy_torch import nn
from trainables.models.entry import model
from trainables.models.initialization import Init, initialized
from trainables.models.shape import Shape


@model
def resnet20(
    shape: Shape,
    classes: int,
    *,
    width: Annotated[int, Field(gt=0)] = 1,
    init: Init = "kaiming_fan_in",
) -> nn.Module:
    """ResNet-20 with `width` x (16, 32, 64) channels (sketching paper §6; OpenLTH's network).

    `width: 2` is `wide_resnet20`. Maps images [N, C, H, W] to logits [N, classes].
    """
    channels = (16 * width, 32 * width, 64 * width)
    return initialized(residual_network(shape, classes, channels, blocks=3), init)


@model
def wide_resnet20(shape: Shape, classes: int, *, init: Init = "kaiming_fan_in") -> nn.Module:
    """ResNet-20 with 32, 64, 128 channels, the sketching paper's WideResNet-20-32.

    Maps images [N, C, H, W] to logits [N, classes].
    """
    return resnet20(shape, classes, width=2, init=init)


def residual_network(shape: Shape, classes: int, channels: Sequence[int], blocks: int) -> nn.Module:
    """One stage of `blocks` residual blocks for each of `channels`, halving the image between.

    The stem is a 3x3 convolution to `channels[0]`; a global average and one Linear layer end it.
    """
    inputs = channels[0]
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(shape[0], inputs, 3, padding=1, bias=False),
        norm=nn.BatchNorm2d(inputs),
        relu=nn.ReLU(),
    )
    for index, outputs in enumerate(channels, start=1):
        layers[f"stage{index}"] = _stage(inputs, outputs, 1 if index == 1 else 2, blocks)
        inputs = outputs
    layers["average"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(inputs, classes)
    return nn.Sequential(layers)


def _stage(inputs: int, outputs: int, stride: int, blocks: int) -> nn.Module:
    from trainables.models.blocks.residual import ResidualBlock

    layers: OrderedDict[str, nn.Module] = OrderedDict(block1=ResidualBlock(inputs, outputs, stride))
    for index in range(2, blocks + 1):
        layers[f"block{index}"] = ResidualBlock(outputs, outputs, 1)
    return nn.Sequential(layers)
