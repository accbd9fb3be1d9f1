"""Wishes: what a run is asked beside its sweep file."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import PydanticCustomError

from orchestrator.records.failures import Failure, read_failures
from orchestrator.sweepfile.mistakes import unknown
from orchestrator.sweepfile.spec import SweepSpec, first_met
from trainables.errors import UserError
from trainables.lineage.keys import Lineage
from trainables.store import Damaged, Store


class WishError(UserError):
    """A condition that no lineage of the sweep can meet; the message says which."""


@dataclass(frozen=True)
class Wishes:
    """Which lineages of a sweep a run trains, and for how many `seconds`.

    `only` are conditions, as in `exclude` of a sweep file, that all have to be met, and `skip` such
    of which none may be. What has diverged in an earlier run is trained again with `retry_failed`.
    With `replace`, lineages may leave the stored sweep.
    """

    only: Mapping[str, Any] = field(default_factory=dict)
    skip: Sequence[Mapping[str, Any]] = ()
    retry_failed: bool = False
    seconds: float | None = None
    replace: bool = False

    def unmet(self, spec: SweepSpec, lineages: Sequence[Lineage]) -> set[str]:
        """The ids of those of `lineages`, one for each cell of `spec`, that are not to be trained.

        Raises WishError.
        """
        skipped = _first_met(spec, self.skip, "--skip")
        wanted = _first_met(spec, [self.only], "--only") if self.only else [0] * len(lineages)
        if all(met is None for met in wanted):
            raise WishError("--only: no lineage has all of this; write what some have")
        left = [out is None and in_ is not None for out, in_ in zip(skipped, wanted, strict=True)]
        if not any(left):
            raise WishError("--skip: no lineage is left to train; skip fewer")
        return {line.id for line, is_left in zip(lineages, left, strict=True) if not is_left}

    def given_up(self, store: Store, sweep: str) -> set[str]:
        """The ids of the lineages that have diverged in the sweep's last run: they would do so
        again, and are left as they are."""
        if self.retry_failed:
            return set()
        return {each.lineage for each in _failures(store, sweep) if each.diverged}


NO_WISHES = Wishes()


def failures_of(store: Store, sweep: str, lineages: Collection[str]) -> tuple[Failure, ...]:
    """What the sweep's last run told of lineages, by their ids, that another one leaves as they
    are."""
    return tuple(each for each in _failures(store, sweep) if each.lineage in lineages)


def _failures(store: Store, sweep: str) -> list[Failure]:
    try:
        return read_failures(store, sweep)
    except Damaged:
        return []


def _first_met(
    spec: SweepSpec, entries: Sequence[Mapping[str, Any]], option: str
) -> list[int | None]:
    try:
        return first_met(spec, entries, option)
    except PydanticCustomError as error:
        context = error.context or {}
        if error.type == "unknown_key":
            reason = unknown(context["key"], context["known"], "key")
            raise WishError(f"{option}: {reason}") from error
        where = ".".join(map(str, context.get("path", ())[2:]))
        raise WishError(f"{option} {where}: {error.message()}") from error


def urgencies(spec: SweepSpec, lineages: Sequence[Lineage]) -> dict[str, int]:
    """How urgent lineages are, from 0, by their ids, as `priority` of the sweep file has it."""
    found = first_met(spec, spec.priority, "priority")
    pairs = zip(lineages, found, strict=True)
    return {lineage.id: number for lineage, number in pairs if number is not None}
