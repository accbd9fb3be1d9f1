"""Ablations, measures, baselines, stop rules and ranking in sweeps of one storage, to their ends as
they are, and killed on the way and resumed."""

import json
from pathlib import Path
from subprocess import Popen
from typing import Any

import psutil
import pytest
from asking import ask
from sweeping import assert_equal_results, commits, start, store_of, wait_for, write

from orchestrator.records.ends import read_ends
from orchestrator.results.opening import open_results
from orchestrator.results.report import report_payload

AT_ONCE = ["random", "gradual_magnitude", "set", "rigl", "random_search", "force"]
"""Methods without a trained network to prune."""
COMMON: dict[str, Any] = {
    "dataset": "digits",
    "model": {"name": "mlp", "hidden": [24, 16]},
    "seeds": [0, 1],
    "train": {"epochs": 3, "batch_size": 50},
    "wandb": {"mode": "disabled"},
}
ABLATED: dict[str, Any] = COMMON | {
    "name": "ablated",
    "prune": {"iterations": 3},
    "methods": [
        {"name": "lottery_ticket", "ratio": 0.6, "rewind": {"step": 5}},
        {"name": "random", "density": [0.1, 0.03], "layer_densities": "erk"},
        "nm",
        {"name": "gradual_magnitude", "density": 0.03, "every": 10},
        {"name": "set", "density": 0.1, "every": 10},
        {"name": "rigl", "density": 0.1, "every": 10},
        {"name": "random_search", "density": 0.05, "candidates": 5, "examples": 64},
        {"name": "force", "density": 0.03, "rounds": 5, "examples": 64},
    ],
    "ablations": ["shuffle_layers", {"name": "reinit", "at": [1, 3]}, "finetune"],
    "exclude": [
        {"method": [*AT_ONCE, "nm"], "ablation": "reinit"},
        {"method": AT_ONCE, "ablation": "finetune"},
    ],
    "measures": [{"name": "lmc", "rewind": [0, 20], "points": 5}, "lmc_consecutive"],
}
ENDED: dict[str, Any] = COMMON | {
    "name": "ended",
    "prune": {"iterations": 4, "stop": [{"when": "accuracy_below", "value": 0.8}]},
    "methods": [
        {"name": "lottery_ticket", "ratio": [0.2, 0.4, 0.6], "rewind": {"step": 5}},
        {"name": "one_shot", "ratio": [0.3, 0.8]},
        {"name": "random", "density": 0.03, "layer_densities": "erk"},
    ],
    "budget": {"rank": {"after_iterations": 3, "at_density": 0.4, "keep": "1/2"}},
    "measures": ["lmc_consecutive"],
}
"""What ends early has no ablations. Its trunks, and some of its iterations, are the other's."""


def to_the_end(folder: Path, sweep: dict[str, Any]) -> None:
    process = start(folder, "run", str(write(folder, sweep)))
    out, err = process.communicate(timeout=1200)
    assert process.returncode == 0, f"{out}\n{err}"


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    for sweep in (ABLATED, ENDED):
        to_the_end(folder, sweep)
    return folder


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_all_of_it_is_there(unbroken: Path) -> None:
    ablated, ended = (open_results(store_of(unbroken), each["name"]) for each in (ABLATED, ENDED))
    # Eight methods, one of them with two densities, have one, two of them more.
    assert len(ablated.ablations()) == 9 + 2 + 2
    assert {row["seeds"] for row in ablated.ablations().to_pylist()} == {2}
    for results in (ablated, ended):
        between = {row["measure"] for row in results.connectivity.to_pylist()}
        assert between == (
            {"lmc", "lmc_consecutive"} if results is ablated else {"lmc_consecutive"}
        )
        densities = results.iterations.select(["density", "density_effective"]).to_pylist()
        assert any(row["density_effective"] < row["density"] for row in densities)
        assert report_payload(results)["barriers"]["rows"]
    why = {end.why.partition(":")[0] for end in read_ends(store_of(unbroken), "ended").values()}
    assert why == {"rank", "accuracy_below"}
    assert json.loads(ask(unbroken, "verify", "--json"))["damage"] == []


def workers(process: Popen[str]) -> list[psutil.Process]:
    found = psutil.Process(process.pid).children(recursive=True)
    return [child for child in found if "Trainable" in " ".join(child.cmdline())]


def broken_off(folder: Path, sweep: dict[str, Any], at: list[float]) -> None:
    """A run of which a worker is killed at so many commits, and the driver at as many more."""
    process = start(folder, "run", str(write(folder, sweep)))
    wait_for(lambda: len(commits(folder)) >= at[0] and workers(process) != [], 1200)
    workers(process)[0].kill()
    wait_for(lambda: len(commits(folder)) >= at[1], 1200)
    others = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate(timeout=240)
    assert psutil.wait_procs(others, timeout=240)[1] == []


@pytest.mark.long
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("sweep", [ABLATED, ENDED], ids=["ablated", "ended"])
def test_killed_on_the_way_it_ends_with_the_same(
    unbroken: Path, tmp_path: Path, sweep: dict[str, Any]
) -> None:
    """Twice, a worker and then the driver."""
    name = sweep["name"]
    record = open_results(store_of(unbroken), name).record
    every = len({key for line in record.lineages for key in line.committed_keys})
    for share in (0.3, 0.6):
        broken_off(tmp_path, sweep, [share * every, (share + 0.1) * every])
        assert len(commits(tmp_path)) < every
    to_the_end(tmp_path, sweep)
    assert commits(tmp_path) == {key for line in record.lineages for key in line.committed_keys}
    assert_equal_results(unbroken, tmp_path, name)
    assert read_ends(store_of(tmp_path), name) == read_ends(store_of(unbroken), name)
