"""K networks through torch's vmap, which knows how to stack nearly every operation."""

import copy
from collections.abc import Mapping

from torch import Tensor, nn
from torch.func import functional_call, vmap


class Mapped:
    """The form that fits any module whose forward has no branch on values, draws nothing at random
    and keeps no state but its buffers.

    `weights` and `buffers` are [K, …], by name; `model` is one of the networks.
    """

    def __init__(
        self, model: nn.Module, weights: Mapping[str, nn.Parameter], buffers: Mapping[str, Tensor]
    ) -> None:
        self.model = copy.deepcopy(model)
        self._weights: dict[str, Tensor] = {**weights}
        self._buffers = dict(buffers)
        self._forward = vmap(self._of_one, in_dims=(0, 0, 1), out_dims=1, randomness="error")

    def logits(self, images: Tensor) -> Tensor:
        """Logits [B, K, classes] of images [B, K, C, H, W]."""
        return self._forward(self._weights, self._buffers, images)

    def _of_one(
        self, weights: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor
    ) -> Tensor:
        return functional_call(self.model, (weights, buffers), (images,))
