"""ResNet-18 for 64x64 images, as SynFlow trains it on Tiny ImageNet."""

from __future__ import annotations

from trainables.lazy_torch import nn
from trainables.models.cifar_resnet import residual_network
from trainables.models.entry import model
from trainables.models.initialization import Init, initialized
from trainables.models.shape import Shape

CHANNELS = (64, 128, 256, 512)


@model
def tiny_resnet18(shape: Shape, classes: int, *, init: Init = "kaiming_fan_out_conv") -> nn.Module:
    """ResNet-18 with a 3x3 stem and no max-pool (sketching paper §8; SynFlow's network).

    ReLU follows each sum, unlike in `resnet18`. Maps images [N, C, H, W] to logits [N, classes].
    """
    return initialized(residual_network(shape, classes, CHANNELS, blocks=2), init)


@model
def tiny_wide_resnet18(
    shape: Shape, classes: int, *, init: Init = "kaiming_fan_out_conv"
) -> nn.Module:
    """`tiny_resnet18` with twice the channels everywhere (sketching paper §8, "WideResNet-18").

    SynFlow's published wide_resnet18 is meant to be this, but its blocks ignore the width: it is
    `tiny_resnet18` again. Maps images [N, C, H, W] to logits [N, classes].
    """
    channels = [2 * width for width in CHANNELS]
    return initialized(residual_network(shape, classes, channels, blocks=2), init)
