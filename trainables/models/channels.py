"""Networks made for colour images, on images of other channels."""

from __future__ import annotations

from trainables.lazy_torch import nn


def with_channels(model: nn.Module, channels: int) -> nn.Module:
    """`model` with a first convolution that takes `channels`, drawn anew where it took others.

    Raises ValueError when it has no convolution.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            if module.in_channels != channels:
                parent = model.get_submodule(name.rpartition(".")[0])
                setattr(parent, name.rpartition(".")[2], _like(module, channels))
            return model
    raise ValueError("the network has no convolution to take the image")


def _like(module: nn.Conv2d, channels: int) -> nn.Conv2d:
    return nn.Conv2d(
        channels,
        module.out_channels,
        module.kernel_size,  # pyright: ignore[reportArgumentType]
        module.stride,  # pyright: ignore[reportArgumentType]
        module.padding,  # pyright: ignore[reportArgumentType]
        module.dilation,  # pyright: ignore[reportArgumentType]
        bias=module.bias is not None,
    )
