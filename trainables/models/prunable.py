"""Which weights pruning may remove."""

from torch import nn


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weight of every Conv2d and Linear, by its name in the state dict, in module order.

    First and last layer and shortcuts are included; biases and BatchNorm never are.
    """
    return {name: model.get_parameter(name) for name in prunable_modules(model)}


def prunable_modules(model: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """The modules whose weight is prunable, by the name of that weight, in module order."""
    return {
        f"{name}.weight" if name else "weight": module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }
