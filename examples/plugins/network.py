"""A network of one's own: `model: {name: gated_perceptron, width: 64}`."""

from torch import Tensor, nn

from prunesweep import Shape, model


class Gated(nn.Module):
    """Two Linear layers, one of which decides what of the other passes."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(inputs, width), nn.Linear(inputs, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.value(x) * self.gate(x).sigmoid()


@model
def gated_perceptron(shape: Shape, classes: int, *, width: int = 32) -> nn.Module:
    """A perceptron with one gated layer of `width` units."""
    channels, height, length = shape
    inputs = channels * height * length
    return nn.Sequential(nn.Flatten(), Gated(inputs, width), nn.Linear(width, classes))
