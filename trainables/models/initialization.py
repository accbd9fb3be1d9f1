"""Initial weights, by the codes whose results they decide."""

from __future__ import annotations

from typing import Annotated, Literal

from trainables.config import Choice
from trainables.lazy_torch import nn

Init = Annotated[
    Literal["kaiming_fan_out_conv", "kaiming_fan_in", "openlth", "pytorch"], Choice("init")
]
"""How weights are drawn:

- `kaiming_fan_out_conv` (SAP's code): convolutions Kaiming normal, fan out; Linear as PyTorch.
- `kaiming_fan_in` (SynFlow's code): convolutions and Linear Kaiming normal, fan in.
- `openlth` (OpenLTH's `kaiming_normal`, `uniform`): that, and BatchNorm weights uniform in [0, 1].
- `pytorch`: all as PyTorch, or torchvision, draws it.

But for `pytorch`, biases are 0 and BatchNorm weights, but for `openlth`, 1.
"""


def initialized(model: nn.Module, init: Init) -> nn.Module:
    """`model` with its initial weights, drawn with torch's global CPU generator."""
    if init == "pytorch":
        return model
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            mode = "fan_out" if init == "kaiming_fan_out_conv" else "fan_in"
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
        elif isinstance(module, nn.Linear) and init != "kaiming_fan_out_conv":
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            (nn.init.uniform_ if init == "openlth" else nn.init.ones_)(module.weight)
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return model
