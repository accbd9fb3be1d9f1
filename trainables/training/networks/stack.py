"""K networks of one architecture as one computation."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from trainables.sparsity.masks import Masks
from trainables.training.losses import Loss
from trainables.training.networks.mapped import Mapped
from trainables.training.networks.one import averaged_names, remember, remembered
from trainables.training.networks.stacking import by_name, shared
from trainables.training.networks.wide import Wide
from trainables.training.optimizers import Optimizer
from trainables.training.progress import OptimizerState


class Stack:
    """`Networks` of K: every parameter and buffer is one tensor [K, …], whose slices the networks'
    own are from then on. So each of them is at all times as far as its training, and can be
    evaluated, stored and copied as if it were trained alone.

    `form` is that of their architecture, as `form_of` finds it.
    """

    def __init__(self, models: Sequence[nn.Module], form: type[Wide] | type[Mapped]) -> None:
        self.models = tuple(models)
        weights = by_name([dict(model.named_parameters()) for model in models])
        buffers = by_name([dict(model.named_buffers()) for model in models])
        self.weights = {
            name: nn.Parameter(shared(each), each[0].requires_grad)
            for name, each in weights.items()
        }
        self.buffers = {name: shared(each) for name, each in buffers.items()}
        self._form = form(models[0], self.weights, self.buffers)
        self.parameters = list(self.weights.values())

    @property
    def averaged(self) -> Mapping[str, Tensor]:
        tensors: dict[str, Tensor] = {**self.weights, **self.buffers}
        return {name: tensors[name] for name in averaged_names(self.models[0])}

    def of_each(self, tensor: Tensor) -> Sequence[Tensor]:
        return tensor.unbind()

    def train(self) -> None:
        for model in (*self.models, self._form.model):
            model.train()

    def logits(self, images: Tensor) -> Tensor:
        return self._form.logits(images)

    def losses(self, loss: Loss, logits: Tensor, labels: Tensor) -> Tensor:
        return loss.means(logits, labels)

    def masked(self, masks: Sequence[Masks | None]) -> list[tuple[nn.Parameter, Tensor]]:
        names = dict.fromkeys(name for each in masks for name in each or {})
        first = {id(each): name for name, each in self.models[0].named_parameters()}
        found = []
        for name in names:
            # A weight that layers share may be pruned by another name than its first.
            weight = self.weights[first[id(self.models[0].get_parameter(name))]]
            kept = torch.ones_like(weight, dtype=torch.bool)
            for row, mask in zip(kept, masks, strict=True):
                if mask is not None:
                    row.copy_(mask[name])
            if not bool(kept.all()):
                weight.data.masked_fill_(~kept, 0.0)
                found.append((weight, kept))
        return found

    @torch.no_grad()
    def clip(self, largest: float) -> None:
        gradients = [weight.grad for weight in self.parameters if weight.grad is not None]
        if not gradients:
            return
        norms = [torch.linalg.vector_norm(each.reshape(len(each), -1), dim=1) for each in gradients]
        norm = torch.linalg.vector_norm(torch.stack(norms), dim=0)
        scale = (largest / (norm + 1e-6)).clamp_(max=1.0)
        for each in gradients:
            each.mul_(scale.view(-1, *[1] * (each.ndim - 1)))

    def optimizer(self, config: Optimizer) -> torch.optim.Optimizer:
        assert config.elementwise, "another cannot tell the networks apart"
        return config.over(self.parameters)

    def states(self, optimizer: torch.optim.Optimizer) -> list[OptimizerState]:
        together = remembered(optimizer)
        return [self._part(together, number) for number in range(len(self.models))]

    def load(self, optimizer: torch.optim.Optimizer, states: Sequence[OptimizerState]) -> None:
        remember(optimizer, self._together(states))

    def _part(self, together: OptimizerState, number: int) -> OptimizerState:
        return {
            index: {
                name: tensor[number] if tensor.shape == self.parameters[index].shape else tensor
                for name, tensor in held.items()
            }
            for index, held in together.items()
        }

    def _together(self, states: Sequence[OptimizerState]) -> OptimizerState:
        """Of networks at one epoch, that have taken equally many steps."""
        shapes = [weight.shape[1:] for weight in self.parameters]
        # What a checkpoint kept comes on the CPU.
        device = self.parameters[0].device
        return {
            index: {
                name: torch.stack([each[index][name].to(device) for each in states])
                if tensor.shape == shapes[index] and not _counts(name)
                else tensor
                for name, tensor in held.items()
            }
            for index, held in states[0].items()
        }


def _counts(name: str) -> bool:
    # As torch's optimizers call the number of steps, a scalar as scalar weights are.
    return name == "step"
