"""Encoded images (PNG, JPEG, whatever Pillow reads) to arrays."""

import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

GRAY_MODES = {"1", "L", "LA"}
DEEP_MODE_PREFIXES = ("I", "F")
"""More than 8 bits per channel: Pillow would clip them."""

CHUNK = 256

THREADED_PIXELS = 64 * 64
"""Below this, decoding is mostly Python: at 32x32 two threads measured slower than one."""


@dataclass(frozen=True)
class ImageFormat:
    """What all images of a dataset become: `mode` is "L" (1 channel) or "RGB" (3)."""

    mode: str
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return (1 if self.mode == "L" else 3, self.height, self.width)


def image_format(encoded: bytes, where: str) -> ImageFormat:
    """The format that the first image of a dataset sets; reads its header only."""
    with _open(encoded, where) as image:
        mode = "L" if image.mode in GRAY_MODES else "RGB"
        return ImageFormat(mode, image.height, image.width)


def decode_images(
    images: np.ndarray,
    read: Callable[[int], bytes],
    where: Callable[[int], str],
    form: ImageFormat,
) -> None:
    """Fill `images`, uint8 [N, C, H, W], by threads if they pay off.

    `read(i)` gives the encoded image i and `where(i)` its name for messages. Raises ValueError
    for an image that cannot be read, has more than 8 bits per channel or another size.
    """
    count = len(images)

    def decode_chunk(start: int) -> None:
        for index in range(start, min(start + CHUNK, count)):
            images[index] = _decode(read(index), where(index), form)

    threads = _usable_cores() if form.height * form.width >= THREADED_PIXELS else 1
    with ThreadPoolExecutor(threads) as pool:
        # Consuming the results raises what a thread raised.
        list(pool.map(decode_chunk, range(0, count, CHUNK)))


def _decode(encoded: bytes, where: str, form: ImageFormat) -> np.ndarray:
    with _open(encoded, where) as image:
        if (image.height, image.width) != (form.height, form.width):
            raise ValueError(
                f"{where} has {image.height}x{image.width} pixels instead of "
                f"{form.height}x{form.width}: all images must have one size"
            )
        try:
            pixels = np.asarray(image if image.mode == form.mode else image.convert(form.mode))
        except (OSError, SyntaxError) as error:
            raise ValueError(f"{where} cannot be decoded: {error}") from error
    return pixels.reshape(form.height, form.width, -1).transpose(2, 0, 1)


def _open(encoded: bytes, where: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(encoded))
    except UnidentifiedImageError as error:
        raise ValueError(f"{where} is not an image") from error
    if image.mode.startswith(DEEP_MODE_PREFIXES):
        raise ValueError(f"{where} has more than 8 bits per channel (mode {image.mode})")
    return image


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
