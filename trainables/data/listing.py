"""Listing folders that people work in: what is data there, and what is left out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

LITTER = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "lost+found"}
"""What systems leave behind in folders, in lower case; besides, all that starts with a dot."""


NO_FILE = "neither a file nor a folder"


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that is not read, and why."""

    path: Path
    why: str


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name is never data."""
    return name.startswith(".") or name.lower() in LITTER


def is_special(path: Path) -> bool:
    """Whether it is a pipe, socket or device, which may never end. A link to nothing is none."""
    return path.exists() and not path.is_file() and not path.is_dir()


def shown(name: object) -> str:
    """A name or path on one line of text, whatever characters it has."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in str(name)
    )


def files_below(folder: Path, left_out: list[LeftOut]) -> Iterator[Path]:
    """All files in `folder` at any depth, through links, but for litter; raises OSError."""
    return _below(folder, frozenset(), left_out)


def _below(folder: Path, above: frozenset[Path], left_out: list[LeftOut]) -> Iterator[Path]:
    here = folder.resolve()
    if here in above:
        raise ValueError(f"{shown(folder)} is a link to a folder that it is in; remove it")
    for path in sorted(folder.iterdir()):
        if is_litter(path.name):
            left_out.append(LeftOut(path, "hidden, or a system's"))
        elif path.is_dir():
            yield from _below(path, above | {here}, left_out)
        elif is_special(path):
            left_out.append(LeftOut(path, NO_FILE))
        else:
            yield path


def told(left_out: Sequence[LeftOut], folder: Path) -> tuple[str, ...]:
    """A sentence for each reason: how many it is of, and the first by its place in `folder`."""
    once = dict.fromkeys(left_out)
    reasons = dict.fromkeys(each.why for each in once)
    return tuple(_told([each for each in once if each.why == why], folder) for why in reasons)


def _told(left_out: Sequence[LeftOut], folder: Path) -> str:
    first = shown(left_out[0].path.relative_to(folder).as_posix())
    others = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
    return f"left out: {first}{others} ({shown(left_out[0].why)})"
