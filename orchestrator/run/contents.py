"""What `plan` and `run` tell of a sweep's datasets."""

from collections.abc import Iterator
from dataclasses import replace

from orchestrator.run.datasets import ResolvedDataset
from trainables.data.dataset import Contents, SplitContents
from trainables.data.listing import shown

COLOURS = {1: "gray", 3: "RGB"}


def dataset_lines(found: ResolvedDataset) -> list[str]:
    """A line for a dataset as a whole, and more for what there is to know of its files."""
    place = getattr(found.config, "path", None)
    name = found.config.name if place is None else f"{found.config.name} {place}"
    return [f"{name}: {_size(found)}", *_details(found.info.contents)]


def _size(found: ResolvedDataset) -> str:
    config, info = found.config, found.info
    channels, height, width = info.shape
    mode = COLOURS.get(channels, f"{channels} channels")
    used = f"{info.train_examples:,} training"
    if info.contents is not None and info.train_examples < info.contents.train.examples:
        held = f" and {config.holdout:,} held-out" if config.holdout else ""
        used += f"{held} (of {info.contents.train.examples:,})"
    elif config.holdout:
        used += f", {config.holdout:,} held-out"
    known = "" if info.contents else ", as published"
    return (
        f"{used} and {info.test_examples:,} test examples of {info.classes} classes, "
        f"{height}x{width} {mode}{known}"
    )


def _details(contents: Contents | None) -> Iterator[str]:
    if contents is None:
        return
    for name, split in (("training", contents.train), ("test", contents.test)):
        yield f"  {name}: {_split(split)}"
    if contents.overlap:
        yield f"  {contents.overlap:,} test images are training images too"
    for note in contents.notes:
        yield f"  {note}"


def _split(split: SplitContents) -> str:
    smallest, largest = (
        replace(each, name=shown(each.name)) for each in (split.smallest, split.largest)
    )
    if smallest.examples == largest.examples:
        sizes = f"{smallest.examples:,} of each class"
    else:
        sizes = (
            f"from {smallest.examples:,} ({smallest.name}) to {largest.examples:,} "
            f"({largest.name}) of a class"
        )
    parts = [f"{split.examples:,} examples of {split.classes} classes, {sizes}"]
    if split.constant:
        parts.append(f"{split.constant:,} of one colour only")
    if split.repeated:
        parts.append(f"{split.repeated:,} repeated")
    return "; ".join(parts)
