"""The sweeps that prunesweep comes with, by their names, such as `quickstart` and `sap/fig2`."""

import re
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path

from orchestrator.sweepfile.yaml_document import SweepFileError

EDITORS = "# yaml-language-server:"
PACKAGE = Path(__file__).parents[1]


def sweep_file(given: Path) -> Path:
    """The file of a sweep as a command was given it: that file, or where there is none and the name
    has no ending, the shipped sweep of that name. Raises SweepFileError."""
    if given.exists():
        return given
    beside = {file.stem: file.as_posix() for file in given.parent.glob("*.y*ml")}
    near = [beside[stem] for stem in get_close_matches(given.stem, beside, n=1)]
    if given.suffix:
        if near:
            raise SweepFileError(f"{given}: no such file; did you mean {near[0]!r}?")
        return given
    known = shipped_sweeps()
    found = known.get(given.as_posix())
    if found is None:
        close = near or get_close_matches(given.as_posix(), known, n=1)
        guess = f"; did you mean {close[0]!r}?" if close else ";"
        raise SweepFileError(
            f"{given}: there is no such file, and no example of that name{guess} `prunesweep list "
            "examples` shows them"
        )
    return found


def shipped_sweeps() -> dict[str, Path]:
    """The files of the shipped sweeps by name."""
    folder = _folder()
    files = sorted(folder.rglob("*.yaml"))
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


def description(file: Path) -> str:
    """The first sentence that a shipped sweep's file says of itself."""
    said = takewhile(lambda line: line.startswith("#"), file.read_text().splitlines())
    text = " ".join(line.lstrip("# ") for line in said if not line.startswith(EDITORS))
    return re.split(r"(?<=\.)\s", text, maxsplit=1)[0]


def _folder() -> Path:
    """In an installed package, beside its code; in a checkout, beside the packages."""
    installed = PACKAGE / "shipped"
    return installed if installed.is_dir() else PACKAGE.parent / "sweeps"
