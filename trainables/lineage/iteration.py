"""Which iteration of which lineage is at work, and with what."""

from dataclasses import dataclass

from trainables.lineage.bench import Bench
from trainables.lineage.keys import Lineage
from trainables.pruning import Step
from trainables.store import iteration_path


@dataclass(frozen=True)
class Iteration:
    """The step at `index` of a lineage, whose parent is committed, on a bench."""

    lineage: Lineage
    index: int
    bench: Bench

    @property
    def step(self) -> Step:
        return self.lineage.steps[self.index]

    @property
    def key(self) -> str:
        return self.lineage.keys[self.index]

    def path(self, index: int) -> str:
        """The commit of the lineage's step at `index`."""
        return iteration_path(self.lineage.keys[index])
