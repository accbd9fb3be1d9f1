"""Which iteration of which lineage is at work, and with what."""

from dataclasses import dataclass, replace

from trainables.lineage.bench import Bench
from trainables.lineage.identity import trunk_key
from trainables.lineage.keys import Cell, Lineage, random_trunk_key, trunk_config
from trainables.pruning import Step
from trainables.pruning.ablation import Ablation
from trainables.store import iteration_path
from trainables.training.batches import DeviceData


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

    @property
    def ablation(self) -> Ablation | None:
        """The ablation that the step is, if it is one and no step of the lineage before it."""
        return self.lineage.cell.ablation if self.step.kind == "ablate" else None

    @property
    def cell(self) -> Cell:
        """What the step is trained as: the lineage's cell, and what an ablation makes of it."""
        cell, ablation = self.lineage.cell, self.ablation
        if ablation is None:
            return cell
        return replace(
            cell,
            dataset=ablation.elsewhere or cell.dataset,
            train=ablation.recipe(cell.train),
            seed=ablation.training_seed(cell.seed),
        )

    @property
    def data(self) -> DeviceData:
        """What the step is trained and tested on."""
        elsewhere = self.bench.elsewhere if self.ablation is not None else None
        return self.bench.data if elsewhere is None else elsewhere

    @property
    def initial_seed(self) -> int:
        """What the step's initial weights are drawn from."""
        seed = self.lineage.cell.seed
        return seed if self.ablation is None else self.ablation.initial_seed(seed)

    @property
    def initial_content(self) -> str | None:
        """Of the file that its initial weights come from, where they come from one: not those of
        an ablation that draws them anew."""
        file, drawn_anew = self.cell.model.initial_weights, self.initial_seed != self.cell.seed
        return None if file is None or drawn_anew else file.content

    @property
    def trunk(self) -> str:
        """key_0 of the dense training, on the inputs of the step, that it is rewound to: by the
        lineage's recipe, whatever an ablation trains by."""
        cell = replace(self.cell, train=self.lineage.cell.train)
        if self.ablation is None or cell == self.lineage.cell:
            return self.lineage.trunk_on(self.step.inputs)
        dataset = self.lineage.elsewhere or self.lineage.dataset
        trunk = trunk_key(trunk_config(cell, dataset))
        return trunk if self.step.inputs == "real" else random_trunk_key(trunk)

    @property
    def start_step(self) -> int:
        """The training step that it starts from."""
        rewound = self.lineage.cell.method.rewind_step
        return rewound if self.ablation is None else self.ablation.first_step(rewound)

    def path(self, index: int) -> str:
        """The commit of the lineage's step at `index`."""
        return iteration_path(self.lineage.keys[index])
