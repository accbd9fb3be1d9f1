"""The shape of the images a model is built for."""

Shape = tuple[int, int, int]
"""Channels, height, width."""

MAX_WIDTH = 1_000_000
"""Units or channels of one layer: two such layers have more weights than memory has room for."""


def require_size(model: str, shape: Shape, minimum: int) -> None:
    """Raise ValueError unless the image is at least `minimum` pixels high and wide."""
    _, height, width = shape
    if min(height, width) < minimum:
        raise ValueError(
            f"{model} pools a {'x'.join(map(str, shape))} image (channels x height x width) down "
            f"to nothing: it needs at least {minimum}x{minimum} pixels; choose a dataset with "
            f"larger images, or a model for small ones such as mlp or resnet20"
        )
