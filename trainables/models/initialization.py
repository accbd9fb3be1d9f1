"""Initial weights."""

from torch import nn


def initialize(model: nn.Module) -> None:
    """Draw the initial weights with torch's global CPU generator, as SAP's published code does.

    Convolutions: Kaiming normal, fan out. Linear: PyTorch's default weight, as drawn when the
    layer was made. BatchNorm: weight 1. Every bias of these is zero.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
