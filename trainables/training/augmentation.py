"""Augmentation of training images by name, as a recipe has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from pydantic import Field

from trainables.config import Choice
from trainables.lazy_torch import F, Tensor, torch
from trainables.plugins.entry import Entry, Kind, PluginError, described


class Unfit(ValueError):
    """A part does not fit what it is to be used with, such as images of that shape; `option` is to
    be changed."""

    def __init__(self, message: str, option: str) -> None:
        super().__init__(message)
        self.option = option


Augmented = Callable[[Tensor, Tensor, int], Tensor]
"""Of an epoch: augments images uint8 [B, C, H, W], the training examples `chosen` [B], of the
batch of a step."""


class Augmentation(Entry):
    """An augmentation by name, drawn anew at every epoch.

    A function is called with the images of a batch, uint8 [B, C, H, W] on the device, and a
    generator (CPU) that is the batch's own; it gives as many of the same kind and shape.
    """

    def epoch(self, examples: int, generator: torch.Generator, device: torch.device) -> Augmented:
        """The augmentation of an epoch of `examples` training examples, drawn from `generator`,
        whichever of its steps are taken."""
        seed = int(torch.randint(2**62, (), generator=generator))

        def augmented(images: Tensor, chosen: Tensor, step: int) -> Tensor:
            drawn = self.call(images, torch.Generator().manual_seed(seed + step))
            if described(drawn) != described(images):
                raise PluginError(
                    f"{self.where()}: the augmentation {self.name} gives {described(drawn)} for "
                    f"images {described(images)}; both must stay as they are"
                )
            return drawn

        return augmented

    def epochs(
        self, examples: int, generators: Sequence[torch.Generator], device: torch.device
    ) -> Augmented:
        """`epoch` for K networks: images are [B·K, C, H, W], and the examples `chosen` [B, K]."""
        each = [self.epoch(examples, generator, device) for generator in generators]

        def augmented(images: Tensor, chosen: Tensor, step: int) -> Tensor:
            of_each = images.unflatten(0, chosen.shape).unbind(1)
            drawn = [
                one(of_one, taken, step)
                for one, of_one, taken in zip(each, of_each, chosen.unbind(1), strict=True)
            ]
            return torch.stack(drawn, dim=1).flatten(0, 1)

        return augmented

    def draws(
        self, examples: int, generators: Sequence[torch.Generator], device: torch.device
    ) -> dict[str, Tensor] | None:
        """What an epoch of K networks draws for each of their training examples, [K·N, …] by name,
        if `augmented` needs nothing else; None if `epoch` has to be asked."""
        return None

    def augmented(self, images: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        """A batch of images uint8 [B, C, H, W] with what was drawn for each, [B, …] by name; the
        same operations at every batch."""
        raise NotImplementedError

    def require_fit(self, shape: tuple[int, int, int]) -> None:
        """Raises Unfit when images [C, H, W] cannot be augmented so."""


AUGMENTATION = Kind(
    "augmentation",
    Augmentation,
    ("images", "generator"),
    (__name__,),
    default="flip_and_crop",
)
augmentation = AUGMENTATION.register


@augmentation
class FlipAndCrop(Augmentation):
    """Horizontal flips, and crops of the padded image.

    `crop_padding` p > 0 pads p pixels on each side and crops back to the image's size.
    """

    name: Literal["flip_and_crop"] = "flip_and_crop"
    horizontal_flip: bool = False
    crop_padding: Annotated[int, Field(ge=0, le=64)] = 0
    padding_mode: Annotated[Literal["reflect", "zeros"], Choice("padding_mode")] = "reflect"

    def draws(
        self, examples: int, generators: Sequence[torch.Generator], device: torch.device
    ) -> dict[str, Tensor]:
        each = [self._draw(examples, generator) for generator in generators]
        return {name: torch.cat([one[name] for one in each]).to(device) for name in each[0]}

    def require_fit(self, shape: tuple[int, int, int]) -> None:
        _, height, width = shape
        most = min(height, width) - 1
        if self.padding_mode == "reflect" and self.crop_padding > most:
            raise Unfit(
                f"{height}x{width} images have no {self.crop_padding} pixels beside a border to "
                f"reflect; choose at most {most}, or padding_mode: zeros",
                "crop_padding",
            )

    def _draw(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        drawn: dict[str, Tensor] = {}
        if self.horizontal_flip:
            drawn["flip"] = torch.rand(count, generator=generator) < 0.5
        if self.crop_padding:
            span = 2 * self.crop_padding + 1
            drawn["offset"] = torch.randint(span, (count, 2), generator=generator)
        return drawn

    def augmented(self, images: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        """A batch of uint8 images [B, C, H, W] flipped where `drawn["flip"]` [B] says so and
        cropped at `drawn["offset"]` [B, 2] (rows, columns) of the padded image."""
        if self.horizontal_flip:
            images = torch.where(drawn["flip"].view(-1, 1, 1, 1), images.flip(3), images)
        if not self.crop_padding:
            return images
        batch, _, height, width = images.shape
        padded = self._padded(images)
        rows = drawn["offset"][:, 0, None] + torch.arange(height, device=images.device)
        columns = drawn["offset"][:, 1, None] + torch.arange(width, device=images.device)
        example = torch.arange(batch, device=images.device)
        cropped = padded[example[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        return cropped.permute(0, 3, 1, 2).contiguous()

    def _padded(self, images: Tensor) -> Tensor:
        sides = (self.crop_padding,) * 4
        if self.padding_mode == "zeros":
            return F.pad(images, sides)
        # Reflection is not implemented for uint8; float32 holds 0…255 exactly.
        return F.pad(images.to(torch.float32), sides, mode="reflect").to(torch.uint8)
