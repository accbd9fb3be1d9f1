"""Scoring data: what a network is scored with before it is trained (sketching paper §5, 6, 8)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from trainables.config import Choice, Config
from trainables.lazy_torch import Tensor, torch
from trainables.pruning.scoring import Batch

if TYPE_CHECKING:
    from trainables.training.batches import DeviceData

Inputs = Callable[[], tuple[Batch, ...]]
"""What each round of scoring is given: the same examples, or a new draw."""

CHUNK = 32
"""Examples at a time, so that a wide network's float64 activations fit a small GPU."""

CHI_DIMENSION = 128


class ScoringData(Config):
    """The part of a criterion that says what the network is scored with: here, nothing."""

    def inputs(self, data: DeviceData, generator: torch.Generator) -> Inputs:
        """What each round is scored with. Raises ValueError when there are too few examples."""
        return lambda: ()

    @property
    def real_examples(self) -> int:
        """How many training examples there have to be."""
        return 0


class Examples(ScoringData):
    """Scored with examples, the same in all rounds, see `scoring_batches`."""

    data: Annotated[Literal["real", "normal", "sparse"], Choice("scoring_data")] = "real"
    examples: Annotated[int, Field(gt=0, le=1_000_000)] = 256

    def inputs(self, data: DeviceData, generator: torch.Generator) -> Inputs:
        batches = scoring_batches(data, self.data, self.examples, generator)
        return lambda: batches

    @property
    def real_examples(self) -> int:
        return self.examples if self.data == "real" else 0


class FlowInput(ScoringData):
    """Scored with SynFlow's one input, drawn anew in every round, see `flow_input`."""

    data: Annotated[Literal["ones", "chi"], Choice("scoring_data")] = "ones"

    def inputs(self, data: DeviceData, generator: torch.Generator) -> Inputs:
        return lambda: flow_input(data, self.data, generator)


def scoring_batches(
    data: DeviceData,
    kind: Literal["real", "normal", "sparse"],
    examples: int,
    generator: torch.Generator,
) -> tuple[Batch, ...]:
    """Chunks of float64 inputs, normalized as for training, and their labels.

    *real*: training images without augmentation; *normal*: Gaussian with the per-channel mean and
    standard deviation that images are normalized with, labels uniform; *sparse*: such a batch in
    which each pixel location is non-zero in exactly one image.
    """
    if kind == "real":
        inputs, labels = _real(data, examples, generator)
    else:
        inputs = torch.randn(examples, *data.shape, generator=generator, dtype=torch.float64)
        labels = torch.randint(data.classes, (examples,), generator=generator)
        if kind == "sparse":
            inputs = _sparse(inputs, generator)
    device = data.train.labels.device
    return tuple(_chunks(inputs.to(device), labels.to(device)))


def flow_input(
    data: DeviceData, kind: Literal["ones", "chi"], generator: torch.Generator
) -> tuple[Batch, ...]:
    """SynFlow's one input [1, C, H, W], float64: ones, or each entry the ℓ2 norm of 128 standard
    normals."""
    device = data.train.labels.device
    if kind == "ones":
        inputs = torch.ones(1, *data.shape, dtype=torch.float64)
    else:
        normal = torch.randn(CHI_DIMENSION, *data.shape, generator=generator, dtype=torch.float64)
        inputs = normal.norm(dim=0, keepdim=True)
    return ((inputs.to(device), torch.zeros(1, dtype=torch.int64, device=device)),)


def _real(data: DeviceData, examples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    if examples > len(data.train):
        raise ValueError(f"examples: {examples} of only {len(data.train)} training examples")
    chosen = torch.randperm(len(data.train), generator=generator)[:examples]
    chosen = chosen.to(data.train.labels.device)
    images = data.train.normalized(data.train.images[chosen])
    return images.to(torch.float64), data.train.labels[chosen]


def _sparse(inputs: Tensor, generator: torch.Generator) -> Tensor:
    examples, _, height, width = inputs.shape
    owner = torch.randint(examples, (height, width), generator=generator)
    owned = owner == torch.arange(examples).view(-1, 1, 1)
    return inputs * owned.unsqueeze(1)


def _chunks(inputs: Tensor, labels: Tensor) -> Iterator[Batch]:
    return zip(inputs.split(CHUNK), labels.split(CHUNK), strict=True)
