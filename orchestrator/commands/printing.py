"""What commands print: for people with rich, for scripts as JSON."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.commands.called import as_called, called
from orchestrator.commands.printing_nodes import nodes_view, slots_time
from orchestrator.records.labels import labels
from orchestrator.results.rendering import decimals
from orchestrator.run.allowance import budget_line
from orchestrator.run.progress import duration
from orchestrator.run.ranking import rung_line

if TYPE_CHECKING:
    from orchestrator.commands.catalogue import Listing
    from orchestrator.commands.doctor import Check
    from orchestrator.commands.verify import Verified
    from orchestrator.records.failures import Failure
    from orchestrator.records.heartbeat import Heartbeat
    from orchestrator.records.status import Stopped, SweepStatus
    from orchestrator.run.planned_sweep import PlannedSweep
    from orchestrator.run.planning import Plan
    from orchestrator.tracking.mirroring import Sent
    from trainables.store import Store

CLOCKS_DIFFER = timedelta(minutes=1)
TRACEBACK_LINES = 3

BAR_WIDTH = 24
FEW_SEEDS = 8
SHOWN_STOPPED = 16


def show_plan(planned: PlannedSweep, out: Console, as_json: bool, *, listed: bool = False) -> None:
    plan = planned.plan
    seconds, cost, budget = planned.seconds_on(1), planned.cost, planned.spec.budget
    # To ask for the devices that there are imports torch.
    here = planned.packed_here if plan.tasks else None
    figures: dict[str, Any] = {
        "sweep": planned.spec.name,
        "seeds": planned.spec.seeds,
        "lineages": len(plan.lineages),
        "lineages_complete": plan.complete,
        "iterations": plan.rows,
        "to_train": len(plan.to_train),
        "may_end_before": len(plan.may_end),
        "stopped": [asdict(end) for end in plan.ends.values()],
        "shared": plan.shared,
        "stored": plan.stored,
        "budget": budget and budget.model_dump(),
        "spent": asdict(planned.spent),
        "to_measure": len(plan.to_measure),
        "estimated_device_seconds": seconds,
        "estimated_from": planned.sources,
        "estimated_here": cost and asdict(cost),
        "packed_here": here and here.line,
        "estimated_bytes": planned.bytes,
        "notices": planned.notices,
        "datasets": [asdict(found) for found in planned.datasets_record],
    }
    if as_json:
        print_json(figures | ({"each_lineage": _each_lineage(planned)} if listed else {}))
        return
    most = "at most " if plan.may_end else ""
    time = "unknown (nothing like it is recorded yet; --probe measures it)"
    if seconds is not None:
        time = f"{most}{duration(seconds)}, one lineage at a time"
    table = Table.grid(padding=(0, 3))
    table.add_column(style="bold")
    table.add_row("sweep", planned.spec.name)
    table.add_row("seeds", _seeds(planned.spec.seeds))
    stopped = f", {len(plan.ends)} of them ended early" if plan.ends else ""
    table.add_row("lineages", f"{len(plan.lineages)}, {plan.complete} complete{stopped}")
    table.add_row("iterations", f"{most}{plan.rows}{_may_end(plan)}")
    table.add_row("  to train", f"{most}{len(plan.to_train)}")
    table.add_row("  shared", f"{plan.shared} (the same as one of another lineage)")
    table.add_row("  stored", str(plan.stored))
    if budget and budget.limits:
        table.add_row("budget", budget_line(budget, planned.spent))
    if plan.rung:
        table.add_row("rank", rung_line(plan.rung))
    if planned.spec.measures:
        table.add_row("measurements", f"{most}{len(plan.to_measure)} to make")
    table.add_row("time", time)
    if seconds and cost:
        hours = f"{cost.hours:.1f}" if cost.hours >= 0.1 else f"{cost.hours:.2g}"
        here_time = f"{most}{duration(cost.seconds)} on this machine, {hours} {cost.device}-hours"
        table.add_row("", f"{here_time} ({'; '.join(planned.sources)})")
    if here:
        table.add_row("here", here.line)
    table.add_row("storage", f"{most or 'about '}{size(planned.bytes)} to be written")
    out.print(table)
    if listed:
        out.print(_lineage_table(_each_lineage(planned)))
    for line in planned.dataset_lines:
        out.print(line, highlight=False, soft_wrap=True, markup=False)
    for notice in (*planned.notices, *(here.notices if here else ())):
        out.print(notice, style="yellow", highlight=False, soft_wrap=True)


def _may_end(plan: Plan) -> str:
    if not plan.may_end:
        return ""
    count = len(plan.may_end)
    return f" ({count} {'lineage' if count == 1 else 'lineages'} may end earlier)"


def _each_lineage(planned: PlannedSweep) -> list[dict[str, Any]]:
    """What each lineage is, and how many of its iterations are to be trained, by whomever."""
    names, ends = labels(planned.record), planned.plan.ends
    return [
        {
            "lineage": line.id,
            "label": names[line.id],
            "seed": line.cell.seed,
            "iterations": len(line.own_keys),
            "to_train": sum(key in planned.plan.to_train for key in line.own_keys),
            "may_end_before": line.id in planned.plan.may_end,
            "stopped": ends[line.id].why if line.id in ends else None,
        }
        for line in planned.plan.so_far
    ]


def _lineage_table(lineages: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("label", "seed", "iterations", "to train", "lineage"):
        text = heading in ("label", "lineage")
        table.add_column(heading, justify="left" if text else "right", overflow="fold")
    for line in lineages:
        most = "≤ " if line["may_end_before"] else ""
        counts = (f"{most}{line[name]}" for name in ("iterations", "to_train"))
        table.add_row(line["label"], str(line["seed"]), *counts, line["lineage"])
    return table


def _seeds(seeds: Sequence[int]) -> str:
    """What was understood: `seeds: 3` is one seed, and not three."""
    if len(seeds) == 1:
        seed = seeds[0]
        hint = f"; for {seed} seeds write seeds: {{count: {seed}}}" if 1 < seed < 1000 else ""
        return f"one, seed {seed}{hint}"
    counted = [*range(seeds[0], seeds[0] + len(seeds))] == [*seeds]
    if len(seeds) > FEW_SEEDS:
        ends = f"{seeds[0]} … {seeds[-1]}" if counted else f"{seeds[0]}, {seeds[1]}, …, {seeds[-1]}"
        return f"{len(seeds)}: {ends}"
    return f"{len(seeds)}: {', '.join(map(str, seeds))}"


def show_status(status: SweepStatus, out: Console, as_json: bool) -> None:
    if as_json:
        print_json(_status_json(status))
    else:
        out.print(_status_view(status), highlight=False)


def follow_status(statuses: Iterable[SweepStatus], out: Console, as_json: bool) -> None:
    """A live view in a terminal; elsewhere a line, or with `as_json` an object, for each change."""
    if out.is_terminal and not as_json:
        with Live(console=out, auto_refresh=False) as live:
            for status in statuses:
                live.update(_status_view(status), refresh=True)
        return
    last = None
    for status in statuses:
        seen = replace(status, run=None, runs=())  # a heartbeat alone is no news
        if seen != last:
            print(json.dumps(_status_json(status)) if as_json else _status_line(status), flush=True)
        last = seen


def show_verified(verified: Verified, store: Store, out: Console, as_json: bool) -> None:
    if as_json:
        damage = [str(each) for each in verified.damage]
        figures = {"commits": verified.commits, "tables": verified.tables, "damage": damage}
        print_json(figures | {"behind": verified.behind})
        return
    for each in verified.damage:
        out.print(as_called(str(each)), style="red", highlight=False, soft_wrap=True)
    for name in verified.behind:
        out.print(f"the tables of {name} lack its latest commits; `{called()} results {name}` "
                  "rebuilds them", highlight=False, soft_wrap=True)  # fmt: skip
    if not (verified.commits or verified.tables or verified.damage):
        out.print(f"storage {store.location} has nothing to check", highlight=False)
        return
    state = f"{len(verified.damage)} damaged" if verified.damage else "all sound"
    out.print(f"{verified.commits} commits and {verified.tables} tables: {state}", highlight=False)


def show_sent(sent: Sent, store: Store, name: str, out: Console, as_json: bool) -> None:
    if as_json:
        print_json(asdict(sent))
        return
    there = sent.sent + sent.unchanged
    sync = f"{called()} wandb-sync {name} --storage {shlex.quote(store.location)}"
    if sent.to.mode == "online":
        shown = f"W&B: {there} lineages at {sent.to}"
    else:
        shown = f"W&B: {there} lineages, offline, in {sent.folder}"
        if not sent.left:
            shown += f"   send them: {sync} --mode online"
    if sent.left:
        why = f" ({sent.problem})" if sent.problem else ""
        shown += f"; {sent.left} not sent{why}   send them: {sync} --mode {sent.to.mode}"
    out.print(shown, soft_wrap=True, highlight=False, markup=False)


def show_catalogue(entries: Sequence[Listing], out: Console, as_json: bool) -> None:
    if as_json:
        print_json([asdict(entry) for entry in entries])
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("name", "options", "what it is"):
        table.add_column(heading, overflow="fold")
    for entry in entries:
        table.add_row(entry.name, "\n".join(_options(entry)), entry.summary)
    out.print(table)


def _options(entry: Listing) -> Iterator[str]:
    """An option a line, with what it can be."""
    for option in entry.options:
        values = entry.values.get(option.partition("=")[0])
        yield f"{option} ({values})" if values else option


def show_checks(checks: Iterable[Check], out: Console, as_json: bool) -> None:
    if as_json:
        print_json([asdict(check) for check in checks])
        return
    for check in checks:
        mark = "[green]ok[/green]   " if check.ok else "[red]wrong[/red]"
        out.print(f"{mark}  {check.name:12} {check.found}", highlight=False, soft_wrap=True)


def size(count: int) -> str:
    """Bytes as people read them: 12 kB, 3.4 GB."""
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count / 1e3:.0f} kB" if count >= 1000 else f"{count} bytes"


def _status_json(status: SweepStatus) -> dict[str, Any]:
    runs = [run.model_dump() for run in status.runs]
    return asdict(status) | {"run": status.run and status.run.model_dump(), "runs": runs}


def _status_view(status: SweepStatus) -> Group:
    head = Text.assemble((status.name, "bold"), f": {status.state}")
    most = "at most " if status.at_most else ""
    counts = Text(
        f"lineages {status.lineages_done}/{status.lineages} complete, "
        f"iterations {status.iterations_stored}/{most}{status.iterations} committed"
        f"{_measured(status)}"
    )
    parts: list[RenderableType] = [head, counts, _methods_table(status)]
    if status.run and status.state in ("running", "died"):
        parts += [*_heartbeats(status.run, status.runs), _running_lineages(status)]
    elif status.run and status.run.sight:
        parts += [Text(f"last run: {told}") for told in slots_time(status.run.sight.slots)]
    damage = [Text(f"{each}; the next run writes it anew", "red") for each in status.damage]
    stopped = _stopped(status.stopped, status.labels)
    return Group(*parts, *stopped, *_failures(status.failures, status.labels), *damage)


def _status_line(status: SweepStatus) -> str:
    failed = f", {len(status.failures)} failed" if status.failures else ""
    return (
        f"{status.name}: {status.state}, lineages {status.lineages_done}/{status.lineages}, "
        f"iterations {status.iterations_stored}/{status.iterations}{_measured(status)}{failed}"
    )


def _measured(status: SweepStatus) -> str:
    """How far a sweep is measured, where it is."""
    there = f", measurements {status.measurements_stored}/{status.measurements}"
    return there if status.measurements else ""


def _methods_table(status: SweepStatus) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("method", "lineages", "iterations", "", ""):
        table.add_column(heading, justify="right" if heading.endswith("s") else "left")
    for method in status.methods:
        table.add_row(
            Text(method.label),
            f"{method.done}/{method.lineages}",
            f"{method.committed}/{method.iterations}",
            ProgressBar(max(method.iterations, 1), method.committed, width=BAR_WIDTH),
            Text(f"{method.failed} failed", "red") if method.failed else "",
        )
    return table


def _heartbeats(run: Heartbeat, runs: Sequence[Heartbeat]) -> Iterator[RenderableType]:
    if len(runs) > 1:
        yield Text(f"{len(runs)} runs in flight, {duration(run.eta_seconds)} left together")
    for each in runs or [run]:
        yield _heartbeat(each)
        yield from _packing(each)
        yield from nodes_view(each)


def _heartbeat(run: Heartbeat) -> Text:
    ahead = datetime.fromisoformat(run.heartbeat) - datetime.now(UTC)
    clock = f" by a clock {duration(ahead.total_seconds())} ahead of this one's"
    heard = f"last heard {run.heartbeat[:19]} UTC{clock if ahead > CLOCKS_DIFFER else ''}"
    return Text(f"pid {run.pid} on {run.host}, {heard}, {duration(run.eta_seconds)} left")


def _packing(run: Heartbeat) -> Iterator[Text]:
    if run.packing is not None:
        yield Text(run.packing)


def _running_lineages(status: SweepStatus) -> Table:
    assert status.run is not None
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("running", "iteration", "accuracy", "attempt", "node"):
        table.add_column(heading, justify="left" if heading in ("running", "node") else "right")
    for lineage, line in status.run.running.items():
        table.add_row(
            Text(status.labels.get(lineage, lineage)),
            "–" if line.iteration is None else str(line.iteration),
            "–" if line.accuracy is None else decimals(line.accuracy, 4),
            str(line.attempt),
            Text(line.node or "–"),
        )
    return table


def print_stopped(stopped: Sequence[Stopped], names: Mapping[str, str], out: Console) -> None:
    for shown in _stopped(stopped, names):
        out.print(shown, highlight=False, soft_wrap=True)


def _stopped(stopped: Sequence[Stopped], names: Mapping[str, str]) -> Iterator[Text]:
    for each in stopped[:SHOWN_STOPPED]:
        name = names.get(each.lineage, each.lineage)
        yield Text(f"done: {name} ends with iteration {each.iteration}: {each.why}")
    if len(stopped) > SHOWN_STOPPED:
        yield Text(f"and {len(stopped) - SHOWN_STOPPED} more that ended early")


def print_failures(failures: Sequence[Failure], names: Mapping[str, str], out: Console) -> None:
    for shown in _failures(failures, names):
        out.print(shown, highlight=False)


def _failures(failures: Sequence[Failure], names: Mapping[str, str]) -> Iterator[Text]:
    for failure in failures:
        lines = failure.traceback.strip().splitlines()[-TRACEBACK_LINES:]
        name = names.get(failure.lineage)
        who = f"{name} ({failure.lineage})" if name else failure.lineage
        where = f" {who} at iteration {failure.iteration}"
        yield Text.assemble(("failed:", "red"), where, *(f"\n  {line}" for line in lines))


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, default=str))
