"""How long planning takes: 10,000 lineages of T = 30 against an empty and against a full store.

Ten methods and 1,000 seeds, from the YAML text to the plan, in one process; imports do not count.
"""

import tempfile
import time
from pathlib import Path

from orchestrator.run.datasets import resolve_datasets
from orchestrator.run.planning import make_plan, sweep_lineages
from orchestrator.run.sizes import commit_bytes
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.data import data_roots
from trainables.store.artifacts import MASK, WEIGHTS

SWEEP = f"""\
name: planning
dataset: fashion_mnist
model: mlp
seeds: {list(range(1000))}
prune: {{iterations: 30}}
methods: [{{name: sap, gamma: {list(range(1, 11))}}}]
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "planning.yaml"
        file.write_text(SWEEP)
        started = time.perf_counter()
        spec = load_sweep(file)
    read = time.perf_counter()
    datasets = resolve_datasets(spec, data_roots(None, {}))
    lineages = sweep_lineages(spec, datasets)
    made = time.perf_counter()
    empty = make_plan(lineages, lambda key: None)
    planned = time.perf_counter()
    commit_bytes(empty, datasets, "all")
    weighed = time.perf_counter()
    stored = dict.fromkeys(empty.to_train, frozenset({WEIGHTS, MASK}))
    before = time.perf_counter()
    full = make_plan(lineages, stored.get)
    after = time.perf_counter()

    print(f"{len(lineages):,} lineages, {len(empty.to_train):,} iterations to train")
    assert not full.to_train
    for what, seconds in (
        ("reading the sweep", read - started),
        ("lineages and keys", made - read),
        ("plan, nothing stored", planned - made),
        ("bytes", weighed - planned),
        ("plan, everything stored", after - before),
    ):
        print(f"{seconds:7.2f} s  {what}")
    print(f"{weighed - started:7.2f} s  from the file to the plan of an empty store")


if __name__ == "__main__":
    main()
