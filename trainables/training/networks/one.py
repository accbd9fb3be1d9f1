"""One network, computed as torch computes it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainables.sparsity.masks import Masks, apply_masks
from trainables.training.losses import Loss
from trainables.training.optimizers import Optimizer
from trainables.training.progress import OptimizerState


class One:
    """`Networks` of one."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.parameters = list(model.parameters())

    @property
    def averaged(self) -> Mapping[str, Tensor]:
        tensors = named_tensors(self.model)
        return {name: tensors[name] for name in averaged_names(self.model)}

    def of_each(self, tensor: Tensor) -> Sequence[Tensor]:
        return [tensor]

    def train(self) -> None:
        self.model.train()

    def logits(self, images: Tensor) -> Tensor:
        return self.model(images)

    def losses(self, loss: Loss, logits: Tensor, labels: Tensor) -> Tensor:
        return loss.mean(logits, labels)

    def masked(self, masks: Sequence[Masks | None]) -> list[tuple[nn.Parameter, Tensor]]:
        (found,) = masks
        if found is None:
            return []
        apply_masks(self.model, found)
        return [
            (self.model.get_parameter(name), mask)
            for name, mask in found.items()
            if not bool(mask.all())
        ]

    def clip(self, largest: float) -> None:
        nn.utils.clip_grad_norm_(self.parameters, largest)

    def optimizer(self, config: Optimizer) -> torch.optim.Optimizer:
        return config.over(self.parameters)

    def states(self, optimizer: torch.optim.Optimizer) -> list[OptimizerState]:
        return [remembered(optimizer)]

    def load(self, optimizer: torch.optim.Optimizer, states: Sequence[OptimizerState]) -> None:
        (state,) = states
        remember(optimizer, state)


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The weights and buffers of a network."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def averaged_names(model: nn.Module) -> list[str]:
    """The names of what of a network is averaged: its weights, and the running statistics of
    normalization layers. What else a buffer holds may be no number that has a mean."""
    weights = [name for name, each in model.named_parameters() if each.is_floating_point()]
    normalizing = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.modules.batchnorm._NormBase) and layer.running_mean is not None
    ]
    kinds = ("running_mean", "running_var")
    return weights + [f"{name}.{kind}" if name else kind for name in normalizing for kind in kinds]


SET_FROM_OUTSIDE = ("lr", "capturable")
"""Options of an optimizer's groups."""


def remembered(optimizer: torch.optim.Optimizer) -> OptimizerState:
    """What an optimizer remembers."""
    state = optimizer.state_dict()
    found = {
        index: {name: each for name, each in held.items() if each is not None}
        for index, held in state["state"].items()
    }
    groups = enumerate(_counted(group, optimizer.defaults) for group in state["param_groups"])
    return found | {-1 - number: counted for number, counted in groups if counted}


def _counted(group: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a group that are not as it was made: there are optimizers that count there."""
    return {
        name: value
        for name, value in group.items()
        if name not in SET_FROM_OUTSIDE
        and isinstance(value, int | float | Tensor)
        and not (value is defaults.get(name) or (value == defaults.get(name)) is True)
    }


def remember(optimizer: torch.optim.Optimizer, state: OptimizerState) -> None:
    """Make an optimizer remember `state`."""
    if state:
        own = optimizer.state_dict()
        for number, group in enumerate(own["param_groups"]):
            group |= state.get(-1 - number, {})
        of_parameters = {index: held for index, held in state.items() if index >= 0}
        optimizer.load_state_dict(own | {"state": of_parameters})
    for parameter, held in optimizer.state.items():
        for name, each in held.items():
            whole = isinstance(each, Tensor) and each.shape == parameter.shape
            # Stored rows lie one after the other; a parameter on a device may lie otherwise.
            if whole and each.stride() != parameter.stride():
                held[name] = torch.empty_like(parameter).copy_(each)
