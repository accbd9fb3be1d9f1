"""ResNet-50 as it is built for ImageNet (He et al., 2015, Table 1)."""

from __future__ import annotations

from trainables.lazy_torch import nn
from trainables.models.channels import with_channels
from trainables.models.entry import model
from trainables.models.initialization import Init, initialized
from trainables.models.shape import Shape
from trainables.torchvision_import import import_torchvision

COLOURS = 3


@model
def imagenet_resnet50(shape: Shape, classes: int, *, init: Init = "pytorch") -> nn.Module:
    """torchvision's ResNet-50, which SAP's code trains on Tiny ImageNet (SAP Figure 10).

    ReLU follows each sum; a 7x7 stem of stride 2 and a max-pool come first. `pytorch` are
    torchvision's initial weights. Maps images [N, C, H, W] to logits [N, classes].
    """
    network = import_torchvision().models.resnet50(weights=None, num_classes=classes)
    network = with_channels(network, shape[0])
    if shape[0] != COLOURS:  # drawn anew, which torchvision would have done in its own way
        stem = network.get_parameter("conv1.weight")
        nn.init.kaiming_normal_(stem, mode="fan_out", nonlinearity="relu")
    return initialized(network, init)
