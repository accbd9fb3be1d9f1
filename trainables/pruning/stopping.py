"""Stop rules: what was measured of a lineage's iterations says that it ends there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from pydantic import BeforeValidator

from trainables.plugins.entry import Entry, Kind, PluginError, described

Rows: TypeAlias = Sequence[Mapping[str, Any]]
"""What was measured of iterations: rows of the table `iterations`, in their order."""


class StopRule(Entry):
    """A stop rule by name; called with the rows of a lineage up to an iteration, it says why the
    lineage ends with that one, and None where it goes on.

    It sees committed rows of iterations trained on real data, at least one, and nothing else, so
    that whoever asks again hears the same.
    """

    @property
    def measure(self) -> str | None:
        """The column without which it can say nothing, where that may be null."""
        return None

    def __call__(self, rows: Rows) -> str | None:
        try:
            found = self.call(rows)
        except Exception as error:  # a plug-in's code may do anything
            text = f"{self.where()}: {self.name}: {type(error).__name__}: {error}"
            raise PluginError(text) from error
        if found is not None and not isinstance(found, str):
            raise PluginError(
                f"{self.where()}: {self.name} gives {described(found)}; it must be why the lineage "
                "ends there, as text, or None"
            )
        return found


STOP = Kind("stop", StopRule, ("rows",), ("trainables.pruning.stops",), key="when")

stop_rule = STOP.register
"""The decorator of stop rules: makes a function of the rows, or a config class, one. Raises
PluginError."""


def _listed(value: Any) -> Any:
    """A single rule is a list of one."""
    if isinstance(value, str | Mapping | StopRule):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Rules = BeforeValidator(_listed)
