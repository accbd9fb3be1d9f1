"""K networks as one wide network whose layers are block diagonal.

The architecture's own forward runs once, on feature maps [B, K·C, H, W]: convolutions are grouped,
BatchNorm is one call over all channels, and Linear layers are batched products.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F


class Wide:
    """The form of networks made of Linear, Conv2d and BatchNorm, and of what treats each feature,
    or each channel, by itself.

    `weights` and `buffers` are [K, …], by name; `model` is one of the networks. The wide one is
    made from it with the stacked tensors in the place of its own.
    """

    def __init__(
        self, model: nn.Module, weights: Mapping[str, nn.Parameter], buffers: Mapping[str, Tensor]
    ) -> None:
        self.model = copy.deepcopy(model)
        for name, layer in list(self.model.named_modules()):
            _put(layer, name, weights, "_parameters")
            _put(layer, name, buffers, "_buffers")
            if type(layer) in STACKED:
                layer.__class__ = STACKED[type(layer)]

    def logits(self, images: Tensor) -> Tensor:
        """Logits [B, K, classes] of images [B, K, C, H, W]."""
        networks = images.shape[1]
        logits = self.model(images.flatten(1, 2))
        if logits.ndim == 3:
            return logits.transpose(0, 1)
        return logits.unflatten(1, (networks, -1))


def _put(layer: nn.Module, name: str, tensors: Mapping[str, Tensor], where: str) -> None:
    own: dict[str, Any] = getattr(layer, where)
    for part in own:
        stacked = tensors.get(f"{name}.{part}" if name else part)
        if stacked is not None:
            own[part] = stacked


class _Linear(nn.Linear):
    """On features [K, B, F], or flattened maps [B, K·F]; gives [K, B, outputs]."""

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim == 2:
            input = input.unflatten(1, (len(self.weight), -1)).transpose(0, 1)
        return _BatchedLinear.apply(*_cast(input, self.weight, self.bias))


def _cast(features: Tensor, *parameters: Tensor | None) -> Iterator[Tensor | None]:
    """What a product takes, as autocast has it for torch's own."""
    device = features.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    for each in (features, *parameters):
        yield each if each is None or dtype is None else each.to(dtype)


class _BatchedLinear(torch.autograd.Function):
    """Linear of K networks. Autograd's own would make gradients of weights in another layout than
    the weights', to be copied."""

    @staticmethod
    def forward(ctx: FunctionCtx, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(features, weight)
        if bias is None:
            return torch.bmm(features, weight.mT)
        return torch.baddbmm(bias.unsqueeze(1), features, weight.mT)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        features, weight = ctx.saved_tensors
        of_features, of_weight, of_bias = ctx.needs_input_grad
        return (
            torch.bmm(gradient, weight) if of_features else None,
            torch.bmm(gradient.mT, features) if of_weight else None,
            gradient.sum(1) if of_bias else None,
        )


class _Conv2d(nn.Conv2d):
    """On maps [B, K·C, H, W], in groups."""

    def forward(self, input: Tensor) -> Tensor:
        networks = len(self.weight)
        bias = None if self.bias is None else self.bias.flatten()
        return F.conv2d(
            input,
            self.weight.flatten(0, 1),
            bias,
            self.stride,
            self.padding,  # pyright: ignore[reportArgumentType]
            self.dilation,
            networks * self.groups,
        )


class _BatchNorm(nn.modules.batchnorm._BatchNorm):
    """On maps [B, K·C, …], or features [K, B, F]."""

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim != 3:
            return self._of_maps(input)
        networks = len(input)
        flattened = input.transpose(0, 1).flatten(1)
        return self._of_maps(flattened).unflatten(1, (networks, -1)).transpose(0, 1)

    def _of_maps(self, maps: Tensor) -> Tensor:
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        # The mean and variance are written through the views that they are flattened to.
        return F.batch_norm(
            maps,
            _flat(self.running_mean),
            _flat(self.running_var),
            _flat(self.weight),
            _flat(self.bias),
            self.training or self.running_mean is None,
            self.momentum or 0.0,
            self.eps,
        )


def _flat(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.flatten()


STACKED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: _Linear,
    nn.Conv2d: _Conv2d,
    nn.BatchNorm1d: _BatchNorm,
    nn.BatchNorm2d: _BatchNorm,
}
"""The layers with weights that a wide network can have, and what they compute there."""


def is_wide(model: nn.Module) -> bool:
    """Whether all layers with weights or buffers are such that the form has a place for them."""
    return all(
        type(layer) in STACKED and _is_plain(layer)
        for layer in model.modules()
        if layer._parameters or layer._buffers
    )


def _is_plain(layer: nn.Module) -> bool:
    """Whether a layer computes what its kind does."""
    hooked = layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer)
    odd = isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros"
    cumulative = isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.momentum is None
    return not (hooked or odd or cumulative)
