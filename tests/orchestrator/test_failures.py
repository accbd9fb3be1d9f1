"""Lineages that fail, and a view that breaks: the other lineages go on, through real Ray."""

import json
from pathlib import Path

from asking import ask
from sweeping import ONE_AT_A_TIME, SWEEP, commits, planned, run, start, store_of, table, write

STUCK = """
import time
from prunesweep import loss

@loss
def stuck(logits, labels):
    if len(labels) > 2:  # not where it is tried before the run, with two examples
        time.sleep(100_000)
    return labels * logits.sum()
"""


def test_a_failing_lineage_stops_nothing_else(tmp_path: Path) -> None:
    sweep = SWEEP | {
        "name": "half",
        "seeds": [0],
        "train": {"epochs": 2, "optimizer": [
            {"name": "sgd", "lr": 0.1}, {"name": "sgd", "lr": 1e30},
        ]},
        "methods": ["one_shot", "lottery_ticket"],
    }  # fmt: skip
    summary = run(tmp_path, sweep, *ONE_AT_A_TIME, expect=1)
    failures = summary["failures"]
    assert len(failures) == 2
    assert [failure["attempt"] for failure in failures] == [1, 0]
    assert all("Diverged" in failure["traceback"] for failure in failures)
    assert "which it shares with" in failures[1]["traceback"]
    assert len(table(tmp_path, "half", "iterations")) == 2 * 3
    assert len(json.loads(ask(tmp_path, "status", "half", "--json"))["failures"]) == 2
    again = json.loads(ask(tmp_path, "run", "half.yaml", "--json", expect=1))
    assert (again["planned"], again["failures"]) == (0, failures)  # it would diverge again
    retried = ask(tmp_path, "plan", "half.yaml", "--retry", "failed", "--json")
    assert json.loads(retried)["to_train"] == 1 + 2 * 2


def test_an_iteration_that_takes_too_long_is_ended_and_stops_nothing_else(tmp_path: Path) -> None:
    sweep = SWEEP | {
        "name": "hung",
        "plugins": ["stuck.py"],
        "seeds": [0],
        "train": {"epochs": 1, "loss": ["stuck", "cross_entropy"]},
        "methods": ["one_shot"],
        "resources": {"timeout_minutes": 0.25, "retries": 0},
    }
    (tmp_path / "stuck.py").write_text(STUCK)
    (failure,) = run(tmp_path, sweep, expect=1)["failures"]
    assert failure["iteration"] == 0
    assert "longer than resources.timeout_minutes: 0.25" in failure["traceback"]
    assert "training/run.py" in failure["traceback"]  # where it was
    assert len(commits(tmp_path)) == 3
    assert store_of(tmp_path).names("claims")[1:] == []  # what the ended worker left is void
    assert planned(tmp_path, sweep | {"train": {"epochs": 1}})["to_train"] == 0


def test_a_broken_progress_view_costs_no_lineage(tmp_path: Path) -> None:
    """Its heartbeat cannot be written, and nobody reads its lines any more."""
    folder = tmp_path / "prunesweep-store/sweeps/small"
    (folder / "run.json").mkdir(parents=True)
    sweep = SWEEP | {"seeds": [0], "methods": ["one_shot"]}
    process = start(tmp_path, "run", str(write(tmp_path, sweep)))
    assert process.stderr
    process.stderr.close()
    assert process.stdout
    out = process.stdout.read()
    assert process.wait(timeout=240) == 0, out
    assert len(commits(tmp_path)) == 3


KILLS_ITS_WORKER = """
import os
from pathlib import Path
from prunesweep import loss
from torch.nn import functional as F

@loss
def deadly(logits, labels):
    killed = Path({killed!r})
    if len(labels) > 2 and not killed.exists():
        killed.touch()
        os.kill(os.getpid(), 9)
    return F.cross_entropy(logits, labels, reduction="none")
"""


def test_fused_lineages_end_as_lineages_do_and_a_worker_that_dies_costs_none(
    tmp_path: Path,
) -> None:
    """Each goes on alone first, since any of them may have been the one; then together again."""
    sweep = SWEEP | {
        "name": "fused",
        "plugins": ["deadly.py"],
        "train": {"epochs": 2, "batch_size": 50, "loss": "deadly"},
        "methods": ["one_shot", "lottery_ticket", {"name": "snip", "density": 0.3}],
        "resources": {"fuse": 8, "retries": 0},
    }
    (tmp_path / "deadly.py").write_text(KILLS_ITS_WORKER.format(killed=str(tmp_path / "killed")))
    summary = run(tmp_path, sweep, *ONE_AT_A_TIME)
    assert summary["failures"] == []
    rows = table(tmp_path, "fused", "iterations").to_pylist()
    assert len(rows) == len(commits(tmp_path)) + 2 == 2 * (3 + 3 + 1)
    assert {row["fused"] for row in rows if row["iteration"] == 0} == {1}
    assert max(row["fused"] for row in rows) > 2
    assert store_of(tmp_path).names("claims") == []


def test_what_a_worker_had_to_do_otherwise_is_told_once(tmp_path: Path) -> None:
    sweep = SWEEP | {
        "name": "told",
        "methods": ["one_shot"],
        "resources": {"graphs": "on", "gpus_per_lineage": 0},
        "wandb": {"mode": "disabled"},
    }
    process = start(tmp_path, "run", str(write(tmp_path, sweep)), *ONE_AT_A_TIME)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert len(commits(tmp_path)) == 2 * 3
    assert err.count("graphs: on: steps are taken without graphs, since only a CUDA") == 1
