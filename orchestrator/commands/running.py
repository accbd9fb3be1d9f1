"""Commands of running sweeps: plan, run, stop, status."""

import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from orchestrator.commands.exit_codes import FAILED, INTERRUPTED, OK
from orchestrator.commands.parameters import (
    DEFAULT_STORAGE,
    AsJson,
    Only,
    Overrides,
    Plugins,
    Retry,
    Skip,
    Storage,
    SweepFile,
    SweepName,
)
from orchestrator.commands.streams import complain, console, ended_by_ctrl_c


def plan(
    file: SweepFile,
    *,
    storage: Storage = DEFAULT_STORAGE,
    set_: Overrides = None,
    plugin: Plugins = None,
    only: Only = None,
    skip: Skip = None,
    retry: Retry = None,
    probe: Annotated[
        bool,
        Parameter(
            negative="", help="Train a few dozen steps of each kind here first, to time them."
        ),
    ] = False,
    list_: Annotated[
        bool, Parameter(name="--list", negative="", help="Also each lineage, by what it is.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Show what a run would train, share and reuse, and how long it would take. Trains nothing
    without --probe."""
    from orchestrator.commands import printing
    from orchestrator.commands.given import SweepArguments, wishes
    from orchestrator.run.planned_sweep import plan_sweep, probe_sweep
    from trainables.data import data_roots
    from trainables.store import Store

    given = SweepArguments.of(file, set_, plugin)
    spec = given.load()
    with given.located():
        roots = data_roots(spec.data_root, os.environ, given.file.parent)
        of = spec, Store(storage), roots, wishes(only, skip, retry)
        planned = probe_sweep(*of, told=complain) if probe else plan_sweep(*of)
    printing.show_plan(planned, console(), as_json, listed=list_)
    return OK


def run(
    file: SweepFile,
    *,
    storage: Storage = DEFAULT_STORAGE,
    address: Annotated[
        str | None, Parameter(help="A Ray cluster's address; without it, this machine is used.")
    ] = None,
    replace: Annotated[
        bool,
        Parameter(
            negative="", help="Let lineages leave the stored sweep of this name; none is deleted."
        ),
    ] = False,
    only: Only = None,
    skip: Skip = None,
    retry: Retry = None,
    for_: Annotated[
        str | None,
        Parameter(name="--for", help="End between iterations after so long, as in 11h or 90m."),
    ] = None,
    set_: Overrides = None,
    plugin: Plugins = None,
    as_json: AsJson = False,
) -> int:
    """Train what is missing of a sweep; run it again to resume. Ends with a summary."""
    from orchestrator.commands.given import SweepArguments, wishes
    from orchestrator.commands.printing_results import show_summary
    from orchestrator.run.progress import Lasting, RunProgress
    from orchestrator.run.sweep import run_sweep
    from trainables.data import data_roots
    from trainables.store import Store

    given = SweepArguments.of(file, set_, plugin)
    spec = given.load()
    store = Store(storage)
    progress = RunProgress(store, spec.name, Lasting(stderr=True))
    roots = data_roots(spec.data_root, os.environ, given.file.parent)
    with given.located():
        summary = run_sweep(
            spec, store, roots, progress,
            address=address, command=sys.argv,
            wishes=wishes(only, skip, retry, for_, replace=replace),
        )  # fmt: skip
    show_summary(summary, store, console(), as_json)
    if summary.outcome.interrupted:
        return INTERRUPTED
    return FAILED if summary.outcome.failures or summary.damage or summary.problem else OK


def stop(
    name: SweepName,
    lineage: Annotated[
        list[str] | None,
        Parameter(
            negative="",
            help="A lineage's label or id, or a part of the id that is unique.",
        ),
    ] = None,
    *,
    storage: Storage = DEFAULT_STORAGE,
) -> int:
    """Have the run in flight end, or train these lineages no further, after the iteration that they
    are at. The same run command goes on."""
    from orchestrator.errors import UserError
    from orchestrator.records.labels import find_lineages, lineage_labels
    from orchestrator.records.status import run_in_flight
    from orchestrator.records.stops import EVERYTHING, ask_to_stop
    from orchestrator.records.sweep import existing_sweep
    from trainables.store import Store

    store = Store(storage)
    record = existing_sweep(store, name)
    wanted = [line.id for each in lineage or () for line in find_lineages(record, each)]
    if run_in_flight(store, name) is None:
        raise UserError(f"no run of {name} is in flight; there is nothing to stop")
    ask_to_stop(store, name, wanted or [EVERYTHING])
    names = lineage_labels(record)
    asked = ", ".join(names[id] for id in wanted) or "the whole run"
    print(f"asked: {asked}; it is heard within some seconds")
    return OK


def status(
    name: Annotated[str, Parameter(help="The sweep's name, or its YAML file.")],
    *,
    storage: Storage = DEFAULT_STORAGE,
    watch: Annotated[
        bool,
        Parameter(
            negative="",
            help="Go on showing it until the run in flight ends; wait for a sweep that is not "
            "there yet.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Show how far a sweep is, at rest or in flight, from any terminal."""
    from orchestrator.commands import printing
    from orchestrator.records.status import sweep_status, watch_status
    from orchestrator.sweepfile.yaml_source import load_sweep
    from trainables.store import Store

    store = Store(storage)
    if name.endswith((".yaml", ".yml")) and Path(name).exists():
        name = load_sweep(Path(name)).name
    if not watch:
        printing.show_status(sweep_status(store, name), console(), as_json)
        return OK
    with ended_by_ctrl_c():
        printing.follow_status(watch_status(store, name), console(), as_json)
    return OK
