"""The examples: what `prunesweep list examples` shows."""

import json

from rich.console import Console
from rich.table import Table

from orchestrator.sweepfile.shipped import description, shipped_sweeps


def show_examples(out: Console, as_json: bool) -> None:
    examples = {name: (file, description(file)) for name, file in shipped_sweeps().items()}
    if as_json:
        found = [
            {"name": name, "file": str(file), "what": what}
            for name, (file, what) in examples.items()
        ]
        print(json.dumps(found, indent=1))
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("name")
    table.add_column("what it is", overflow="fold")
    for name, (_, what) in examples.items():
        table.add_row(name, what)
    out.print(table, highlight=False)
