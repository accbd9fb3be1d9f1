"""VGG (Simonyan & Zisserman, 2015) with BatchNorm and one Linear layer, as in OpenLTH."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from trainables.lazy_torch import nn
from trainables.models.entry import model
from trainables.models.initialization import Init, initialized
from trainables.models.shape import Shape, require_size

CHANNELS = (64, 128, 256, 512, 512)


@model
def vgg11(shape: Shape, classes: int, *, init: Init = "kaiming_fan_in") -> nn.Module:
    """VGG-11 with BatchNorm and convolution bias; its stored baselines are SynFlow's.

    Maps images [N, C, H, W], at least 16x16 (else ValueError), to logits [N, classes].
    """
    return initialized(_vgg("vgg11", shape, classes, convolutions=(1, 1, 2, 2, 2)), init)


@model
def vgg16(shape: Shape, classes: int, *, init: Init = "kaiming_fan_in") -> nn.Module:
    """VGG-16 with BatchNorm and convolution bias; its stored baselines are SynFlow's.

    Maps images [N, C, H, W], at least 16x16 (else ValueError), to logits [N, classes].
    """
    return initialized(_vgg("vgg16", shape, classes, convolutions=(2, 2, 3, 3, 3)), init)


@model
def vgg19(shape: Shape, classes: int, *, init: Init = "kaiming_fan_in") -> nn.Module:
    """VGG-19 with BatchNorm and convolution bias (sketching paper §6).

    Maps images [N, C, H, W], at least 16x16 (else ValueError), to logits [N, classes].
    """
    return initialized(_vgg("vgg19", shape, classes, convolutions=(2, 2, 4, 4, 4)), init)


def _vgg(model: str, shape: Shape, classes: int, convolutions: Sequence[int]) -> nn.Module:
    """Stages of 3x3 convolutions with a 2x2 max-pool between them, then a global average.

    On 32x32 images the global average is OpenLTH's 2x2 average pool.
    """
    require_size(model, shape, minimum=2 ** (len(CHANNELS) - 1))
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    inputs = shape[0]
    for stage, (width, depth) in enumerate(zip(CHANNELS, convolutions, strict=True), start=1):
        if stage > 1:
            layers[f"pool{stage - 1}"] = nn.MaxPool2d(2)
        for index in range(1, depth + 1):
            layers[f"conv{stage}_{index}"] = nn.Conv2d(inputs, width, 3, padding=1)
            layers[f"norm{stage}_{index}"] = nn.BatchNorm2d(width)
            layers[f"relu{stage}_{index}"] = nn.ReLU()
            inputs = width
    layers["average"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(inputs, classes)
    return nn.Sequential(layers)
