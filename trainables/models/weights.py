"""Weights that come from a file: reading it, and whether they are those of a network."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainables.config import ContentFile
from trainables.lazy_torch import Tensor, nn, torch
from trainables.store.artifacts import decode_tensors

SAVE_IT = "save it with torch.save(network.state_dict(), …), or as safetensors"


def read_weights(file: ContentFile) -> dict[str, Tensor]:
    """The state dict in a `.pt`, `.pth` or `.safetensors` file, on the CPU.

    Nothing in it is executed. Raises ValueError, which names the file, when it cannot be read,
    holds anything but tensors, or numbers that are not finite.
    """
    decode = DECODERS.get(Path(file).suffix.lower())
    if decode is None:
        raise ValueError(f"{file} is none of {', '.join(DECODERS)}; {SAVE_IT}")
    try:
        data = file.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{file} cannot be read: {reason}") from error
    try:
        found = decode(data)
    except Exception as error:  # whatever is raised at what is no such file
        raise ValueError(f"{file} is no file of tensors alone, or damaged; {SAVE_IT}") from error
    if not isinstance(found, Mapping):
        raise ValueError(f"{file} holds {type(found).__name__}, no state dict; {SAVE_IT}")
    for name, tensor in found.items():
        _require_numbers(file, name, tensor)
    return dict(found)


def _loaded(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


DECODERS: dict[str, Callable[[bytes], Any]] = {
    ".pt": _loaded,
    ".pth": _loaded,
    ".safetensors": decode_tensors,
}


def _require_numbers(file: str, name: Any, tensor: Any) -> None:
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(
            f"{file} has {name!r} beside tensors, which is {type(tensor).__name__}; where it holds "
            f"the state dict among other things, take that out of it: {SAVE_IT}"
        )
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise ValueError(f"{name} of {file} is sparse or quantized; save it as a plain tensor")
    if not bool(torch.isfinite(tensor.float()).all()):
        raise ValueError(
            f"{name} of {file} has values that are not finite, NaN or infinite; nothing can be "
            "trained from it, take a checkpoint from before they arose"
        )


def require_fit(file: str, found: Mapping[str, Tensor], network: nn.Module, model: str) -> None:
    """Raise ValueError unless the state dict `found` in a file is one of `network`, a `model` for
    messages: the same names, and by each a tensor of the same shape and kind."""
    own = network.state_dict()
    absent = [name for name in own if name not in found]
    strange = [name for name in found if name not in own]
    advice = f"give a state dict of this {model}, for the same images and classes"
    if absent or strange:
        reasons = ([f"lacks {_some(absent)}"] if absent else []) + (
            [f"has {_some(strange)}, which {model} has not"] if strange else []
        )
        raise ValueError(f"{file} {' and '.join(reasons)}; {advice}")
    for name, tensor in own.items():
        given = found[name]
        if given.shape != tensor.shape:
            raise ValueError(
                f"{name} is {_shape(given)} in {file} and {_shape(tensor)} in {model}; {advice}"
            )
        if given.is_floating_point() != tensor.is_floating_point():
            raise ValueError(
                f"{name} is {_kind(given)} in {file} and {_kind(tensor)} in {model}; {advice}"
            )


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a single number"


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
