"""Finding a dataset that is named by its folder."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from trainables.data.roots import DataRoots, expanded, not_found, place_it

Files = TypeVar("Files")


def find_folder(
    path: str, roots: DataRoots, look: Callable[[Path], Files | None], expected: str
) -> Files:
    """What `look` sees in the first place that `path`, absolute or below a root, may mean.

    `look` returns None where the files are missing. Raises DatasetNotFound.
    """
    relative = expanded(path)
    # Joining an absolute path to a root gives that path: it is then the only place.
    places = dict.fromkeys(root / relative for root in roots.candidates)
    for place in places:
        files = look(place)
        if files is not None:
            return files
    remedy = (
        "correct `path:`" if relative.is_absolute() else f"correct `path:`, or {place_it(path)}"
    )
    raise not_found(f"no dataset at {path}: a folder with {expected}", places, remedy)
