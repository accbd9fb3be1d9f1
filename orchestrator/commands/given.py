"""What a command is given: a sweep, where, and what is wished of it, as text."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from orchestrator.run.starting import JOB_VARIABLE
from orchestrator.sweepfile.yaml_document import Place, SweepFileError, parsed
from trainables.store import StoreError
from trainables.store.location import is_relative

if TYPE_CHECKING:
    from orchestrator.run.wishes import Wishes
    from orchestrator.sweepfile.spec import SweepSpec

UNITS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}


@dataclass(frozen=True)
class SweepArguments:
    """A sweep as a command was given it."""

    file: Path
    overrides: list[str]
    plugins: list[str]

    @classmethod
    def of(cls, file: Path, overrides: list[str] | None, plugins: list[str] | None) -> Self:
        """Where no such file is, an example may be meant."""
        from orchestrator.sweepfile.shipped import sweep_file

        return cls(sweep_file(file), overrides or [], plugins or [])

    def load(self) -> "SweepSpec":
        from orchestrator.sweepfile.yaml_source import load_sweep

        return load_sweep(self.file, self.overrides, self.plugins)

    def run_on(self, storage: str) -> list[str]:
        """The arguments of a run of it that is begun in the working folder."""
        told = [f"--set={each}" for each in self.overrides]
        told += [f"--plugin={each}" for each in self.plugins]
        return ["run", str(self.file.absolute()), f"--storage={storage}", *told]

    @contextmanager
    def located(self) -> Iterator[None]:
        """Says of a sweep that cannot be run where the mistake was written."""
        from orchestrator.errors import PlanError
        from orchestrator.sweepfile.yaml_document import SweepFileError
        from orchestrator.sweepfile.yaml_source import locate

        try:
            yield
        except PlanError as error:
            place = locate(self.file, self.overrides, error.field, self.plugins, error.repeats)
            raise SweepFileError(f"{place}: {error}") from error


def wishes(
    only: list[str] | None,
    skip: list[str] | None,
    retry: str | None,
    for_: str | None = None,
    *,
    replace: bool = False,
) -> "Wishes":
    from orchestrator.run.wishes import Wishes

    return Wishes(
        only=all_of("--only", only),
        skip=conditions("--skip", skip),
        retry_failed=retry is not None,
        seconds=None if for_ is None else duration(for_),
        replace=replace,
    )


def duration(text: str) -> float:
    """Seconds of a duration such as 11h, 90m or 1h30m; raises SweepFileError."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise SweepFileError(f"--for {text}: write a duration such as 11h, 90m or 1h30m")
    return sum(float(number) * UNITS[unit] for number, unit in parts)


def conditions(option: str, given: list[str] | None) -> list[dict[str, Any]]:
    """Of each KEY=VALUE, the value for the key, as in a sweep file; raises SweepFileError."""
    found = []
    for text in given or ():
        key, equals, value = text.partition("=")
        label = f"{option} {text}"
        if not equals or not key.strip():
            raise SweepFileError(f"{label}: write KEY=VALUE, as in {option} method=sap")
        place = Place(0, 0, label)
        found.append({key.strip(): parsed(value, lambda line, column, place=place: place).data})
    return found


def all_of(option: str, given: list[str] | None) -> dict[str, Any]:
    """Conditions that have to be met together; raises SweepFileError."""
    together: dict[str, Any] = {}
    for condition in conditions(option, given):
        for key in together.keys() & condition.keys():
            raise SweepFileError(
                f"{option} {key}: it is given twice; write {option} {key}=[…] for any of several"
            )
        together |= condition
    return together


def refuse_jobs_folder(storage: str, environ: Mapping[str, str]) -> None:
    """Raise StoreError of a storage in the current folder when that is Ray's, as in a job's."""
    if JOB_VARIABLE in environ and is_relative(storage):
        raise StoreError(
            f"storage {storage} is in the current folder, and that of a Ray job is a copy of what "
            "was submitted with it, which Ray deletes; give --storage or $PRUNESWEEP_STORAGE an "
            "absolute path that all nodes share, or a URI such as s3://bucket/folder"
        )
