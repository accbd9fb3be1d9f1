"""Residual networks for CIFAR (He et al., 2015, §4.2), with OpenLTH's projection shortcuts."""

from collections import OrderedDict
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.models.shape import Shape


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm around a shortcut, ReLU after the sum.

    Where the shape changes the shortcut is a 1x1 convolution with BatchNorm.
    Maps [N, inputs, H, W] to [N, outputs, H / stride, W / stride].
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = (
            _projection(inputs, outputs, stride)
            if stride != 1 or inputs != outputs
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        residual = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(residual + self.shortcut(x))


def resnet20(shape: Shape, classes: int, *, width: Annotated[int, Field(gt=0)] = 1) -> nn.Module:
    """ResNet-20 with `width` x (16, 32, 64) channels (sketching paper §6; OpenLTH's network).

    `width: 2` is the sketching paper's WideResNet-20-32. Maps images [N, C, H, W] to logits
    [N, classes].
    """
    channels = 16 * width
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(shape[0], channels, 3, padding=1, bias=False),
        norm=nn.BatchNorm2d(channels),
        relu=nn.ReLU(),
        stage1=_stage(channels, channels, stride=1),
        stage2=_stage(channels, 2 * channels, stride=2),
        stage3=_stage(2 * channels, 4 * channels, stride=2),
        average=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Linear(4 * channels, classes),
    )
    return nn.Sequential(layers)


def _stage(inputs: int, outputs: int, stride: int) -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            block1=ResidualBlock(inputs, outputs, stride),
            block2=ResidualBlock(outputs, outputs, 1),
            block3=ResidualBlock(outputs, outputs, 1),
        )
    )


def _projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False),
            norm=nn.BatchNorm2d(outputs),
        )
    )
