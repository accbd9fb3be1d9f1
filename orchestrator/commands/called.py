"""How prunesweep was called, for hints that are to be copied."""

import shlex
import shutil
import sys
from pathlib import Path

NAME = "prunesweep"


def called() -> str:
    """What calls this prunesweep from the working folder: its name, or the path to it where a shell
    would find no `prunesweep` or another one."""
    this, found = Path(sys.argv[0]), shutil.which(NAME)
    if this.name != NAME or not this.exists() or (found and this.samefile(found)):
        return NAME
    here = this.absolute()
    return shlex.quote(
        str(here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else here)
    )


def as_called(text: str) -> str:
    """`text` with the commands in it, which stand in backticks, as they can be called from here."""
    return text.replace(f"`{NAME} ", f"`{called()} ")
