"""What the commands of a storage's life print: for people with rich, for scripts as JSON."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.prompt import Confirm
from rich.table import Table

from orchestrator.commands.printing import size
from orchestrator.storage.collecting import Collected, Leftover
from orchestrator.storage.listing import ListedSweep
from orchestrator.storage.merging import Merged
from orchestrator.storage.removing import Removal
from orchestrator.storage.usage import Usage
from trainables.errors import UserError
from trainables.store import Store


class Unconfirmed(UserError):
    """What was not confirmed is not done."""


def show_sweeps(sweeps: Sequence[ListedSweep], store: Store, out: Console, as_json: bool) -> None:
    if as_json:
        _json([asdict(each) for each in sweeps])
        return
    if not sweeps:
        _say(f"storage {store.location} has no sweeps", out)
        return
    table = _columns("sweep", "state", "lineages", "iterations", "size", "first run", "last run")
    for each in sweeps:
        table.add_row(
            each.name,
            each.state,
            f"{each.lineages_done}/{each.lineages}",
            f"{each.iterations_stored}/{each.iterations}",
            size(each.bytes),
            _moment(each.first_run),
            _moment(each.last_run),
        )
    out.print(table, highlight=False)


def confirm_removal(planned: Removal, store: Store) -> None:
    """Ask whether the sweep is to go; raises Unconfirmed."""
    question = f"Remove {planned.sweep} from {store.location}? {_removed(planned, 'to go')}."
    if not sys.stdin.isatty():
        raise Unconfirmed(f"{question} Give --yes to remove it where nobody can be asked")
    if not Confirm.ask(question, console=Console(stderr=True), default=False):
        raise Unconfirmed("nothing was removed")


def show_removal(planned: Removal, out: Console, as_json: bool) -> None:
    if as_json:
        _json(asdict(planned) | {"iterations": planned.iterations, "bytes": planned.bytes})
        return
    _say(f"{planned.sweep} is removed: {_removed(planned, 'are gone')}", out)


def _removed(planned: Removal, gone: str) -> str:
    if not planned.known:
        return "its record cannot be read, and its iterations are left to `prunesweep gc`"
    told = (
        f"{planned.iterations} iterations that no other sweep has {gone}, "
        f"{size(planned.bytes)} in all"
    )
    if planned.shared:
        told += f"; {planned.shared} that others have stay"
    return told


def show_collected(
    found: Collected, store: Store, out: Console, *, dry_run: bool, as_json: bool
) -> None:
    if as_json:
        _json(asdict(found) | {"bytes": found.bytes, "dry_run": dry_run})
        return
    groups: dict[str, list[Leftover]] = {}
    for each in found.leftovers:
        groups.setdefault(each.what, []).append(each)
    for what, each in groups.items():
        _say(f"{what:12} {len(each):6}   {size(sum(one.bytes for one in each))}", out)
    for claim in found.kept_for:
        _say(
            f"kept: someone is at work under {claim}, which no sweep names; collect again when "
            f"that has ended (if nobody is: delete {store.uri(claim)})",
            out,
            style="yellow",
        )
    if not found.leftovers:
        _say("nothing to delete: sweeps are made of all that is stored", out)
    else:
        _say(f"{size(found.bytes)} {'to be deleted' if dry_run else 'deleted'}", out)


def show_merged(merged: Merged, other: Store, out: Console, as_json: bool) -> None:
    if as_json:
        _json(asdict(merged) | {"damage": [str(each) for each in merged.damage]})
        return
    for damage in merged.damage:
        _say(f"not copied, since it is damaged there: {damage}", out, style="red")
    _say(
        f"{', '.join(merged.sweeps)}: {merged.copied} commits copied from {other.location} "
        f"({size(merged.bytes)}), {merged.there} were here",
        out,
    )


def show_usage(found: Usage, out: Console, as_json: bool) -> None:
    if as_json:
        _json(asdict(found) | {"total": found.total})
        return
    table = _columns("sweep", "its own", "shared with others")
    for each in found.sweeps:
        table.add_row(each.name, *map(_known_size, (each.own, each.shared)))
    if found.unnamed is not None:
        table.add_row("of no sweep", size(found.unnamed), "")
    out.print(table, highlight=False)
    folders = _columns("folder", "size")
    for name, count in found.folders.items():
        folders.add_row(name, size(count))
    folders.add_row("total", size(found.total))
    out.print(folders, highlight=False)


def _known_size(count: int | None) -> str:
    return "unknown" if count is None else size(count)


def _columns(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _say(text: str, out: Console, style: str | None = None) -> None:
    out.print(text, style=style, highlight=False, soft_wrap=True, markup=False)


def _moment(time: str | None) -> str:
    """A recorded time on this machine's clock."""
    if time is None:
        return "–"
    return datetime.fromisoformat(time).astimezone().strftime("%Y-%m-%d %H:%M")


def _json(value: Any) -> None:
    print(json.dumps(value, indent=1, default=str))
