"""Which weights pruning may remove."""

from __future__ import annotations

from trainables.lazy_torch import nn


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weight of every convolution and Linear, by its name in the state dict, in module order.

    First and last layer and shortcuts are included; biases, normalization and embeddings never
    are. A weight that several layers share is there once, by its first name. A model with a method
    `prunes(name, parameter) -> bool` decides itself, for each of its parameters.

    Raises ValueError for a layer whose weight is no parameter of its own, as under weight_norm.
    """
    decides = getattr(model, "prunes", None)
    if decides is not None:
        return {name: each for name, each in model.named_parameters() if decides(name, each)}
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    weights: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        if isinstance(module, kinds) and id(module.weight) not in seen:
            seen.add(id(module.weight))
            if not isinstance(module.weight, nn.Parameter):
                raise ValueError(
                    f"the weight of {name or 'the network'} is computed from other parameters; "
                    "give the network a method prunes(name, parameter) -> bool that says which "
                    "parameters are pruned"
                )
            weights[f"{name}.weight" if name else "weight"] = module.weight
    return weights


def layer_of(name: str) -> str:
    """The layer that a parameter or buffer is of, by the name in the state dict; also where the
    layer's weight is computed from it (torch's parametrizations)."""
    layer, parametrized, _ = name.partition(".parametrizations.")
    return layer if parametrized else name.rpartition(".")[0]
