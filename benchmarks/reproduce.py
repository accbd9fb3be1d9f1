"""A published table's row, run and put beside what is published, with a verdict.

    python benchmarks/reproduce.py 1 --dataset cifar10 --model resnet20 --density 0.05

trains the cells of `sweeps/sketching` that Table 1's values for ResNet-20 at 5 % on CIFAR-10 are
about, with the sweeps' seeds and recipe, and prints ours, the published mean ± std, the difference
and its z-score: within 2σ or outside. `--method`, `--seeds` and `--epochs` make it smaller; fewer
epochs are another experiment, and the table's name says so.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.records.columns import selection_name
from orchestrator.sweepfile.published import (
    PublishedCell,
    PublishedValue,
    cell_of,
    read_published,
)
from orchestrator.sweepfile.spec import SweepSpec, cells
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.config import canonical
from trainables.lineage.keys import Cell

FOLDER = Path(__file__).parents[1] / "sweeps/sketching"
PUBLISHED = FOLDER / "published.csv"
BUILD = Path(__file__).parents[1] / "build"
COMMAND = str(Path(sys.executable).with_name("prunesweep"))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", help='as in published.csv: 1, 2, 3, 4 or "stored results"')
    for name in ("dataset", "model", "method"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--density", type=float)
    parser.add_argument(
        "--seeds", type=positive, help="only so many of the sweep's; a verdict takes two at least"
    )
    parser.add_argument("--epochs", type=positive, help="another number than the paper's")
    parser.add_argument("--storage", default="prunesweep-store")
    parser.add_argument("--set", action="append", default=[], help="as of `prunesweep run`")
    parser.add_argument("--plan", action="store_true", help="say what would be trained, and end")
    given = parser.parse_args()
    wanted = chosen(read_published(PUBLISHED), given)
    if not wanted:
        parser.error("published.csv has no such row")
    sweep = sweep_of(wanted, given)
    BUILD.mkdir(exist_ok=True)
    file = BUILD / f"{sweep['name']}.yaml"
    file.write_text(json.dumps(sweep, indent=1))
    settings = [part for each in given.set for part in ("--set", each)]
    verb = "plan" if given.plan else "run"
    done = subprocess.run([COMMAND, verb, str(file), "--storage", given.storage, *settings])
    if done.returncode or given.plan:
        return done.returncode
    show = [COMMAND, "results", sweep["name"], "--storage", given.storage, "--layout", "paper"]
    return subprocess.run(show).returncode


def positive(text: str) -> int:
    """A whole number from 1."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def chosen(values: Sequence[PublishedValue], given: argparse.Namespace) -> list[PublishedValue]:
    """Those of the table, dataset, model, method and density that are asked for."""
    asked = {n: getattr(given, n) for n in ("table", "dataset", "model", "method", "density")}
    return [
        value
        for value in values
        if all(each in (None, getattr(value, name)) for name, each in asked.items())
    ]


def sweep_of(wanted: Sequence[PublishedValue], given: argparse.Namespace) -> dict[str, Any]:
    """The sweep of just the cells that the values are about, by the first file that has them."""
    files = [load_sweep(file) for file in sorted(FOLDER.glob("*.yaml"))]
    spec = max(files, key=lambda spec: len(about(spec, wanted)))
    found = about(spec, wanted)
    first = found[0]
    # What is of another dataset may be in another file.
    several = len({(value.dataset, value.model) for value in wanted}) > 1
    if several or len({(c.dataset, c.model, c.train) for c in found}) > 1:
        sys.exit("more than one dataset, model or recipe: choose with --dataset and --model")
    train = first.train.model_dump(mode="json")
    parts = [spec.name, first.model.name]
    if len(spec.dataset) > 1:
        parts.append(first.dataset.name)
    if given.density is not None:
        parts.append(f"{given.density:g}")
    if given.method is not None:
        parts.append(given.method)
    if given.seeds is not None:
        parts.append(f"{given.seeds}-seeds")
    if given.epochs is not None:
        parts.append(f"{given.epochs}-epochs")
        train["epochs"] = given.epochs
        schedule = train["lr_schedule"]
        if "milestones" in schedule:  # those that are never reached are refused
            schedule["milestones"] = [m for m in schedule["milestones"] if m < given.epochs]
    return {
        "name": "-".join(["reproduce", *parts]),
        "published": str(PUBLISHED),
        "dataset": first.dataset.model_dump(mode="json"),
        "model": first.model.model_dump(mode="json"),
        "seeds": list(spec.seeds)[: given.seeds],
        "train": train,
        "methods": [*{c.method: c.method.model_dump(mode="json") for c in found}.values()],
    }


def about(spec: SweepSpec, wanted: Sequence[PublishedValue]) -> list[Cell]:
    """The cells of a sweep that the values are about."""
    asked = {cell_of(value) for value in wanted}
    return [cell for cell in cells(spec) if _published(cell) in asked]


def _published(cell: Cell) -> PublishedCell | None:
    method = canonical(cell.method)
    if cell.method.target is None:
        return None
    return PublishedCell(
        cell.dataset.name,
        cell.model.name,
        cell.method.name,
        method.get("data"),
        selection_name(method),
        cell.method.target,
    )


if __name__ == "__main__":
    sys.exit(main())
