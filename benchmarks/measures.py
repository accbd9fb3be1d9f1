"""What ablations and measures cost beside the sweep that they are of.

`python benchmarks/measures.py STORAGE NAME …` reads what finished sweeps of a storage have written
down: the seconds of each training with its pruning, and of each measurement with its copies. Share
is of the seconds of the iterations that are no ablation, each counted once however many lineages
share it. Seconds of what was trained on different machines, or beside different loads, say little.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from typing import TypeAlias

from orchestrator.results.opening import Results, open_results
from trainables.lineage.measurement_run import ABOUT
from trainables.store import iteration_path

Took: TypeAlias = tuple[str, float]


def iterations(results: Results) -> Iterator[Took]:
    """What each iteration is, and its seconds."""
    columns = ["key", "ablation", "train_seconds", "prune_seconds"]
    rows = {row["key"]: row for row in results.iterations.select(columns).to_pylist()}
    for row in rows.values():
        seconds = row["train_seconds"] + row["prune_seconds"]
        yield "the sweep" if row["ablation"] is None else f"ablation {row['ablation']}", seconds


def measurements(results: Results) -> Iterator[Took]:
    """The measure of each measurement, and its seconds."""
    lines = results.record.lineages
    for key, each in {each.key: each for line in lines for each in line.measurements or ()}.items():
        about = results.store.read_json(f"{iteration_path(key)}/{ABOUT}")
        yield f"measure {each.measure}", about["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("storage")
    parser.add_argument("names", nargs="+")
    options = parser.parse_args()
    print("| sweep | what | how many | seconds | share |\n|---|---|---:|---:|---:|")
    for name in options.names:
        took: dict[str, list[float]] = defaultdict(list)
        results = open_results(options.storage, name)
        for what, seconds in (*iterations(results), *measurements(results)):
            took[what].append(seconds)
        whole = sum(took["the sweep"])
        for what, each in took.items():
            print(f"| {name} | {what} | {len(each):,} | {sum(each):,.1f} "
                  f"| {sum(each) / whole:.3g} |")  # fmt: skip


if __name__ == "__main__":
    main()
