"""Runs: what each run of a sweep writes alone, and what is kept of those that are over."""

import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from orchestrator.records.ends import ENDS, by_lineage
from orchestrator.records.failures import FAILURES, Failure, each_once
from orchestrator.records.files import RecordFile
from orchestrator.records.heartbeat import RUN, Heartbeat
from orchestrator.records.provenance import PROVENANCE, Provenance, add_provenance, by_start
from orchestrator.records.spending import SPENDING, by_run
from orchestrator.records.stops import STOPS
from trainables.lineage.ending import End
from trainables.store import Damaged, Store, sweep_path
from trainables.store.claims import Claims, pause

OWN: tuple[RecordFile[Any], ...] = (RUN, FAILURES, PROVENANCE, STOPS, ENDS, SPENDING)
"""What a run has a file of its own of."""

Contents = TypeVar("Contents")


def new_run() -> str:
    """An id for a run that begins; those of later ones sort after it."""
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"


def last_heard(store: Store, sweep: str) -> dict[str, Heartbeat]:
    """The last sign of life of the sweep's runs in flight, and of those whose records still lie
    beside theirs, by their ids, the oldest first. One that cannot be read is none."""
    runs = sorted(_runs(store.names(sweep_path(sweep)), (RUN,)))
    found = {run: _readable(RUN.of(run), store, sweep) for run in runs}
    return {run: beat for run, beat in found.items() if beat is not None}


def runs_at_work(store: Store, sweep: str) -> dict[str, Heartbeat]:
    """The runs of the sweep that are in flight, by their ids, the oldest first."""
    return {run: beat for run, beat in last_heard(store, sweep).items() if beat.is_at_work}


def begin_run(
    store: Store,
    sweep: str,
    command: Iterable[str],
    run: str,
    left: Collection[str],
    ends: Iterable[End] = (),
) -> None:
    """Write down that `run` begins, which leaves the lineages `left` as they are. Of the others,
    which it trains again, what earlier runs told is forgotten; and of the ends that there are, all
    but `ends`, which it has found in what is committed."""
    add_provenance(store, sweep, command, run)
    _fold(store, sweep, run, lambda failure: failure.lineage in left, [*ends])


def end_run(store: Store, sweep: str) -> None:
    """A run has ended: what it wrote joins what is kept of those before it."""
    _fold(store, sweep, None, lambda failure: True, None)


@contextmanager
def alone(store: Store, sweep: str) -> Iterator[None]:
    """While the block runs, nobody else changes what is kept of the runs that are over."""
    claims = Claims(store)
    while (claim := claims.take(f"records-{sweep}")) is None:
        pause(0.2)
    with claim:
        yield


def _fold(
    store: Store,
    sweep: str,
    begun: str | None,
    kept: Callable[[Failure], bool],
    found: list[End] | None,
) -> None:
    """Move what runs that are over have written into the files that are of all of them, of failures
    those that are `kept`, and in the place of all ends those that were `found`, if anybody looked
    for them. Who is killed in the middle has moved some of it twice, which shows once.
    """
    with alone(store, sweep):
        names = store.names(sweep_path(sweep))
        ended = _runs(names, OWN) - {begun} - runs_at_work(store, sweep).keys()
        over = sorted(ended, reverse=True)

        def told_by_all(kind: RecordFile[Contents]) -> list[Contents]:
            """What can be read of what they wrote, the newest first, and last of what is kept."""
            there = [file for file in _files(kind, over) if file.name in names]
            found = [_readable(file, store, sweep) for file in there]
            return [each for each in found if each is not None]

        beats = told_by_all(RUN)
        if beats:
            with suppress(OSError):  # it costs a view of the past, and no result
                RUN.write_if_other(store, sweep, max(beats, key=lambda beat: beat.at))
        failures = each_once(told_by_all(FAILURES))
        FAILURES.write_if_other(store, sweep, [each for each in failures if kept(each)])
        told = by_lineage(told_by_all(ENDS)).values() if found is None else found
        if told or ENDS.name in names:
            ENDS.write_if_other(store, sweep, [*told])
        if spent := by_run(told_by_all(SPENDING)):
            SPENDING.write_if_other(store, sweep, spent)
        _set_damaged_aside(store, sweep, over)
        runs = [each for told in told_by_all(PROVENANCE) for each in told]
        if runs:
            heard = {run: _readable(RUN.of(run), store, sweep) for run in over}
            PROVENANCE.write_if_other(store, sweep, by_start(_heard(each, heard) for each in runs))
        own = (kind.of(run) for run in over for kind in OWN)
        for file in (file for file in own if file.name in names):
            with suppress(OSError):  # what cannot be deleted is moved again
                store.delete_file(file.path(sweep))


def _heard(each: Provenance, heard: Mapping[str, Heartbeat | None]) -> Provenance:
    last = heard.get(each.id)
    return each.model_copy(update={"heard_at": last.heartbeat}) if last is not None else each


def _set_damaged_aside(store: Store, sweep: str, over: Sequence[str]) -> None:
    """What was known of earlier runs is kept, even where it cannot be read."""
    for file in _files(PROVENANCE, over):
        try:
            file.read(store, sweep)
        except Damaged:
            store.set_aside(file.path(sweep))


def _runs(names: Iterable[str], kinds: Iterable[RecordFile[Any]]) -> set[str]:
    """The ids of the runs that have a file of one of the `kinds` among `names`."""
    return {run for kind in kinds for name in names if (run := kind.run_in(name)) is not None}


def _files(kind: RecordFile[Contents], runs: Iterable[str]) -> list[RecordFile[Contents]]:
    return [*(kind.of(run) for run in runs), kind]


def _readable(file: RecordFile[Contents], store: Store, sweep: str) -> Contents | None:
    try:
        return file.read(store, sweep)
    except Damaged:
        return None
