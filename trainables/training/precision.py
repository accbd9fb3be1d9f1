"""Precision: in which arithmetic a recipe has its network computed.

Weights, gradients, optimizers, sums, norms, scores and metrics are float32 or float64 in all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

from trainables.lazy_torch import Tensor, torch

Precision = Literal["float32", "tf32", "bf16"]

M = TypeVar("M", bound="torch.nn.Module")


@contextmanager
def arithmetic(precision: Precision) -> Iterator[None]:
    """Within, products of float32 on a CUDA device are TF32's with `precision` tf32, and IEEE
    float32's with another; and convolutions sum in one order, so that the same gives the same
    again. Nothing changes on a CPU, where that is so anyway."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    # torch's newer names for these are not understood by parts of torch itself.
    wanted: list[tuple[Any, str, bool]] = [
        (products, "allow_tf32", precision == "tf32"),
        (convolutions, "allow_tf32", precision == "tf32"),
        (convolutions, "deterministic", True),
        (convolutions, "benchmark", False),
    ]
    before = [getattr(place, name) for place, name, _ in wanted]
    for place, name, value in wanted:
        setattr(place, name, value)
    try:
        yield
    finally:
        for (place, name, _), value in zip(wanted, before, strict=True):
            setattr(place, name, value)


def logits_in(precision: Precision, forward: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The logits that `forward` gives for images, which with bf16 are computed in it, where torch's
    autocast does so, and are float32 afterwards."""
    if precision != "bf16":
        return forward(images)
    with torch.autocast(images.device.type, torch.bfloat16):
        logits = forward(images)
    return logits.float()


def laid_out(model: M, precision: Precision, device: torch.device) -> M:
    """`model` on the device, with the channels of a pixel side by side if the arithmetic is that of
    tensor cores, or of a CPU's units for bfloat16, which want them so."""
    model = model.to(device)
    if precision == "bf16" or (precision == "tf32" and device.type == "cuda"):
        model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return model
