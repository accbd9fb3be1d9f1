"""Stops: the lineages that another terminal asks a run to train no further; in `stop.json`."""

from collections.abc import Iterable

from pydantic import TypeAdapter

from orchestrator.records.files import RecordFile
from trainables.store import Store

STOPS = RecordFile("stop.json", TypeAdapter(list[str]))
EVERYTHING = "*"


def ask_to_stop(store: Store, sweep: str, lineages: Iterable[str]) -> None:
    """Ask the sweep's run in flight to stop these after the iteration that they are at, or with
    EVERYTHING to end as at a Ctrl-C."""
    asked = {*lineages}
    STOPS.update(store, sweep, lambda before: sorted(asked.union(before or ())))


def forget_stops(store: Store, sweep: str) -> None:
    """A run begins: what its predecessor was asked is over."""
    if store.peek(STOPS.path(sweep)) is not None:
        STOPS.write(store, sweep, [])
