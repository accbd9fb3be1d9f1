"""Stops: the lineages that a run is asked to train no further; in `stop-<its id>.json`."""

from collections.abc import Iterable

from pydantic import TypeAdapter

from orchestrator.records.files import RecordFile
from trainables.store import Store

STOPS = RecordFile("stop.json", TypeAdapter(list[str]))
EVERYTHING = "*"


def ask_to_stop(store: Store, sweep: str, lineages: Iterable[str], runs: Iterable[str]) -> None:
    """Ask `runs` of the sweep to stop these after the iteration that they are at, or with
    EVERYTHING to end as at a Ctrl-C."""
    asked = {*lineages}
    for run in runs:
        STOPS.of(run).update(store, sweep, lambda before: sorted(asked.union(before or ())))
