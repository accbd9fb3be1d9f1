"""Runs that share a storage, in any order of planning, claiming, committing, dying and resuming.

Everything is the product's but the training: what an iteration would have made is a few bytes
that say which run made it, so that an iteration trained twice, or replaced, shows.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orchestrator.run.healing import set_damaged_aside
from orchestrator.run.planning import Task, make_plan, sweep_lineages
from orchestrator.run.sweep import resolve_datasets
from orchestrator.sweepfile.spec import SweepSpec
from trainables.data import data_roots
from trainables.lineage.keys import Lineage
from trainables.lineage.stored import Stored
from trainables.store import Damaged, Store, iteration_path
from trainables.store.artifacts import WEIGHTS
from trainables.store.claims import Claim, ClaimLost, Claims

FAR = 1e6
"""An expiry that is only reached by moving what was seen back in time."""


def lineages(**changes: Any) -> tuple[Lineage, ...]:
    sweep: dict[str, Any] = {
        "name": "sweep",
        "dataset": "digits",
        "model": {"name": "mlp", "hidden": [16]},
        "seeds": [0, 1],
        "train": {"epochs": 1},
        "prune": {"iterations": 2},
        "methods": ["one_shot", "lottery_ticket"],
    }
    spec = SweepSpec.model_validate(sweep | changes)
    return sweep_lineages(spec, resolve_datasets(spec, data_roots(None, {})))


SWEEPS = (
    lineages(),
    lineages(),
    # Shares its trunks, and its lottery tickets but for their last iteration.
    lineages(methods=["lottery_ticket", "sap"], prune={"iterations": 3}),
)


@dataclass
class Run:
    """One life of a run's driver and workers."""

    number: int
    sweep: tuple[Lineage, ...]
    claims: Claims
    tasks: list[Task] = field(default_factory=list)
    training: dict[str, Claim] = field(default_factory=dict)


class RunsTogether(RuleBasedStateMachine):
    RUNS = st.integers(0, len(SWEEPS) - 1)

    def __init__(self) -> None:
        super().__init__()
        self.store = Store("memory:///root")
        self.lives = 0
        self.runs = [self.launched(sweep) for sweep in SWEEPS]
        self.dead: list[tuple[Run, str, Claim]] = []
        self.committed: dict[str, bytes] = {}
        self.spoilt: set[str] = set()

    def launched(self, sweep: tuple[Lineage, ...]) -> Run:
        self.lives += 1
        return Run(self.lives, sweep, Claims(self.store, run=str(self.lives), expiry=FAR))

    @rule(number=RUNS)
    def plan(self, number: int) -> None:
        run = self.runs[number]
        healed = set_damaged_aside(self.store, self.stored())
        for damage in healed:
            key = damage.path.rpartition("/")[2]
            self.spoilt.remove(key)
            del self.committed[key]
        plan = make_plan(run.sweep, self.store.committed("iterations").get)
        assert plan.to_train == {k for line in run.sweep for k in line.keys} - set(self.stored_keys)
        run.tasks = list(plan.tasks)

    @rule(number=RUNS, at=st.integers(0, 100), patient=st.booleans())
    def claim(self, number: int, at: int, patient: bool = False) -> None:
        run = self.runs[number]
        if not run.tasks:
            return
        line = run.tasks[at % len(run.tasks)].lineage
        first = Stored(line, self.store).first_missing()
        if first is None or line.keys[first] in run.training:
            return
        key = line.keys[first]
        claim = run.claims.take(key)
        if claim is None and patient:
            self.time_passes(number)
            claim = run.claims.take(key)
        if claim is None:
            assert self.someone_has(key)
            return
        assert not any(key in other.training for other in self.runs)
        _on_another_machine(claim)
        run.training[key] = claim

    @rule(number=RUNS, at=st.integers(0, 100))
    def commit(self, number: int, at: int) -> None:
        run = self.runs[number]
        if run.training:
            key = list(run.training)[at % len(run.training)]
            claim = run.training.pop(key)
            claim.require()
            assert self.store.commit(iteration_path(key), _made(run))
            self.committed[key] = _made(run)[WEIGHTS]
            claim.withdraw()

    @rule(number=RUNS)
    def crash(self, number: int) -> None:
        """The machine of a run is gone, and the user starts it again on another."""
        run = self.runs[number]
        for key, claim in run.training.items():
            claim._done.set()
            self.dead.append((run, key, claim))
        self.runs[number] = self.launched(run.sweep)

    @rule(number=RUNS)
    def time_passes(self, number: int) -> None:
        """What this run watches has not changed for longer than the expiry, if it is dead."""
        seen = self.runs[number].claims._seen
        for _, _, claim in self.dead:
            if claim.path in seen and self.is_there(claim):
                seen[claim.path] = seen[claim.path][0], seen[claim.path][1] - 2 * FAR

    @precondition(lambda self: self.dead)
    @rule(at=st.integers(0, 100))
    def wake_up_late(self, at: int) -> None:
        """A machine thought lost goes on where it was: its last act is to commit."""
        # The later the better: taken over, and even committed by then, where there is such a one.
        lost = [one for one in self.dead if not self.is_there(one[2])]
        outdone = [one for one in lost if one[1] in self.committed]
        candidates = outdone or lost or self.dead
        late = candidates[at % len(candidates)]
        self.dead.remove(late)
        run, key, claim = late
        try:
            claim.require()
        except ClaimLost:
            # Even if it were to commit, in the moment before it looks, nothing would change.
            if key in self.committed:
                assert not self.store.commit(iteration_path(key), _made(run))
            return
        assert self.store.commit(iteration_path(key), _made(run))
        self.committed[key] = _made(run)[WEIGHTS]
        claim.withdraw()

    @precondition(lambda self: set(self.committed) - self.spoilt)
    @rule(at=st.integers(0, 100))
    def damage(self, at: int) -> None:
        sound = sorted(set(self.committed) - self.spoilt)
        key = sound[at % len(sound)]
        path = iteration_path(key)
        folder = self.store.manifest(path)["folder"]
        self.store.put(f"{path}/{folder}/{WEIGHTS}", b"flipped")
        self.spoilt.add(key)

    @invariant()
    def what_was_committed_stays(self) -> None:
        assert set(self.stored_keys) == set(self.committed)
        for key, made in self.committed.items():
            try:
                assert self.store.read(iteration_path(key), WEIGHTS) == made
                assert key not in self.spoilt
            except Damaged:
                assert key in self.spoilt

    @invariant()
    def one_trains_an_iteration_at_a_time(self) -> None:
        training = [key for run in self.runs for key in run.training]
        assert len(training) == len(set(training))

    def teardown(self) -> None:
        """However it went, running every sweep once more ends with everything, each once."""
        for number in range(len(self.runs)):
            self.crash(number)
        for number, run in enumerate(self.runs):
            self.plan(number)
            while run.tasks:
                before = len(self.committed)
                for at in range(len(run.tasks)):
                    self.claim(number, at, patient=True)
                    self.commit(number, 0)
                    self.what_was_committed_stays()
                self.plan(number)
                assert not run.tasks or len(self.committed) > before
        assert set(self.committed) == {k for sweep in SWEEPS for line in sweep for k in line.keys}

    @property
    def stored_keys(self) -> list[str]:
        return list(self.store.committed("iterations"))

    def stored(self) -> list[str]:
        return [iteration_path(key) for key in self.stored_keys]

    def is_there(self, claim: Claim) -> bool:
        """Whether its ticket is, and not another's."""
        found = self.store.peek(claim.path)
        return found is not None and json.loads(found)["ticket"] == claim.ticket["ticket"]

    def someone_has(self, key: str) -> bool:
        return any(key in run.training for run in self.runs) or any(
            key == other for _, other, _ in self.dead
        )


def _made(run: Run) -> dict[str, bytes]:
    return {WEIGHTS: f"made by {run.number}".encode()}


def _on_another_machine(claim: Claim) -> None:
    """Only time tells then whether its holder lives."""
    claim.ticket["process"]["host"] = "another"
    assert claim.beat()


TestRunsTogether = RunsTogether.TestCase
TestRunsTogether.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
