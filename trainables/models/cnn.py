"""The plain convolutional network of SAP."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated

from pydantic import Field

from trainables.lazy_torch import nn
from trainables.models.entry import model
from trainables.models.initialization import Init, initialized
from trainables.models.shape import MAX_WIDTH, Shape, require_size

Width = Annotated[int, Field(gt=0, le=MAX_WIDTH)]
Channels = Annotated[tuple[Width, ...], Field(min_length=1)]


@model
def cnn(
    shape: Shape,
    classes: int,
    *,
    hidden: Channels = (64, 128, 256, 512),
    init: Init = "kaiming_fan_out_conv",
) -> nn.Module:
    """Blocks of 3x3 convolution with bias, BatchNorm and ReLU (SAP Table 3, "CNN").

    A 2x2 max-pool stands between blocks and a global average pool after the last. Maps images
    [N, C, H, W] to logits [N, classes]. Raises ValueError for images too small for the max-pools.
    """
    require_size("cnn", shape, minimum=2 ** (len(hidden) - 1))
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = shape[0]
    for index, width in enumerate(hidden, start=1):
        if index > 1:
            layers[f"pool{index - 1}"] = nn.MaxPool2d(2)
        layers[f"conv{index}"] = nn.Conv2d(channels, width, kernel_size=3, padding=1)
        layers[f"norm{index}"] = nn.BatchNorm2d(width)
        layers[f"relu{index}"] = nn.ReLU()
        channels = width
    layers["average"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(channels, classes)
    return initialized(nn.Sequential(layers), init)
