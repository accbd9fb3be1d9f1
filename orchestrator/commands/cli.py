"""The command `prunesweep`: parse, call, print; no logic."""

import gc
import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

import cyclopts
from cyclopts import Parameter
from rich.console import Console

from orchestrator.commands.called import as_called
from orchestrator.commands.streams import complain, leave_stdout, prepare_streams
from orchestrator.errors import message
from orchestrator.version import VERSION

if TYPE_CHECKING:
    from orchestrator.run.wishes import Wishes
    from orchestrator.sweepfile.spec import SweepSpec

DEFAULT_STORAGE = "./prunesweep-store"
STORAGE_VARIABLE = "PRUNESWEEP_STORAGE"

OK, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130

app = cyclopts.App(
    name="prunesweep",
    help="Sweeps of neural-network pruning experiments on a Ray cluster.",
    help_format="markdown",
    version=VERSION,
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,
)

app.register_install_completion_command()

SweepFile = Annotated[
    Path, Parameter(help="The sweep's YAML file, or an example's name (`list examples`).")
]
SweepName = Annotated[str, Parameter(help="The sweep's name.")]
SweepNames = Annotated[
    list[str], Parameter(negative="", help="A sweep's name; several are shown as one.")
]
Storage = Annotated[
    str,
    Parameter(help="Where results are: a folder or a URI (s3://…).", env_var=STORAGE_VARIABLE),
]
Overrides = Annotated[
    list[str] | None,
    Parameter(
        name="--set",
        negative="",
        help="Override a key of the file, as in train.epochs=2; repeatable.",
    ),
]
Plugins = Annotated[
    list[str] | None,
    Parameter(
        negative="",
        help="A Python file or module with models, methods and the like; repeatable.",
    ),
]
Only = Annotated[
    list[str] | None,
    Parameter(
        negative="",
        help="Train only lineages with this, as in method=sap or seed=[0,1]; repeatable, all "
        "have to be met.",
    ),
]
Skip = Annotated[
    list[str] | None,
    Parameter(negative="", help="Train no lineage with this; repeatable."),
]
Retry = Annotated[
    Literal["failed"] | None,
    Parameter(help="Train what has diverged in an earlier run again."),
]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON for a script.")]


@app.command
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
    from orchestrator.run.sweep import plan_sweep, probe_sweep
    from trainables.data import data_roots
    from trainables.store import Store

    given = SweepArguments.of(file, set_, plugin)
    spec = given.load()
    with given.located():
        roots = data_roots(spec.data_root, os.environ, given.file.parent)
        of = spec, Store(storage), roots, _wishes(only, skip, retry)
        planned = probe_sweep(*of, told=complain) if probe else plan_sweep(*of)
    printing.show_plan(planned, _out(), as_json, listed=list_)
    return OK


@app.command
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
    from orchestrator.commands.given import refuse_jobs_folder
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
            wishes=_wishes(only, skip, retry, for_, replace=replace),
        )  # fmt: skip
    show_summary(summary, store, _out(), as_json)
    if summary.outcome.interrupted:
        return INTERRUPTED
    return FAILED if summary.outcome.failures or summary.damage or summary.problem else OK


@app.command
def stop(
    name: SweepName,
    lineage: Annotated[
        list[str] | None,
        Parameter(negative="", help="A lineage's id, or a part of it that is unique."),
    ] = None,
    *,
    storage: Storage = DEFAULT_STORAGE,
) -> int:
    """Have the run in flight end, or train these lineages no further, after the iteration that they
    are at. The same run command goes on."""
    from orchestrator.errors import UserError
    from orchestrator.records.status import run_in_flight
    from orchestrator.records.stops import EVERYTHING, ask_to_stop
    from orchestrator.records.sweep import existing_sweep
    from trainables.store import Store

    store = Store(storage)
    record = existing_sweep(store, name)
    wanted = [record.lineage(each).id for each in lineage or ()]
    if run_in_flight(store, name) is None:
        raise UserError(f"no run of {name} is in flight; there is nothing to stop")
    ask_to_stop(store, name, wanted or [EVERYTHING])
    print(f"asked: {', '.join(wanted) or 'the whole run'}; it is heard within some seconds")
    return OK


@app.command
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
        printing.show_status(sweep_status(store, name), _out(), as_json)
        return OK
    with _ended_by_ctrl_c():
        printing.follow_status(watch_status(store, name), _out(), as_json)
    return OK


@app.command
def results(
    name: SweepNames,
    *,
    storage: Storage = DEFAULT_STORAGE,
    layout: Annotated[
        Literal["summary", "paper", "iterations"],
        Parameter(
            help="A summary of every iteration; a paper's table, methods by density at the last "
            "iteration; or one row an iteration, one column a method."
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
    sql: Annotated[
        str | None,
        Parameter(
            help="A query over iterations, layers, epochs, sparsity, scores instead of a layout."
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

    found = answer(
        open_results(storage, *name), sql=sql, where=where, last=last, layout=layout, mark=mark
    )
    show_table(found, _out(), format, output)
    return OK


@app.command
def figures(
    name: SweepNames,
    *,
    output: Annotated[Path, Parameter(help="The folder to write to.")],
    figure: Annotated[
        list[str] | None,
        Parameter(negative="", help="A figure's name; repeatable. By default all there are."),
    ] = None,
    format: Annotated[Literal["png", "svg", "pdf", "html", "json"], Parameter()] = "png",
    storage: Storage = DEFAULT_STORAGE,
) -> int:
    """Draw the papers' figures of sweeps, one file each."""
    from orchestrator.results.figures.saving import save_figures
    from orchestrator.results.opening import open_results

    results = open_results(storage, *name)
    for drawn, file in save_figures(results, figure or [], format, output):
        if file:
            print(file)
        else:
            print(f"no {drawn.name}: it needs {drawn.needs}", file=sys.stderr)
    return OK


@app.command
def report(
    name: SweepNames,
    *,
    output: Annotated[Path | None, Parameter(help="The file; NAME.html by default.")] = None,
    wandb: Annotated[
        bool, Parameter(negative="", help="Draft a report in the sweep's W&B project instead.")
    ] = False,
    storage: Storage = DEFAULT_STORAGE,
) -> int:
    """Write one HTML file with figures, tables, failures, cost and provenance of sweeps."""
    from orchestrator.errors import ExportError
    from orchestrator.results.opening import open_results
    from orchestrator.results.report import write_report
    from orchestrator.tracking.report import build_wandb_report

    results = open_results(storage, *name)
    if wandb and results.record.joined:
        raise ExportError("--wandb drafts the report of one sweep; give one name")
    if wandb:
        print(build_wandb_report(results.record))
    if output is not None or not wandb:
        file = output or Path(f"{'+'.join(dict.fromkeys(name))}.html")
        write_report(results, file)
        print(file)
    return OK


@app.command
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

    with _ended_by_ctrl_c(), serve(Store(storage), name, port) as dashboard:
        print(f"{dashboard.url} shows {name or 'all sweeps'}; Ctrl-C ends it", flush=True)
        dashboard.serve_forever()
    return OK


@app.command
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
    from orchestrator.records.sweep import existing_sweep
    from orchestrator.tracking.mirroring import sync
    from trainables.store import Store

    store = Store(storage)
    record = existing_sweep(store, name)
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
    printing.show_sent(sent, store, name, _out(), as_json)
    return FAILED if sent.left else OK


@app.command
def verify(*, storage: Storage = DEFAULT_STORAGE, as_json: AsJson = False) -> int:
    """Check every hash of every commit, and every table. Exit code 1 when something is damaged."""
    from orchestrator.commands import printing
    from orchestrator.commands.verify import verify_store
    from trainables.store import Store

    verified = verify_store(Store(storage))
    printing.show_verified(verified, _out(), as_json)
    return FAILED if verified.damage else OK


@app.command
def export(
    name: SweepName,
    lineage: Annotated[str, Parameter(help="A lineage's id, or a part of it that is unique.")],
    *,
    output: Annotated[Path, Parameter(help="The folder to write to.")],
    iteration: Annotated[int | None, Parameter(help="By default the last one.")] = None,
    storage: Storage = DEFAULT_STORAGE,
) -> int:
    """Write one iteration's weights and mask as plain safetensors and a PyTorch state_dict."""
    from orchestrator.commands.export import export_iteration
    from orchestrator.records.sweep import existing_sweep
    from trainables.store import Store

    store = Store(storage)
    for file in export_iteration(store, existing_sweep(store, name), lineage, iteration, output):
        print(file)
    return OK


@app.command(name="list")
def list_(
    what: Literal[
        "methods",
        "criteria",
        "models",
        "datasets",
        "optimizers",
        "lr_schedules",
        "losses",
        "augmentations",
        "sweeps",
        "examples",
    ],
    *,
    plugin: Plugins = None,
    storage: Annotated[
        str, Parameter(help="Where `list sweeps` looks.", env_var=STORAGE_VARIABLE)
    ] = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> int:
    """List what a sweep file can name, with options and defaults; the sweeps of a storage; or the
    examples that prunesweep comes with, for `prunesweep run`."""
    if what == "sweeps":
        from orchestrator.commands.storage import show_sweeps
        from orchestrator.storage.listing import list_sweeps
        from trainables.store import Store

        store = Store(storage)
        show_sweeps(list_sweeps(store), store, _out(), as_json)
        return OK
    if what == "examples":
        from orchestrator.commands.examples import show_examples

        show_examples(_out(), as_json)
        return OK
    from orchestrator.commands import printing
    from orchestrator.commands.catalogue import listed
    from trainables.plugins.loading import load_plugins
    from trainables.plugins.source import read_plugin

    catalogue = load_plugins(read_plugin(each, Path.cwd()) for each in plugin or [])
    printing.show_catalogue(listed(what, catalogue), _out(), as_json)
    return OK


# Sweep files


@app.command
def init(
    file: Annotated[Path, Parameter(help="The file to write.")] = Path("sweep.yaml"),
) -> int:
    """Write a first sweep file, with comments, which runs as it is."""
    from orchestrator.commands.called import called
    from orchestrator.sweepfile.beginning import begin_sweep

    name = begin_sweep(file)
    print(f"{file} is a sweep called {name}; try: {called()} plan {shlex.quote(str(file))}")
    return OK


@app.command
def schema(
    *,
    output: Annotated[Path | None, Parameter(help="A file to write to.")] = None,
    plugin: Plugins = None,
) -> int:
    """Write the JSON Schema of sweep files, with which an editor completes and checks them."""
    from orchestrator.sweepfile.schema import sweep_schema
    from trainables.plugins.loading import load_plugins
    from trainables.plugins.source import read_plugin

    catalogue = load_plugins(read_plugin(each, Path.cwd()) for each in plugin or [])
    text = json.dumps(sweep_schema(catalogue), indent=1, ensure_ascii=False)
    if output is None:
        print(text)
    else:
        output.write_text(f"{text}\n", encoding="utf-8")
        print(output)
    return OK


# The life of a storage


@app.command
def rm(
    name: SweepName,
    *,
    yes: Annotated[bool, Parameter(negative="", help="Do not ask.")] = False,
    storage: Storage = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> int:
    """Remove a sweep, with the iterations that no other sweep is made of."""
    from orchestrator.commands.storage import confirm_removal, show_removal
    from orchestrator.storage.removing import removal, remove_sweep
    from trainables.store import Store

    store = Store(storage)
    if not yes:
        confirm_removal(removal(store, name), store)
    show_removal(remove_sweep(store, name), _out(), as_json)
    return OK


@app.command
def mv(
    old: SweepName,
    new: Annotated[str, Parameter(help="What to call it.")],
    *,
    storage: Storage = DEFAULT_STORAGE,
) -> int:
    """Call a sweep something else. Trains nothing; change its file too."""
    from orchestrator.storage.renaming import rename_sweep
    from trainables.store import Store

    rename_sweep(Store(storage), old, new)
    print(f"{old} is {new} now; write name: {new} in its file, which trains nothing anew")
    return OK


@app.command(name="gc")
def gc_(
    *,
    dry_run: Annotated[bool, Parameter(negative="", help="Show it, and delete nothing.")] = False,
    quarantine: Annotated[
        bool, Parameter(negative="", help="Also what was set aside as damaged.")
    ] = False,
    storage: Storage = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> int:
    """Delete iterations, snapshots, checkpoints and other leftovers that no sweep names."""
    from orchestrator.commands.storage import show_collected
    from orchestrator.storage.collecting import collect
    from trainables.store import Store

    store = Store(storage)
    found = collect(store, dry_run=dry_run, quarantine=quarantine)
    show_collected(found, store, _out(), dry_run=dry_run, as_json=as_json)
    return OK


@app.command
def merge(
    other: Annotated[str, Parameter(help="The storage to copy from: a folder or a URI.")],
    *,
    sweep: Annotated[
        list[str] | None,
        Parameter(negative="", help="A sweep's name; repeatable. By default all there are."),
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> int:
    """Copy another storage's sweeps and iterations into this one; again to resume. Every file is
    compared with its hash. Exit code 1 when something is damaged there."""
    from orchestrator.commands.storage import show_merged
    from orchestrator.storage.merging import merge as merge_storages
    from trainables.store import Store

    source = Store(other)
    with Console(stderr=True).status("merging") as status:
        merged = merge_storages(
            Store(storage),
            source,
            sweep or [],
            told=lambda done, of: status.update(f"{done} of {of} commits"),
        )
    show_merged(merged, source, _out(), as_json)
    return FAILED if merged.damage else OK


@app.command
def du(*, storage: Storage = DEFAULT_STORAGE, as_json: AsJson = False) -> int:
    """Show what takes how much room in a storage."""
    from orchestrator.commands.storage import show_usage
    from orchestrator.storage.usage import usage
    from trainables.store import Store

    show_usage(usage(Store(storage)), _out(), as_json)
    return OK


@app.command
def doctor(
    *,
    storage: Storage = DEFAULT_STORAGE,
    address: Annotated[
        str | None,
        Parameter(
            help="A Ray cluster to check: who it lets in, and each of its nodes; or $RAY_ADDRESS."
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Check this installation, its devices, its datasets and the storage."""
    from orchestrator.commands import printing
    from orchestrator.commands.doctor import examine
    from trainables.store import Store

    checks = examine(Store(storage), os.environ, address)
    printing.show_checks(checks, _out(), as_json)
    return OK if all(check.ok for check in checks) else FAILED


def main() -> None:
    """The entry point: exit codes 0, 1 (failures), 2 (wrong input), 130 (interrupted)."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    prepare_streams()
    # Imports make many objects and little garbage; most of a command's start is imports.
    gc.set_threshold(100_000)
    try:
        code = app(sys.argv[1:], result_action="return_value", exit_on_error=False)
        sys.stdout.flush()
        sys.exit(code or OK)
    except KeyboardInterrupt:
        complain("interrupted; everything committed is safe, run again to resume")
        leave_stdout()
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # who read it has enough
        leave_stdout()
        sys.exit(FAILED)
    except cyclopts.CycloptsError:
        sys.exit(WRONG_INPUT)
    except Exception as error:
        told = message(error)
        if told is None:
            raise
        complain(f"prunesweep: {as_called(told)}")
        leave_stdout()
        sys.exit(WRONG_INPUT)


def _wishes(
    only: list[str] | None,
    skip: list[str] | None,
    retry: str | None,
    for_: str | None = None,
    *,
    replace: bool = False,
) -> "Wishes":
    from orchestrator.commands.given import all_of, conditions, duration
    from orchestrator.run.wishes import Wishes

    return Wishes(
        only=all_of("--only", only),
        skip=conditions("--skip", skip),
        retry_failed=retry is not None,
        seconds=None if for_ is None else duration(for_),
        replace=replace,
    )


@contextmanager
def _ended_by_ctrl_c() -> Iterator[None]:
    """Ctrl-C is how a view that goes on by itself is left, and no interruption of anything."""
    try:
        yield
    except KeyboardInterrupt:
        print(file=sys.stderr)


@dataclass(frozen=True)
class SweepArguments:
    """A sweep as a command was given it."""

    file: Path
    overrides: list[str]
    plugins: list[str]

    @classmethod
    def of(cls, file: Path, overrides: list[str] | None, plugins: list[str] | None) -> Self:
        """Where no such file is, an example may be meant."""
        from orchestrator.sweepfile.shipped import sweep_file

        return cls(sweep_file(file), overrides or [], plugins or [])

    def load(self) -> "SweepSpec":
        from orchestrator.sweepfile.yaml_source import load_sweep

        return load_sweep(self.file, self.overrides, self.plugins)

    @contextmanager
    def located(self) -> Iterator[None]:
        """Says of a sweep that cannot be run where the mistake was written."""
        from orchestrator.run.planning import PlanError
        from orchestrator.sweepfile.yaml_document import SweepFileError
        from orchestrator.sweepfile.yaml_source import locate

        try:
            yield
        except PlanError as error:
            place = locate(self.file, self.overrides, error.field, self.plugins, error.repeats)
            raise SweepFileError(f"{place}: {error}") from error


def _out() -> Console:
    # Where nobody looks, a table is not squeezed into 80 columns.
    return Console(width=None if sys.stdout.isatty() else 200)
