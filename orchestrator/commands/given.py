"""What a command is given as text: durations, conditions and places."""

import re
from collections.abc import Mapping
from typing import Any

from orchestrator.sweepfile.yaml_document import Place, SweepFileError, parsed
from trainables.store import StoreError
from trainables.store.location import is_relative

JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""What `ray job submit` sets for what it runs."""
UNITS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}


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
