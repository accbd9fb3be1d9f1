"""What a run's nodes are at, those it lost, and what its slots' time went to, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.records.heartbeat import BUSY
from orchestrator.run.progress import duration

if TYPE_CHECKING:
    from orchestrator.records.heartbeat import Heartbeat, LostNode, Sight, SlotTime

SHOWN_NODES = 20
SHOWN_LOST = 5

WAITING = {
    "starting": "waiting for a worker",
    "shared": "waiting for an iteration that lineages share",
    "claimed": "waiting for another run",
    "storage": "waiting for the storage",
    "nothing": "with nothing left to do",
}
"""What idle slots wait for."""


def nodes_view(run: Heartbeat) -> Iterator[RenderableType]:
    """Of a run in flight, or one that has died in it."""
    if run.sight is None:
        return
    busy = sum(run.sight.slots.now.get(use, 0) for use in BUSY)
    at_work = f"{busy} of {sum(run.sight.slots.now.values())} slots at work"
    yield Text("; ".join([at_work, *slots_time(run.sight.slots)]))
    if [*_addresses(run.sight)] != [run.host]:
        yield from _nodes(run, run.sight)
    yield from _lost(run.sight)


def slots_time(slots: SlotTime) -> Iterator[str]:
    """What the time of slots went to, if there was any."""
    whole = sum(slots.seconds.values())
    if not whole:
        return
    shares = Counter(slots.seconds)
    lost = f", {_percent(shares['lost'] / whole)} lost and done again" if shares["lost"] else ""
    idle = [(use, spent) for use, spent in shares.most_common() if use not in BUSY and spent]
    waiting = ", ".join(f"{_percent(spent / whole)} {WAITING.get(use, use)}" for use, spent in idle)
    why = f", {_percent(sum(spent for _, spent in idle) / whole)} idle: {waiting}" if idle else ""
    yield f"of the slots' time {_percent(shares['training'] / whole)} in training{lost}{why}"


def _percent(share: float) -> str:
    return "<1%" if 0 < share < 0.005 else f"{100 * share:.0f}%"


def _addresses(sight: Sight) -> dict[str, str]:
    return {name: address for alike in sight.nodes for name, address in alike.names.items()}


def _nodes(run: Heartbeat, sight: Sight) -> Iterator[RenderableType]:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("node", "address", "slots", "GPUs", "lineages"):
        table.add_column(heading, justify="left" if heading in ("node", "address") else "right")
    lineages = Counter(line.node for line in run.running.values())
    each = [(alike, name) for alike in sight.nodes for name in alike.names]
    for alike, name in each[:SHOWN_NODES]:
        here = str(lineages[name]) if lineages[name] else "–"
        table.add_row(Text(name), alike.names[name], str(alike.slots), str(alike.gpus), here)
    yield table
    if rest := each[SHOWN_NODES:]:
        slots = sum(alike.slots for alike, _ in rest)
        idle = sum(not lineages[name] for _, name in rest)
        yield Text(f"and {len(rest)} more with {slots} slots, {idle} of them without a lineage")


def _lost(sight: Sight) -> Iterator[Text]:
    for node in sight.lost[-SHOWN_LOST:]:
        yield Text(f"lost: {_told(node)}")
    if sight.lost_in_all > SHOWN_LOST:
        yield Text(f"{sight.lost_in_all} nodes were lost in all")


def _told(node: LostNode) -> str:
    count = f"{node.lineages} {'lineage' if node.lineages == 1 else 'lineages'}"
    when = f"{node.at[:19].replace('T', ' ')} UTC"
    return f"{node.name} at {when}, with {duration(node.seconds)} of work on {count}"
