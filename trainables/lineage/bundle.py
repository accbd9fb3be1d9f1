"""A bundle: lineages trained together, each claimed and committed by itself."""

import logging
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias

import torch

from trainables.errors import Interrupted
from trainables.lineage.bench import Bench
from trainables.lineage.ending import End
from trainables.lineage.keys import Lineage, Measurement
from trainables.lineage.loop import Event, lineage_events
from trainables.lineage.metrics import Metrics
from trainables.store.claims import pause
from trainables.training.progress import Progress
from trainables.training.run import Training, train

LOG = logging.getLogger("prunesweep")


@dataclass(frozen=True)
class Finished:
    """Nothing of the lineage is left to train; stop rules may have put an `end` to it."""

    end: End | None = None


@dataclass(frozen=True)
class Failed:
    """A lineage failed with `error`, in a training of `fused` networks or by itself."""

    error: Exception
    fused: int = 1


Outcome: TypeAlias = Metrics | Measurement | Finished | Failed | None
"""What a round comes to for a lineage: the metrics of the iteration that it committed, or the
measurement; that it has finished, or failed; None when someone else is at what comes next."""

Limit: TypeAlias = Callable[[Sequence[Lineage]], AbstractContextManager[None]]
"""Of the work that is done in its context, on behalf of the lineages."""


def no_limit(lineages: Sequence[Lineage]) -> AbstractContextManager[None]:
    """A `Limit` that does nothing."""
    return nullcontext()


def run_bundle(
    benches: Iterable[tuple[Lineage, Bench]], limit: Limit = no_limit
) -> Generator[dict[str, Outcome]]:
    """Train and commit what the store lacks of the lineages; yields, round for round, what became
    of each by its id. One that has failed, or come to its end, is in no later round.

    In a round each lineage comes one iteration further. Trainings of one `Training.kind` are one
    computation; all else each lineage does by itself. What one fails with does not touch the
    others. When all wait for someone else, a round takes a moment. `limit` is entered for every
    piece of work. Raises Interrupted when this process is told to go: what was in flight has left
    its state, and its claim.
    """
    going = [_Going(lineage, lineage_events(lineage, bench)) for lineage, bench in benches]
    try:
        while going:
            outcomes = _round(going, limit)
            if all(outcome is None for outcome in outcomes.values()):
                pause()
            over = [each for each in going if not each.goes_on]
            going = [each for each in going if each.goes_on]
            _close(over)
            yield outcomes
    finally:
        _close(going)


def _close(lineages: Iterable["_Going"]) -> None:
    """Let go of what the lineages hold. A claim that cannot be withdrawn ends by itself, and is no
    matter of the others."""
    for each in lineages:
        try:
            each.events.close()
        except Exception:
            LOG.warning("%s: not closed", each.lineage.id, exc_info=True)


@dataclass
class _Going:
    """A lineage at work, and what it has come to."""

    lineage: Lineage
    events: Generator[Event, Progress | None, End | None]
    event: Training | Outcome = None

    @property
    def goes_on(self) -> bool:
        if isinstance(self.event, dict):
            return self.event["key"] != self.lineage.keys[-1] or bool(self.lineage.measurements)
        return not isinstance(self.event, Finished | Failed)

    def advance(self, trained: Progress | Failed | None, among: int) -> None:
        """Go on with what became of the training that was asked for, `among` so many lineages."""
        try:
            if isinstance(trained, Failed):
                self.event = self.events.throw(trained.error)
            else:
                self.event = self.events.send(trained)
        except StopIteration as stop:
            self.event = Finished(stop.value)
        except Interrupted:
            raise
        except Exception as error:
            # The others' models lie in memory too.
            fused = among if isinstance(error, torch.OutOfMemoryError) else 1
            self.event = trained if isinstance(trained, Failed) else Failed(error, fused)


def _round(going: Sequence[_Going], limit: Limit) -> dict[str, Outcome]:
    for each in going:
        with limit([each.lineage]):
            each.advance(None, len(going))
    # A damaged parent, or a lost claim, makes a lineage ask for a training once more.
    while waiting := [each for each in going if isinstance(each.event, Training)]:
        for together in _of_one_kind(waiting):
            with limit([each.lineage for each in together]):
                ended = _trained(together)
            for each, end in zip(together, ended, strict=True):
                with limit([each.lineage]):
                    each.advance(end, len(going))
    return {each.lineage.id: _outcome(each.event) for each in going}


def _outcome(event: Training | Outcome) -> Outcome:
    assert not isinstance(event, Training)
    return event


def _of_one_kind(waiting: Sequence[_Going]) -> Iterator[list[_Going]]:
    kinds: dict[object, list[_Going]] = {}
    for each in waiting:
        assert isinstance(each.event, Training)
        kinds.setdefault(each.event.kind, []).append(each)
    yield from kinds.values()


def _trained(together: Sequence[_Going]) -> list[Progress | Failed]:
    trainings = [each.event for each in together if isinstance(each.event, Training)]
    fused = len(trainings)
    try:
        ended = train(trainings)
    except Interrupted:
        raise
    except Exception as error:
        return [_failed(error, fused) for _ in trainings]
    return [_failed(end) if isinstance(end, Exception) else end for end in ended]


def _failed(error: Exception, fused: int = 1) -> Failed:
    # Its frames hold the networks, which are tried again in smaller bundles.
    traceback.clear_frames(error.__traceback__)
    return Failed(error, fused)
