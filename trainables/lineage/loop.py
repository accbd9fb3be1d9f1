"""A lineage: one network trained, pruned, rewound and retrained, iteration by iteration.

This is Algorithm 1 of the papers, against a store: every iteration reads its parent's commit and
writes its own. It needs no cluster and runs in a plain Python process.
"""

from collections.abc import Generator
from contextlib import closing, suppress
from typing import TypeAlias

from trainables.errors import Interrupted
from trainables.lineage.bench import Bench
from trainables.lineage.ending import End, until
from trainables.lineage.iteration import Iteration
from trainables.lineage.iteration_run import Asking, IterationRun
from trainables.lineage.keys import Lineage, Measurement
from trainables.lineage.measurement_run import measure_lineage
from trainables.lineage.metrics import Metrics
from trainables.lineage.stored import Stored
from trainables.store import Damaged, iteration_path
from trainables.store.artifacts import WEIGHTS
from trainables.store.claims import Claim, ClaimLost, Claims, pause
from trainables.training.progress import Progress
from trainables.training.run import Training

Event: TypeAlias = Training | Metrics | Measurement | None
"""What a lineage comes to: a training to be done, an iteration or a measurement that is committed,
or one that someone else is at."""


def run_lineage(lineage: Lineage, bench: Bench) -> Generator[Metrics | None]:
    """Train and commit what the store lacks of `lineage`, yielding each new iteration's metrics;
    then measure what it lacks of its measurements.

    Yields None every second or so while someone else trains the iteration that comes next. A
    damaged commit that is needed is set aside and trained again. Ends where the lineage's stop
    rules say so, by what is committed. Raises Diverged when training does, and Interrupted when
    this process is told to go; what was committed before stays.
    """
    events = lineage_events(lineage, bench)
    with closing(events), suppress(StopIteration):
        event = next(events)
        while True:
            if isinstance(event, Training):
                event = _trained(event, events)
                continue
            if not isinstance(event, Measurement):
                if event is None:
                    pause()
                yield event
            event = next(events)


def _trained(training: Training, events: Generator[Event, Progress | None, End | None]) -> Event:
    """What comes after a training. What that raises is raised in the lineage, of which a measure
    may go on."""
    try:
        progress = training.finish()
    except Exception as error:
        return events.throw(error)
    return events.send(progress)


def lineage_events(lineage: Lineage, bench: Bench) -> Generator[Event, Progress | None, End | None]:
    """`run_lineage` for who trains and waits himself: is sent the progress of each training that
    it yields, or has thrown what was raised by it. Returns where stop rules have ended the lineage.
    """
    claims = Claims(bench.store, bench.run, lineage.id, bench.attempt)
    stored = Stored(lineage, bench.store)
    looked_at: set[str] = set()
    while True:
        try:
            index = stored.first_missing()
            if index is None:
                yield from measure_lineage(until(lineage, stored.end), bench, claims)
                return stored.end
            if bench.is_told():
                raise Interrupted(f"it was told to go before iteration {index}")
            iteration = IterationRun(lineage, index, bench)
            claim = claims.take(iteration.key)
            # It may have been committed before the claim was asked for.
            stored.look_again(index)
            metrics = (yield from _run_claimed(iteration, stored, claim)) if claim else None
        except Damaged as damage:
            if damage.path in looked_at:
                raise
            stored.forget()
            if set_aside_damaged(damage.path, claims) or not claims.is_taken(_key(damage.path)):
                looked_at.add(damage.path)
            else:
                yield None  # who is at it looks, and sets it aside or has done so
            continue
        if claim is None:
            yield None
        elif metrics is not None:
            _retire_weights(iteration, stored.end)
            looked_at.clear()
            yield metrics


def _run_claimed(iteration: IterationRun, stored: Stored, claim: Claim) -> Asking[Metrics | None]:
    """The metrics of the iteration; None when someone else has committed it or taken it over."""
    with claim:
        if stored.first_missing() != iteration.index:
            return None
        stored.look_again(iteration.index)
        try:
            metrics = yield from iteration.run(claim)
        except ClaimLost:
            return None
        stored.committed(iteration.index)
        stored.first_missing()
        return metrics


def set_aside_damaged(path: str, claims: Claims) -> Damaged | None:
    """Move a commit to quarantine if it is damaged; what was wrong with it.

    None when it is sound, or when someone else is at it.
    """
    claim = claims.take(_key(path))
    if claim is None:
        return None
    with claim:
        damage = next(claims.store.damage(path), None)
        if damage is not None:
            claims.store.set_aside(path)
        return damage


def _key(path: str) -> str:
    return path.rpartition("/")[2]


def _retire_weights(iteration: Iteration, end: End | None) -> None:
    """Drop the weights that `keep_weights` does not keep, now that the iteration is committed; its
    lineage may have come to its `end`."""
    lineage, index, bench = iteration.lineage, iteration.index, iteration.bench
    keep = bench.keeping.keep_weights
    if keep == "all":
        return
    done = [index - 1] if index >= 1 else []
    if lineage.cell.ablation is not None:
        # What it branches off is another lineage's, and what it reads it may not have read yet.
        kept = {lineage.first_own - 1, *lineage.weights_read(lineage.first_own)}
        done = [each for each in done if each not in kept]
    if keep == "none" and index == len(until(lineage, end).keys) - 1:
        done.append(index)
    for key in (lineage.keys[i] for i in done):
        if key in bench.branch_points or key == lineage.trunk:
            continue
        try:
            bench.store.drop_file(iteration_path(key), WEIGHTS)
        except Damaged as damage:
            bench.store.set_aside(damage.path)
