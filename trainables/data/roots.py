"""Where datasets are looked for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_dir

from trainables.errors import UserError

ENVIRONMENT_VARIABLE = "PRUNESWEEP_DATA"
CACHE_VARIABLE = "PRUNESWEEP_CACHE"


@dataclass(frozen=True)
class DataRoots:
    """Folders to look in, in order, and the one for downloads, digests and decoded images."""

    candidates: tuple[Path, ...]
    cache: Path


class DatasetNotFound(UserError):
    """A dataset's files are in none of the places they may be, and cannot be downloaded."""


def expanded(path: str) -> Path:
    """With `~` as the home folder; as it is where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def data_roots(
    data_root: str | None, environ: Mapping[str, str], beside: Path | None = None
) -> DataRoots:
    """`data_root` if given, then $PRUNESWEEP_DATA if set, then the cache folder, which is
    $PRUNESWEEP_CACHE or the user's; last the folder that the sweep file is in, `beside` it.

    Paths are made absolute here: the processes of a cluster have other working folders.
    """
    cache = expanded(environ.get(CACHE_VARIABLE) or user_cache_dir("prunesweep")).absolute()
    named = (data_root, environ.get(ENVIRONMENT_VARIABLE))
    folders = [expanded(name).absolute() for name in named if name]
    last = [] if beside is None else [beside.absolute()]
    return DataRoots(candidates=(*dict.fromkeys([*folders, cache, *last]),), cache=cache)


def not_found(missing: str, places: Iterable[Path], remedy: str) -> DatasetNotFound:
    """The error that says what is missing, where it was looked for and what to do."""
    looked = "\n".join(f"  {place}" for place in places)
    return DatasetNotFound(f"{missing}; looked in\n{looked}\n{remedy}")


def place_it(what: str) -> str:
    """The remedy for a dataset that has to be put somewhere."""
    return (
        f"set `data_root:` in the sweep file or the environment variable {ENVIRONMENT_VARIABLE} "
        f"to the folder that holds {what}"
    )
