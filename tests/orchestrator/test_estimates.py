"""What a training is expected to take: recorded, scaled from another, or measured by a probe."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from asking import ask
from smallest import SWEEP as SMALLEST
from sweeping import planned as asked
from sweeping import store_of, write
from test_planning import lineages, plan, resolved

from orchestrator.records.probes import FOLDER, Probe, read_probes, write_probe
from orchestrator.run.estimates import Estimates, Size, dataset_sizes, training_group, work
from orchestrator.sweepfile.spec import SweepSpec
from trainables.config import canonical_json
from trainables.lineage.keys import Lineage
from trainables.store import Store
from trainables.store.storage_format import require_ours


def one(**changes: Any) -> Lineage:
    return lineages(**{"seeds": [0], "methods": ["one_shot"], **changes})[0]


TWO_EPOCHS = one()
LONGER = one(train={"epochs": 6, "batch_size": 50})
SIZES = {
    canonical_json(TWO_EPOCHS.dataset): Size(1437, 360),
    canonical_json(one(dataset={"name": "digits", "subset": 100}).dataset): Size(100, 360),
}


def expected(
    of: Lineage, recorded: dict[str, float], probes: tuple[Probe, ...] = ()
) -> tuple[float, str] | None:
    found = [*Estimates(recorded, SIZES, probes).of(plan([of])).values()]
    return (found[0].seconds, found[0].source) if found else None


def recorded(line: Lineage, seconds: float) -> dict[str, float]:
    return {training_group(line.config()): seconds}


def test_what_is_recorded_counts_first() -> None:
    times = recorded(TWO_EPOCHS, 10.0) | recorded(LONGER, 33.0)
    assert expected(LONGER, times, (probe_of(LONGER),)) == (33.0, "recorded")


def test_another_training_of_the_kind_is_scaled_by_epochs_and_examples() -> None:
    scaled = expected(LONGER, recorded(TWO_EPOCHS, 10.0), (probe_of(LONGER),))
    assert scaled == (30.0, "scaled from a recorded training of 2 epochs")
    part = one(dataset={"name": "digits", "subset": 100})
    found = expected(TWO_EPOCHS, recorded(part, 1.0))
    assert found is not None
    assert found[0] == pytest.approx(14.37)


def test_the_learning_rate_does_not_matter_and_the_nearest_length_does() -> None:
    slow = one(train={"epochs": 5, "batch_size": 50, "optimizer": {"name": "sgd", "lr": 1e-3}})
    times = recorded(TWO_EPOCHS, 1000.0) | recorded(slow, 10.0)
    assert expected(LONGER, times) == (12.0, "scaled from a recorded training of 5 epochs")


def test_of_other_recipes_the_most_alike_is_taken_where_nothing_was_measured() -> None:
    other = one(train={"epochs": 6, "batch_size": 500, "clip_grad_norm": 1.0})
    closer = one(train={"epochs": 6, "batch_size": 500})
    times = recorded(other, 1.0) | recorded(closer, 2.0)
    assert expected(LONGER, times) == (2.0, "scaled from a recorded training of 6 epochs")
    assert expected(LONGER, times, (probe_of(LONGER),)) == expected(LONGER, {}, (probe_of(LONGER),))


def test_another_model_or_dataset_says_nothing() -> None:
    wider = one(model={"name": "mlp", "hidden": [999]})
    assert expected(LONGER, recorded(wider, 1.0)) is None
    assert expected(LONGER, recorded(wider, 1.0), (probe_of(wider),)) is None


def test_a_probe_is_scaled_to_the_training() -> None:
    # ⌈1437 / 50⌉ = 29 steps and 360 evaluated examples an epoch
    assert expected(LONGER, {}, (probe_of(LONGER),)) == (
        pytest.approx(6 * (29 * 0.5 + 360 * 0.01)),
        "measured on a CPU of here",
    )


def test_a_step_of_several_batches_is_measured_as_one() -> None:
    train = {"epochs": 6, "batch_size": 50, "accumulate": 4, "warmup_epochs": 2}
    # ⌈29 / 4⌉ = 8 steps; what the learning rate does is no matter
    probe = probe_of(one(train=train | {"warmup_epochs": 0, "lr_interval": "step"}))
    seconds, _ = expected(one(train=train), {}, (probe,)) or (0, "")
    assert seconds == pytest.approx(6 * (8 * 0.5 + 360 * 0.01))


def probe_of(line: Lineage, **changes: Any) -> Probe:
    values: dict[str, Any] = {
        "fused": 1, "device": "a CPU", "host": "here", "torch": "2", "step_seconds": 0.5,
        "evaluation_seconds": 0.01, "peak_memory_bytes": 1, "memory_bytes": None,
        "measured_at": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    return Probe(work=work(line.config()), **values | changes)


def test_a_later_probe_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for seconds in (1.0, 2.0):
        write_probe(store, probe_of(LONGER, step_seconds=seconds))
    write_probe(store, probe_of(LONGER, fused=2))
    found = {probe.fused: probe.step_seconds for probe in read_probes(store)}
    assert found == {1: 2.0, 2: 0.5}
    for name in store.names(FOLDER):
        (tmp_path / FOLDER / name).write_text('{"torn": ')
    assert read_probes(store) == []


def test_sizes_come_from_all_that_was_trained_on(tmp_path: Path) -> None:
    spec = SweepSpec.model_validate(SMALLEST | {"dataset": {"name": "digits", "holdout": 37}})
    sizes = dataset_sizes(Store(str(tmp_path)), resolved(spec))
    assert [*sizes.values()] == [Size(1400, 360 + 37)]


class TestProbing:
    SWEEP = SMALLEST | {"resources": {"fuse": 2}}

    @pytest.fixture(scope="class")
    @staticmethod
    def probed(tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("probed")
        ask(folder, "plan", str(write(folder, TestProbing.SWEEP)), "--probe")
        return folder

    def test_it_measures_each_kind_alone_and_together(self, probed: Path) -> None:
        probes = read_probes(store_of(probed))
        assert sorted(probe.fused for probe in probes) == [1, 2]
        for probe in probes:
            assert probe.step_seconds > 0
            assert probe.evaluation_seconds > 0
            assert probe.peak_memory_bytes > 0
            assert probe.host == socket.gethostname()

    def test_it_commits_nothing_and_leaves_a_sound_storage(self, probed: Path) -> None:
        assert store_of(probed).names("iterations") == []
        require_ours(store_of(probed))
        assert json.loads(ask(probed, "verify", "--json"))["commits"] == 0

    def test_later_plans_know_the_time(self, probed: Path) -> None:
        found = asked(probed, self.SWEEP | {"train": {"epochs": 3, "batch_size": 50}})
        assert found["estimated_device_seconds"] > 0
        assert "measured on" in found["estimated_from"][0]
        assert found["estimated_here"]["device"] == "CPU"
        assert found["estimated_here"]["hours"] > 0
        assert "at a time" in found["packed_here"]
        shown = ask(probed, "plan", str(write(probed, self.SWEEP)))
        assert "CPU-hours" in shown
        other = self.SWEEP | {"model": {"name": "mlp", "hidden": [9]}}
        assert asked(probed, other)["estimated_device_seconds"] is None

    def test_a_plan_without_it_writes_nothing(self, tmp_path: Path) -> None:
        asked(tmp_path, self.SWEEP)
        assert not (tmp_path / "prunesweep-store").exists()
