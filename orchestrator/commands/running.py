"""Commands of running sweeps: plan, run, submit, stop, status."""

import gc
import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

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
        str | None,
        Parameter(
            help="A Ray cluster's address; without it, or with `local`, this machine is used.",
            env_var="RAY_ADDRESS",
        ),
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
    from orchestrator.commands.given import SweepArguments, refuse_jobs_folder, wishes
    from orchestrator.commands.printing_results import show_summary
    from orchestrator.run.progress import Lasting, RunProgress
    from orchestrator.run.sweep import run_sweep
    from trainables.data import data_roots
    from trainables.store import Store

    refuse_jobs_folder(storage, os.environ)
    given = SweepArguments.of(file, set_, plugin)
    spec = given.load()
    store = Store(storage)
    progress = RunProgress(store, spec.name, Lasting(stderr=True))
    roots = data_roots(spec.data_root, os.environ, given.file.parent)
    with given.located():
        summary = run_sweep(
            spec, store, roots, progress,
            address=None if address in ("", "local") else address, command=sys.argv,
            wishes=wishes(only, skip, retry, for_, replace=replace),
        )  # fmt: skip
    gc.freeze()  # see `main`: the summary is what imports DuckDB
    show_summary(summary, store, console(), as_json)
    if summary.outcome.interrupted:
        return INTERRUPTED
    return FAILED if summary.outcome.failures or summary.damage or summary.problem else OK


def submit(
    file: SweepFile,
    *options: Annotated[
        str, Parameter(help="After --, more options of sbatch, as in -- --account=lab --mem=16G.")
    ],
    slurm: Annotated[
        bool, Parameter(negative="", help="The job queue; there is no other yet.")
    ] = False,
    array: Annotated[
        int,
        Parameter(
            help="How many tasks the array has, each one run.",
            validator=validators.Number(gte=1),
        ),
    ] = 1,
    time: Annotated[
        str | None, Parameter(help="How long a task may take before it is queued again.")
    ] = None,
    partition: Annotated[str | None, Parameter(help="Slurm's partition.")] = None,
    cpus: Annotated[
        int | None,
        Parameter(help="CPUs of each task.", validator=validators.Number(gte=1)),
    ] = None,
    gpus: Annotated[str | None, Parameter(help="GPUs of each task, as in 1 or a100:1.")] = None,
    storage: Storage = DEFAULT_STORAGE,
    set_: Overrides = None,
    plugin: Plugins = None,
    dry_run: Annotated[
        bool, Parameter(negative="", help="Show the script, and submit nothing.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Queue runs of a sweep in Slurm, which divide it among them and are queued again when their
    time is up."""
    from orchestrator.commands.given import SweepArguments
    from orchestrator.commands.printing import print_json
    from orchestrator.commands.submit import Job, show_submitted
    from orchestrator.errors import UserError
    from orchestrator.run.planned_sweep import plan_sweep
    from trainables.data import data_roots
    from trainables.store import Store

    if not slurm:
        raise UserError("say which job queue takes it: --slurm")
    given = SweepArguments.of(file, set_, plugin)
    spec, store = given.load(), Store(storage)
    with given.located():
        roots = data_roots(spec.data_root, os.environ, given.file.parent)
        planned = plan_sweep(spec, store, roots)
    job = Job(
        sweep=spec.name,
        arguments=given.run_on(store.location),
        folder=Path.cwd(),
        runs=array, time=time, partition=partition, cpus=cpus, gpus=gpus, more=options,
    )  # fmt: skip
    if dry_run:
        print(job.script, end="")
        return OK
    id = job.submit() if planned.plan.tasks else None
    if as_json:
        print_json({"sweep": spec.name, "job": id, "storage": store.location})
    else:
        show_submitted(job, id, planned, store)
    return OK


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
    """Have all runs in flight end, or train these lineages no further, after the iteration that
    they are at. The same run command goes on."""
    from orchestrator.errors import UserError
    from orchestrator.records.labels import find_lineages, lineage_labels
    from orchestrator.records.runs import runs_at_work
    from orchestrator.records.stops import EVERYTHING, ask_to_stop
    from orchestrator.records.sweep import existing_sweep
    from trainables.store import Store

    store = Store(storage)
    record = existing_sweep(store, name)
    wanted = [line.id for each in lineage or () for line in find_lineages(record, each)]
    runs = runs_at_work(store, name)
    if not runs:
        raise UserError(f"no run of {name} is in flight; there is nothing to stop")
    ask_to_stop(store, name, wanted or [EVERYTHING], runs)
    names = lineage_labels(record)
    whole = "the whole run" if len(runs) == 1 else f"all {len(runs)} runs"
    asked = ", ".join(names[id] for id in wanted) or whole
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
    from orchestrator.sweepfile.yaml_source import sweep_name
    from trainables.store import Store

    store = Store(storage)
    if name.endswith((".yaml", ".yml")) and Path(name).exists():
        name = sweep_name(Path(name))
    if not watch:
        printing.show_status(sweep_status(store, name), console(), as_json)
        return OK
    with ended_by_ctrl_c():
        printing.follow_status(watch_status(store, name), console(), as_json)
    return OK
