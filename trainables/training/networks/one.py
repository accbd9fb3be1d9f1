"""One network, computed as torch computes it."""

from collections.abc import Mapping, Sequence

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


def remembered(optimizer: torch.optim.Optimizer) -> OptimizerState:
    """What an optimizer remembers of its parameters."""
    state = optimizer.state_dict()["state"]
    return {
        index: {name: tensor for name, tensor in held.items() if tensor is not None}
        for index, held in state.items()
    }


def remember(optimizer: torch.optim.Optimizer, state: OptimizerState) -> None:
    """Make an optimizer remember `state`."""
    if state:
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    for parameter, held in optimizer.state.items():
        for name, tensor in held.items():
            # Stored rows lie one after the other; a parameter on a device may lie otherwise.
            if tensor.shape == parameter.shape and tensor.stride() != parameter.stride():
                held[name] = torch.empty_like(parameter).copy_(tensor)
