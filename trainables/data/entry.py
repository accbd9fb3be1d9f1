"""What a dataset is, as a sweep file names it: where it is loaded from, and what is known of it."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, ClassVar, TypeVar

import numpy as np
from pydantic import Field

from trainables.config import Config
from trainables.data.contents import example_number, require_apart
from trainables.data.dataset import Dataset, DatasetInfo
from trainables.data.description import describe_arrays
from trainables.data.roots import DataRoots
from trainables.plugins.entry import Entry, Kind, PluginError, described


class Normalization(Config):
    """What images scaled to [0, 1] are normalized with: a number for each channel."""

    mean: Annotated[tuple[float, ...], Field(min_length=1)]
    std: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]


class DatasetOptions(Entry):
    """A dataset by name; called with the places to look in, it gives the whole of it.

    It is normalized with `normalize`, by default with the mean and the standard deviation that the
    dataset comes with, see `docs/datasets.md`.

    No more than `overlap` test images may be training images too. `holdout` training examples
    become the validation split; then only `subset` of the others are kept, in equal numbers per
    class as far as there are enough. Both choices are fixed: the seed of an experiment does not
    move them.
    """

    described: ClassVar[Callable[..., DatasetInfo] | None] = None
    """What knows the dataset without loading it, called as the function itself."""
    found: ClassVar[Callable[[DataRoots], bool] | None] = None
    """Whether the files that it is loaded from are there, of one that is known without them."""

    normalize: Normalization | None = None
    overlap: Annotated[int, Field(ge=0)] = 0
    holdout: Annotated[int, Field(ge=0)] = 0
    subset: Annotated[int, Field(gt=0)] | None = None

    def __call__(self, roots: DataRoots) -> Dataset:
        return self.call(roots)

    def is_there(self, roots: DataRoots) -> bool:
        """Whether it can be loaded without a download, as far as that shows without reading it."""
        found = type(self).found
        return found is None or found(roots)

    def describe(self, roots: DataRoots) -> DatasetInfo:
        """What is known of the whole dataset; without a function that knows, it is loaded, and
        its fingerprint is that of its arrays. Raises ValueError for contents that are refused."""
        described = type(self).described
        if described is None:
            found = checked(self(roots), self)
            info = describe_arrays(found, _fingerprint(found), example_number)
        else:
            info = described(roots, **{name: getattr(self, name) for name in self.option_names})
        if info.contents is not None:
            require_apart(self.name, info.contents, self.overlap)
        return info


DATASET = Kind("dataset", DatasetOptions, ("roots",), ("trainables.data",))

Load = TypeVar("Load", bound=Callable[..., Dataset])


def dataset(load: Load) -> Load:
    """The decorator of a function `load(roots, *, option=default, …) -> Dataset`."""
    return DATASET.register(load)


def described_by(
    describe: Callable[..., DatasetInfo], found: Callable[[DataRoots], bool] | None = None
) -> Callable[[Load], Load]:
    """The decorator of such a function, with one that knows the dataset without loading it, and,
    where that needs no files, one that tells whether they are there.

    It is called with the same arguments. Where the name and the options do not fix the content, it
    gives a fingerprint of it, see `trainables.data.fingerprint`.
    """

    def register(load: Load) -> Load:
        config = DATASET.made_of(load, load.__name__)
        config.described = staticmethod(describe)
        config.found = None if found is None else staticmethod(found)
        return load

    return register


def checked(found: Any, config: DatasetOptions) -> Dataset:
    """`found`, if it is a dataset that can be trained on, with a note of what is not used of it;
    raises PluginError."""
    at = f"{config.where()}: the dataset {config.name}"
    if not isinstance(found, Dataset):
        raise PluginError(f"{at} gives {type(found).__name__}, no Dataset")
    for name, split in (("train", found.train), ("test", found.test)):
        images, labels = split.images, split.labels
        if not _is(images, np.uint8) or images.ndim != 4:
            raise PluginError(
                f"{at}: its {name} images are {described(images)}; they must be uint8 "
                "[N, channels, height, width]"
            )
        if not _is(labels, np.int64) or labels.shape != (len(images),) or not len(labels):
            raise PluginError(
                f"{at}: its {name} labels are {described(labels)}; they must be int64 "
                f"[{len(images)}], one for each image"
            )
        if labels.min() < 0 or labels.max() >= found.classes:
            raise PluginError(
                f"{at}: its {name} labels go from {labels.min()} to {labels.max()}; there are "
                f"{found.classes} classes, from 0"
            )
    shapes = {found.train.images.shape[1:], found.test.images.shape[1:]}
    channels = found.train.images.shape[1]
    if len(shapes) > 1 or {len(found.mean), len(found.std)} != {channels}:
        raise PluginError(
            f"{at}: all images must have one shape, and mean and std one number for each of the "
            f"{channels} channels"
        )
    if found.validation is None:
        return found
    unused = "its own validation split is not used; `holdout` makes one of training examples"
    return replace(found, validation=None, notes=(*found.notes, unused))


def normalized(found: Dataset, config: DatasetOptions) -> Dataset:
    """`found` with the normalization that `config` asks for; ValueError when it does not fit."""
    if config.normalize is None:
        return found
    require_channels(config, found.train.images.shape[1])
    return replace(found, mean=config.normalize.mean, std=config.normalize.std)


def require_channels(config: DatasetOptions, channels: int) -> None:
    """Raises ValueError when the normalization has another number of channels."""
    given = config.normalize
    if given is not None and {len(given.mean), len(given.std)} != {channels}:
        raise ValueError(
            f"normalize: {config.name} has {channels} channels, and mean has {len(given.mean)} "
            f"numbers and std {len(given.std)}; give one of each for each channel"
        )


def _is(found: Any, dtype: type[np.integer]) -> bool:
    return isinstance(found, np.ndarray) and found.dtype == dtype


def _fingerprint(found: Dataset) -> str:
    digest = hashlib.sha256(repr((found.classes, found.mean, found.std)).encode())
    for split in (found.train, found.test):
        for array in (split.images, split.labels):
            digest.update(repr(array.shape).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
