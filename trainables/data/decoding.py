"""Encoded images (PNG, JPEG, whatever Pillow reads) to arrays."""

import io
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

# What Pillow would only warn of is told with the dataset, or refused.
warnings.filterwarnings("ignore", module=r"PIL\.")

Mode = Literal["L", "RGB"]

GRAY_MODES = {"1", "L", "LA", "La"}
DEEP_MODE_PREFIXES = ("I", "F")
DEEP_RAW_MODES = (";12", ";16", ";32")
"""Of more than 8 bits per channel in the file, which Pillow would cut to 8."""

CHUNK = 256

THREADED_PIXELS = 64 * 64
"""Below this, decoding is mostly Python: at 32x32 two threads measured slower than one."""

UPRIGHT: Mapping[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation, as viewers do."""

GRAY, TURNED = "gray, turned into RGB", "turned as their EXIF orientation says"


@dataclass(frozen=True)
class ImageFormat:
    """What all images of a dataset become: `mode` is "L" (1 channel) or "RGB" (3)."""

    mode: Mode
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return (1 if self.mode == "L" else 3, self.height, self.width)


class Encoded(NamedTuple):
    """One image that is still encoded; `where` is its name in messages."""

    where: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Source:
    """`count` encoded images, given one after the other by each call of `images`."""

    count: int
    images: Callable[[], Iterable[Encoded]]


@dataclass(frozen=True)
class Decoded:
    """Arrays uint8 [N, C, H, W], one for each source.

    `notes` are what was done to some images that their files do not show; `as_ever` is False where
    versions before these notes read the same files as other pixels.
    """

    images: tuple[np.ndarray, ...]
    notes: tuple[str, ...]
    as_ever: bool


class _Colourful(Exception):
    """An image has colours, and those before it had none."""


def decode(sources: Sequence[Source], form: ImageFormat | None = None) -> Decoded:
    """The images of all `sources`, in `form`; by default gray if they all are, else RGB.

    Raises ValueError for an image that cannot be read, has more than 8 bits per channel or
    another size than the first.
    """
    if form is not None:
        return _decoded(sources, form)
    first = next(iter(sources[0].images()))
    with _opened(first) as image:
        gray, (width, height) = image.mode in GRAY_MODES, _upright_size(image)
    if gray:
        try:
            return _decoded(sources, ImageFormat("L", height, width))
        except _Colourful:
            found = _decoded(sources, ImageFormat("RGB", height, width))
            return Decoded(found.images, found.notes, as_ever=False)
    return _decoded(sources, ImageFormat("RGB", height, width))


def _decoded(sources: Sequence[Source], form: ImageFormat) -> Decoded:
    threads = _usable_cores() if form.height * form.width >= THREADED_PIXELS else 1
    with ThreadPoolExecutor(threads) as pool:
        drawing = _Drawing(form, pool if threads > 1 else None)
        images = tuple(drawing.draw(source) for source in sources)
    seen = drawing.seen
    total = sum(source.count for source in sources)
    if form.mode == "L" or seen[GRAY] == total:
        del seen[GRAY]
    notes = tuple(f"{count} of {total} images are {what}" for what, count in sorted(seen.items()))
    return Decoded(images, notes, as_ever=not seen[TURNED])


@dataclass(frozen=True)
class _Drawing:
    """Decodes to one format, and counts what it sees on the way."""

    form: ImageFormat
    pool: Executor | None
    seen: Counter[str] = field(default_factory=Counter)

    def draw(self, source: Source) -> np.ndarray:
        images = np.empty((source.count, *self.form.shape), dtype=np.uint8)
        start = 0
        for chunk in _chunks(source.images()):
            # The results are looked at here: that raises what a thread raised.
            for pixels, what in (self.pool.map if self.pool else map)(self._one, chunk):
                images[start] = pixels
                self.seen.update(what)
                start += 1
        assert start == source.count, "a source has as many images as it says"
        return images

    def _one(self, encoded: Encoded) -> tuple[np.ndarray, list[str]]:
        """The pixels [C, H, W], and what there is to say of them."""
        where, form = encoded.where, self.form
        with _opened(encoded) as image:
            if form.mode == "L" and image.mode not in GRAY_MODES:
                raise _Colourful
            try:
                said = _remarks(image)
                image.load()
                shown = _upright(image)
                if shown is not image and image.format != "TIFF":
                    said.append(TURNED)
                _require_size(shown, where, form)
                pixels = np.asarray(shown if shown.mode == form.mode else shown.convert(form.mode))
            except _Misfit as misfit:
                raise ValueError(str(misfit)) from None
            except Exception as error:  # Pillow's readers raise what their parsing meets
                raise ValueError(
                    f"{where} cannot be decoded: {error}; replace it or remove it"
                ) from error
        return pixels.reshape(form.height, form.width, -1).transpose(2, 0, 1), said


class _Misfit(Exception):
    """An image that can be read, and does not fit the others."""


def _require_size(image: Image.Image, where: str, form: ImageFormat) -> None:
    if (image.height, image.width) != (form.height, form.width):
        raise _Misfit(
            f"{where} has {image.height}x{image.width} pixels instead of "
            f"{form.height}x{form.width}: all images must have one size"
        )


def _opened(encoded: Encoded) -> Image.Image:
    where, content = encoded.where, encoded.read()
    try:
        image = Image.open(io.BytesIO(content))
        if image.format == "PNG":
            image.verify()  # its checksums, which decoding does not look at; it uses the image up
            image = Image.open(io.BytesIO(content))
    except UnidentifiedImageError as error:
        raise ValueError(f"{where} is not an image, or a damaged one") from error
    except Exception as error:  # as above
        raise ValueError(f"{where} cannot be decoded: {error}; replace it or remove it") from error
    if _is_deep(image, content):
        raise ValueError(
            f"{where} has more than 8 bits per channel (mode {image.mode}); scale the images to 8 "
            "bits, all of them by the same factor"
        )
    return image


def _is_deep(image: Image.Image, content: bytes) -> bool:
    if image.mode.startswith(DEEP_MODE_PREFIXES):
        return True
    if image.format == "JPEG2000":
        # The depth of the first component, in the marker SIZ (ISO/IEC 15444-1, A.5.1).
        at = content.find(b"\xff\x51")
        return at >= 0 and len(content) > at + 40 and (content[at + 40] & 0x7F) >= 8
    return any(_is_deep_tile(tile[0], tile[3]) for tile in getattr(image, "tile", ()))


def _is_deep_tile(codec: str, args: Any) -> bool:
    """Whether one of an image's parts is stored in more than 8 bits per channel."""
    parts = args if isinstance(args, tuple) else (args,)
    modes = [part for part in parts if isinstance(part, str) and not part.startswith("BGR;16")]
    too_high = codec in ("ppm", "ppm_plain") and any(isinstance(p, int) and p > 255 for p in parts)
    return codec == "SGI16" or too_high or any(d in mode for mode in modes for d in DEEP_RAW_MODES)


def _remarks(image: Image.Image) -> list[str]:
    said = []
    if image.mode in GRAY_MODES:
        said.append(GRAY)
    elif image.mode not in ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX"):
        said.append(f"{image.mode}, turned into RGB")
    if image.has_transparency_data and _is_transparent(image):
        said.append("transparent in parts; what lies under that is taken")
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        said.append("of several frames; the first is taken")
    return said


def _is_transparent(image: Image.Image) -> bool:
    try:
        lowest, _ = image.convert("RGBA").getchannel("A").getextrema()
    except Exception:  # decoding tells what is wrong
        return False
    return lowest < 255  # type: ignore[operator]


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # EXIF data may be damaged where the image is not
        return 1
    return found if found in (*UPRIGHT,) else 1


def _upright(image: Image.Image) -> Image.Image:
    turn = UPRIGHT.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height, as they are shown."""
    # Pillow has turned the size of a TIFF, not yet its pixels.
    turned = _orientation(image) >= 5 and image.format != "TIFF"
    return (image.height, image.width) if turned else image.size


def _chunks(images: Iterable[Encoded]) -> Iterator[list[Encoded]]:
    left = iter(images)
    while chunk := list(islice(left, CHUNK)):
        yield chunk


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
