"""Commands of looking at results: tables, figures, pages, W&B, weights."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import cyclopts
from cyclopts import Parameter
from rich.console import Console

from orchestrator.commands.exit_codes import FAILED, OK
from orchestrator.commands.parameters import (
    DEFAULT_STORAGE,
    AsJson,
    Plugins,
    Storage,
    SweepName,
    SweepNames,
    Weights,
)
from orchestrator.commands.streams import console, ended_by_ctrl_c


def results(
    name: SweepNames,
    *,
    storage: Storage = DEFAULT_STORAGE,
    layout: Annotated[
        Literal["summary", "paper", "iterations", "ablations"],
        Parameter(
            help="A summary of every iteration; a paper's table, methods by density at the last "
            "iteration; one row an iteration, one column a method; or ablations beside what they "
            "are of."
        ),
    ] = "summary",
    where: Annotated[
        str | None,
        Parameter(help="Only these iterations, as in \"method = 'sap' and iteration >= 5\"."),
    ] = None,
    last: Annotated[
        bool, Parameter(negative="", help="Only the last iteration of every lineage.")
    ] = False,
    mark: Annotated[
        Literal["noise", "best"] | None,
        Parameter(
            help="What a paper's table marks: all that noise cannot tell from the best of those "
            "that keep as few weights (the default), or the best means alone."
        ),
    ] = None,
    weights: Weights = "kept",
    sql: Annotated[
        str | None,
        Parameter(
            help="A query over iterations, layers, epochs, sparsity, scores, tables of measures "
            "such as connectivity, and labels, instead of a layout."
        ),
    ] = None,
    format: Annotated[
        Literal["table", "csv", "json", "parquet", "latex", "markdown"], Parameter()
    ] = "table",
    output: Annotated[
        Path | None, Parameter(help="A file to write to instead of the terminal.")
    ] = None,
) -> int:
    """Show results of sweeps: a summary, a paper's table, or any SQL (DuckDB)."""
    from orchestrator.commands.printing_results import show_table
    from orchestrator.results.opening import open_results
    from orchestrator.results.query import answer

    opened = open_results(storage, *name, weights=weights)
    found = answer(opened, sql=sql, where=where, last=last, layout=layout, mark=mark)
    show_table(found, console(), format, output)
    return OK


def figures(
    name: SweepNames,
    *,
    output: Annotated[Path, Parameter(help="The folder to write to.")],
    figure: Annotated[
        list[str] | None,
        Parameter(negative="", help="A figure's name; repeatable. By default all there are."),
    ] = None,
    format: Annotated[Literal["png", "svg", "pdf", "html", "json"], Parameter()] = "png",
    weights: Weights = "kept",
    storage: Storage = DEFAULT_STORAGE,
) -> int:
    """Draw the papers' figures of sweeps, one file each."""
    from orchestrator.results.figures.saving import save_figures
    from orchestrator.results.opening import open_results

    results = open_results(storage, *name, weights=weights)
    for drawn, file in save_figures(results, figure or [], format, output):
        if file:
            print(file)
        else:
            print(f"no {drawn.name}: it needs {drawn.needs}", file=sys.stderr)
    return OK


def report(
    name: SweepNames,
    *,
    output: Annotated[Path | None, Parameter(help="The file; NAME.html by default.")] = None,
    wandb: Annotated[
        bool, Parameter(negative="", help="Draft a report in the sweep's W&B project instead.")
    ] = False,
    weights: Weights = "kept",
    storage: Storage = DEFAULT_STORAGE,
) -> int:
    """Write one HTML file with figures, tables, failures, cost and provenance of sweeps."""
    from orchestrator.errors import ExportError
    from orchestrator.results.opening import open_results
    from orchestrator.results.report import write_report
    from orchestrator.tracking.report import build_wandb_report

    results = open_results(storage, *name, weights=weights)
    if wandb and len(results.record.parts) > 1:
        raise ExportError("--wandb drafts the report of one sweep; give one name")
    if wandb:
        print(build_wandb_report(results.record))
    if output is not None or not wandb:
        file = output or Path(f"{'+'.join(dict.fromkeys(name))}.html")
        write_report(results, file)
        print(file)
    return OK


def dashboard(
    name: Annotated[
        str | None, Parameter(help="A sweep's name; without it, all of the storage.")
    ] = None,
    *,
    storage: Storage = DEFAULT_STORAGE,
    port: Annotated[
        int,
        Parameter(
            help="The port; 0 takes any that is free.",
            validator=cyclopts.validators.Number(gte=0, lte=65535),
        ),
    ] = 8765,
) -> int:
    """Serve the report on this machine, following the run that is in flight. Ctrl-C ends it."""
    from orchestrator.commands.dashboard import serve
    from trainables.store import Store

    with ended_by_ctrl_c(), serve(Store(storage), name, port) as dashboard:
        print(f"{dashboard.url} shows {name or 'all sweeps'}; Ctrl-C ends it", flush=True)
        dashboard.serve_forever()
    return OK


def wandb_sync(
    name: SweepName,
    *,
    storage: Storage = DEFAULT_STORAGE,
    project: Annotated[str | None, Parameter(help="Instead of the sweep's own.")] = None,
    entity: Annotated[str | None, Parameter(help="Instead of the sweep's own.")] = None,
    mode: Annotated[
        Literal["offline", "online"] | None, Parameter(help="Instead of the sweep's own.")
    ] = None,
    all_: Annotated[
        bool,
        Parameter(name="--all", negative="", help="Send again what is marked as sent."),
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Fill a W&B project with a sweep's lineages from the store; twice is the same as once."""
    from orchestrator.commands import printing
    from orchestrator.records.ends import so_far
    from orchestrator.records.sweep import existing_sweep
    from orchestrator.tracking.mirroring import sync
    from trainables.store import Store

    store = Store(storage)
    record = so_far(store, existing_sweep(store, name))
    with Console(stderr=True).status("W&B") as status:
        sent = sync(
            record,
            store,
            project=project,
            entity=entity,
            mode=mode,
            again=all_,
            told=lambda done, of: status.update(f"W&B: {done} of {of} lineages"),
        )
    printing.show_sent(sent, store, name, console(), as_json)
    return FAILED if sent.left else OK


def export(
    name: SweepName,
    lineage: Annotated[
        str | None,
        Parameter(help="A lineage's label or id, or a part of the id that is unique."),
    ] = None,
    *,
    output: Annotated[Path, Parameter(help="The folder to write to.")],
    iteration: Annotated[
        int | None, Parameter(help="By default the last one, and with --all every one.")
    ] = None,
    all_: Annotated[
        bool,
        Parameter(
            name="--all",
            negative="",
            help="Write all lineages, each iteration whose weights are stored to a folder of its "
            "own.",
        ),
    ] = False,
    onnx: Annotated[
        bool,
        Parameter(negative="", help="Also the network as ONNX, which is run once to check it."),
    ] = False,
    storage: Storage = DEFAULT_STORAGE,
    plugin: Plugins = None,
) -> int:
    """Write an iteration's weights and mask as plain safetensors, or those of all iterations."""
    from orchestrator.commands.export import export_all, export_iteration
    from orchestrator.commands.onnx_network import require_onnx
    from orchestrator.errors import ExportError
    from orchestrator.records.ends import so_far
    from orchestrator.records.sweep import existing_sweep
    from trainables.plugins.loading import load_plugins
    from trainables.plugins.source import read_plugin
    from trainables.store import Store

    if (lineage is None) != all_:
        raise ExportError("give a lineage to export, or --all and none")
    if onnx:
        require_onnx()
    known = load_plugins(read_plugin(each, Path.cwd()) for each in plugin or ())
    store = Store(storage)
    record = so_far(store, existing_sweep(store, name))
    if lineage is None:
        files = export_all(store, record, iteration, output, onnx=onnx, catalogue=known)
    else:
        files = export_iteration(
            store, record, lineage, iteration, output, onnx=onnx, catalogue=known
        )
    for file in files:
        print(file)
    return OK
