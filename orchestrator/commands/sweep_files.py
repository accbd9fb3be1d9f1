"""Commands of writing sweep files: init, schema, and what a file can name."""

import json
import shlex
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from orchestrator.commands.exit_codes import OK
from orchestrator.commands.parameters import DEFAULT_STORAGE, STORAGE_VARIABLE, AsJson, Plugins
from orchestrator.commands.streams import console


def init(
    file: Annotated[Path, Parameter(help="The file to write.")] = Path("sweep.yaml"),
) -> int:
    """Write a first sweep file, with comments, which runs as it is."""
    from orchestrator.commands.called import called
    from orchestrator.sweepfile.beginning import begin_sweep

    name = begin_sweep(file)
    print(f"{file} is a sweep called {name}; try: {called()} plan {shlex.quote(str(file))}")
    return OK


def list_(
    what: Literal[
        "methods",
        "criteria",
        "ablations",
        "models",
        "datasets",
        "optimizers",
        "lr_schedules",
        "losses",
        "augmentations",
        "stop_rules",
        "measures",
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
        from orchestrator.commands.printing_storage import show_sweeps
        from orchestrator.storage.listing import list_sweeps
        from trainables.store import Store

        store = Store(storage)
        show_sweeps(list_sweeps(store), store, console(), as_json)
        return OK
    if what == "examples":
        from orchestrator.commands.examples import show_examples

        show_examples(console(), as_json)
        return OK
    from orchestrator.commands import printing
    from orchestrator.commands.catalogue import listed
    from trainables.plugins.loading import load_plugins
    from trainables.plugins.source import read_plugin

    catalogue = load_plugins(read_plugin(each, Path.cwd()) for each in plugin or [])
    printing.show_catalogue(listed(what, catalogue), console(), as_json)
    return OK


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
