"""A first sweep file, commented, which runs as it is."""

from importlib.resources import files
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from orchestrator.sweepfile.spec import Name
from orchestrator.sweepfile.yaml_document import SweepFileError

TEMPLATE = "template.yaml"
NAMED = "my-sweep"


def begin_sweep(file: Path) -> str:
    """Write the sweep file `file`; the name of its sweep, which is that of the file where a sweep
    can have it. Raises SweepFileError where there is a file."""
    text = files("orchestrator.sweepfile").joinpath(TEMPLATE).read_text(encoding="utf-8")
    try:
        name: str = TypeAdapter(Name).validate_python(file.stem)
    except ValidationError:
        name = NAMED
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(text.replace(f"name: {NAMED} ", f"name: {name} ").replace("FILE", file.name))
    except FileExistsError:
        raise SweepFileError(f"{file}: there is such a file already; choose another name") from None
    except OSError as error:
        raise SweepFileError(f"{file}: it cannot be written: {error.strerror}") from error
    return name
