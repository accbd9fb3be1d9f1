"""A ticket's network as ONNX, and whether that computes what torch does."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from orchestrator.errors import ExportError
from orchestrator.results.tickets import Ticket

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

IMAGES, LOGITS = "images", "logits"
OPSET = 18
"""What runtimes have known since 2023."""
LARGEST = 2**31 - 1
"""Bytes that one ONNX file can have."""
TOLERANCE = 1e-3
"""Of the largest logit: float32 summed in another order."""
BATCHES = (1, 3)


def require_onnx() -> None:
    """Raise ExportError where the packages are not installed that this takes."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        if find_spec(package) is None:
            raise ExportError(
                f"ONNX needs {package}, which is not installed: pip install 'prunesweep[onnx]'"
            )


def onnx_network(ticket: Ticket, told: dict[str, str]) -> bytes:
    """The network with its masked weights, from `images`, float32 [N, channels, height, width] and
    normalized, to `logits` [N, classes], of any N; `told` is its metadata.

    ONNX Runtime has been asked whether it computes the same. Raises ExportError where it does not
    or the network cannot be had as ONNX, and as `Ticket.model`.
    """
    network, shape = ticket.model(), ticket.lineage.info.shape
    model = ticket.lineage.config["model"]["name"]
    try:
        program = _converted(network, shape)
        program.model.metadata_props.update(told)
        data: bytes = program.model_proto.SerializeToString()
    except Exception as error:  # whatever a network, or torch on its way through it, raises
        cause = error.__cause__ or error  # torch puts advice to its own developers around it
        reason = (str(cause).splitlines() or [type(cause).__name__])[0]
        raise ExportError(f"{model} cannot be written as ONNX: {reason}") from error
    if len(data) > LARGEST:
        raise ExportError(f"{model} has {len(data):,} bytes, too many for an ONNX file")
    _require_same(network, data, shape, model)
    return data


def _converted(network: nn.Module, shape: tuple[int, ...]) -> "ONNXProgram":
    with _torch_is_silent():
        found: Any = torch.onnx.export(
            network,
            (torch.zeros(2, *shape),),
            input_names=[IMAGES],
            output_names=[LOGITS],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            opset_version=OPSET,
            dynamo=True,
            # Every weight stays what it was, under its own name; runtimes optimize by themselves.
            optimize=False,
            verbose=False,
        )
    return found


@contextmanager
def _torch_is_silent() -> Iterator[None]:
    """It warns, logs and prints graphs, which is for its own developers."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _require_same(network: nn.Module, data: bytes, shape: tuple[int, ...], model: str) -> None:
    from onnxruntime import InferenceSession

    session = InferenceSession(data, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    for count in BATCHES:
        images = torch.randn(count, *shape, generator=generator)
        (found,) = session.run([LOGITS], {IMAGES: images.numpy()})
        with torch.no_grad():
            expected: Tensor = network(images)
        logits = torch.as_tensor(found)
        difference = (logits - expected).abs().max() if logits.shape == expected.shape else None
        if difference is None or not difference <= TOLERANCE * expected.abs().max().clamp(min=1.0):
            raise ExportError(
                f"{model} computes something else as ONNX than in torch; use its state dict"
            )
