"""Listing folders that people work in: what is data there, and what is left out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

LITTER = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "lost+found"}
"""What systems leave behind in folders, in lower case; besides, all that starts with a dot."""


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that is not read, and why."""

    path: Path
    why: str


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name is never data."""
    return name.startswith(".") or name.lower() in LITTER


def files_below(folder: Path, left_out: list[LeftOut]) -> Iterator[Path]:
    """All files in `folder` at any depth, through links, but for litter; raises OSError."""
    return _below(folder, frozenset(), left_out)


def _below(folder: Path, above: frozenset[Path], left_out: list[LeftOut]) -> Iterator[Path]:
    here = folder.resolve()
    if here in above:
        raise ValueError(f"{folder} is a link to a folder that it is in; remove it")
    for path in sorted(folder.iterdir()):
        if is_litter(path.name):
            left_out.append(LeftOut(path, "hidden, or a system's"))
        elif path.is_dir():
            yield from _below(path, above | {here}, left_out)
        else:
            yield path


def told(left_out: Sequence[LeftOut], folder: Path) -> tuple[str, ...]:
    """A sentence for each reason: how many it is of, and the first by its place in `folder`."""
    reasons = dict.fromkeys(each.why for each in left_out)
    return tuple(_told([each for each in left_out if each.why == why], folder) for why in reasons)


def _told(left_out: Sequence[LeftOut], folder: Path) -> str:
    first = left_out[0].path.relative_to(folder).as_posix()
    others = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
    return f"left out: {first}{others} ({left_out[0].why})"
