"""Fully connected networks on flattened images."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from trainables.lazy_torch import nn
from trainables.models.entry import model
from trainables.models.initialization import Init, initialized
from trainables.models.shape import MAX_WIDTH, Shape

Widths = tuple[Annotated[int, Field(gt=0, le=MAX_WIDTH)], ...]


@model
def linear(shape: Shape, classes: int, *, init: Init = "kaiming_fan_out_conv") -> nn.Module:
    """Multinomial logistic regression (SAP Table 3, "Linear").

    Maps images [N, C, H, W] to logits [N, classes].
    """
    return initialized(_perceptron(shape, classes, hidden=()), init)


@model
def mlp(
    shape: Shape, classes: int, *, hidden: Widths = (128, 256), init: Init = "kaiming_fan_out_conv"
) -> nn.Module:
    """Perceptron with a ReLU after each of the `hidden` layers (SAP Table 3, "MLP").

    Maps images [N, C, H, W] to logits [N, classes].
    """
    return initialized(_perceptron(shape, classes, hidden), init)


@model
def lenet_300_100(shape: Shape, classes: int, *, init: Init = "kaiming_fan_out_conv") -> nn.Module:
    """LeNet-300-100 (LeCun et al., 1998), the usual perceptron of the pruning literature.

    Maps images [N, C, H, W] to logits [N, classes].
    """
    return initialized(_perceptron(shape, classes, hidden=(300, 100)), init)


def _perceptron(shape: Shape, classes: int, hidden: Sequence[int]) -> nn.Module:
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    inputs = math.prod(shape)
    for index, width in enumerate(hidden, start=1):
        layers[f"hidden{index}"] = nn.Linear(inputs, width)
        layers[f"relu{index}"] = nn.ReLU()
        inputs = width
    layers["classifier"] = nn.Linear(inputs, classes)
    return nn.Sequential(layers)
