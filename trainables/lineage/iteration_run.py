"""One iteration: prune → measure → rewind → train → measure → commit."""

import time
from collections.abc import Generator, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from trainables.lineage.commits import commit_iteration
from trainables.lineage.identity import snapshot_key
from trainables.lineage.initial_weights import load_kept
from trainables.lineage.iteration import Iteration
from trainables.lineage.made import Made
from trainables.lineage.metrics import Metrics
from trainables.models import build_model, prunable
from trainables.pruning import Network
from trainables.pruning.ablation import Ablation, Branch
from trainables.pruning.score_sample import ScoreSample
from trainables.sparsity.masks import Masks, apply_masks, dense_masks
from trainables.sparsity.weights import measure_sparsity
from trainables.store import NotCommitted, snapshot_path
from trainables.store.artifacts import WEIGHTS, encode_tensors, read_masks, read_tensors
from trainables.store.claims import Claim
from trainables.training.batches import Randomness
from trainables.training.checkpoint import StoredCheckpoint
from trainables.training.evaluation import evaluate
from trainables.training.precision import arithmetic, laid_out
from trainables.training.progress import State
from trainables.training.randomness import stream
from trainables.training.run import Training

T = TypeVar("T")
Asking: TypeAlias = Generator[Training, Any, T]
"""Gives trainings to be done, is sent the Progress of each, and returns a T."""


class IterationRun(Iteration):
    """An iteration at work."""

    def run(self, claim: Claim | None = None) -> Asking[Metrics]:
        """Train, measure and commit; the metrics. Who drives it does the training, alone or with
        others of its kind.

        Raises ClaimLost, and commits nothing, when `claim` was taken over meanwhile.
        """
        if self.bench.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.bench.device)
        model = self._initial_model()
        initial = {name: weight.detach().clone() for name, weight in prunable(model).items()}
        ways = {"train": self._train_trunk, "ablate": self._ablate}
        made = yield from ways.get(self.step.kind, self._prune)(model)
        return commit_iteration(self, model, initial, made, claim)

    def _train_trunk(self, model: nn.Module) -> Asking[Made]:
        wanted = self.bench.snapshots.get(self.key, frozenset()) | {0}

        def snapshot(at: int) -> None:
            if at in wanted:
                self._commit_snapshot(self.key, at, model.state_dict())

        training = self._training(model, None, iteration=0)
        progress = yield replace(training, snapshot=snapshot, checkpoint=self._checkpoint())
        return Made(dense_masks(prunable(model)), progress=progress)

    def _prune(self, model: nn.Module) -> Asking[Made]:
        """Find the masks, measure the pruned model, and train it from its rewound weights."""
        started = time.perf_counter()
        if self.step.kind == "retrain":
            masks = self._parent_masks(prunable(model))
            rewound = self._rewound_state()
            model.load_state_dict(rewound)
            made = self._measured_pruned(model, masks)
        else:
            rewound, made = self._scored_and_pruned(model)
        return (yield from self._retrained(model, rewound, made, started))

    def _ablate(self, model: nn.Module) -> Asking[Made]:
        """Train what the ablation makes of its parent's masks, from the weights that it says."""
        assert self.ablation is not None
        started = time.perf_counter()
        masks = self._ablated_masks(self.ablation, prunable(model))
        start = self.start_state(self.ablation, model)
        model.load_state_dict(start)
        made = self._measured_pruned(model, masks)
        return (yield from self._retrained(model, start, made, started))

    def _retrained(
        self, model: nn.Module, start: State, made: Made, started: float
    ) -> Asking[Made]:
        model.load_state_dict(start)
        made.prune_seconds = time.perf_counter() - started
        training = self._training(model, made.masks, self.step.iteration, self.start_step)
        method, schedule = self.cell.method, None
        as_it_did = self.ablation is None or self.ablation.start == "rewound"
        if method.rewinds == "nothing" and as_it_did:
            training = replace(training, recipe=training.recipe.at_last_rate())
        if self.ablation is None:
            network = self._network(self, model, made.masks)
            schedule = method.mask_schedule(network, training.steps)
        made.progress = yield replace(
            training, checkpoint=self._checkpoint(), mask_schedule=schedule
        )
        if found := made.progress.masks:
            # What a checkpoint kept comes in an order of its own.
            made.masks = {name: found[name] for name in made.masks}
        return made

    def _ablated_masks(self, ablation: Ablation, layers: Iterable[str]) -> Masks:
        masks, at = self._parent_masks(layers), self.lineage.pruned_at
        found = Iteration(self.lineage, at, self.bench)
        before = self._parent_masks(masks, at) if found.step.has_parent else dense_masks(masks)

        def scores() -> dict[str, Tensor]:
            model = self._initial_model(found)
            if found.step.has_parent:
                model.load_state_dict(self._scored_state(at))
            with arithmetic("float32"):
                return found.cell.method.weight_scores(self._network(found, model, before))

        seed, t = self.lineage.cell.seed, self.step.iteration
        return ablation(Branch(masks, before, scores, ablation.name, seed, t))

    def start_state(self, ablation: Ablation, model: nn.Module) -> State:
        """The weights that the ablation trains; `model` has its initial ones."""
        if ablation.start == "initial":
            return {name: each.clone() for name, each in model.state_dict().items()}
        pruned_at = self.lineage.pruned_at
        if ablation.start == "trained":
            return self._scored_state(pruned_at)
        scored, own = None, self.trunk == self.lineage.trunk_on(self.step.inputs)
        if own and self.lineage.goes_on and self.lineage.steps[pruned_at].has_parent:
            scored = self._scored_state(pruned_at)
        return self._state_to_train(model, scored)

    def _scored_and_pruned(self, model: nn.Module) -> tuple[State, Made]:
        """The state to train from, and the masks with the pruned model's measures."""
        scored = self._load_scored(model)
        weights = prunable(model)
        masks = self._parent_masks(weights) if self.step.has_parent else dense_masks(weights)
        sample = self._score_sample(masks)
        made = self._measured_pruned(model, self._masks(model, masks, sample))
        made.scores = sample
        return self._state_to_train(model, scored), made

    def _state_to_train(self, model: nn.Module, scored: State | None) -> State:
        """What the method rewinds to: w_k, with the buffers of what was `scored` or without, or
        that itself."""
        if scored is not None and self.lineage.cell.method.rewinds != "weights":
            return scored
        rewound = self._rewound_state()
        if scored is not None and not self.lineage.cell.prune.rewind_batchnorm:
            buffers = (name for name, _ in model.named_buffers(remove_duplicate=False))
            # Those that are not persistent are in no state.
            rewound = rewound | {name: scored[name] for name in buffers if name in scored}
        return rewound

    def _load_scored(self, model: nn.Module) -> State | None:
        """Give `model`, which has its initial weights, the state that is scored, and return it;
        None without a parent, when the initial one is."""
        if not self.step.has_parent:
            self._commit_snapshot(self.lineage.trunk, 0, model.state_dict())
            return None
        scored = self._scored_state(self.index)
        model.load_state_dict(scored)
        return scored

    def _scored_state(self, index: int) -> State:
        """The trained weights that the step at `index` scores."""
        dense = self.lineage.steps[index].scored == "dense"
        return read_tensors(self.bench.store, self.path(0 if dense else index - 1))

    def _score_sample(self, masks: Masks) -> ScoreSample | None:
        count, seed = self.bench.keeping.keep_scores, self.lineage.cell.seed
        return ScoreSample(masks, count, stream(seed, "kept scores")) if count else None

    def _masks(self, model: nn.Module, masks: Masks, sample: ScoreSample | None) -> Masks:
        with arithmetic("float32"):
            return self.cell.method(self._network(self, model, masks, sample))

    def _network(
        self, of: Iteration, model: nn.Module, masks: Masks, sample: ScoreSample | None = None
    ) -> Network:
        """What the method prunes at an iteration of the lineage."""
        return Network(
            model=model,
            masks=masks,
            data=of.data,
            seed=of.cell.seed,
            iteration=of.step.iteration,
            scope=of.cell.prune.scope,
            density=of.step.density,
            sample=sample,
        )

    def _parent_masks(self, layers: Iterable[str], index: int | None = None) -> Masks:
        """Those of the step before the one at `index`, by default this one, in the order of the
        model's `layers`: a file has an order of its own."""
        index = self.index if index is None else index
        parent = read_masks(self.bench.store, self.path(index - 1))
        return {name: parent[name].to(self.bench.device) for name in layers}

    def _measured_pruned(self, model: nn.Module, masks: Masks) -> Made:
        apply_masks(model, masks)
        train = self.cell.train
        weights: dict[str, Tensor] = {n: w.detach() for n, w in prunable(model).items()}
        return Made(
            masks=masks,
            pruned=evaluate(model, self.data.test, train.loss, train.precision),
            pruned_sparsity=measure_sparsity(weights, masks),
        )

    def _training(
        self, model: nn.Module, masks: Masks | None, iteration: int, start_step: int = 0
    ) -> Training:
        cell = self.cell
        randomness = Randomness(cell.seed, iteration)
        return Training(
            model,
            masks,
            self.data,
            cell.train,
            randomness,
            self.step.inputs,
            start_step,
            architecture=cell.model,
            execution=self.bench.execution,
            is_told=self.bench.is_told,
        )

    def _rewound_state(self) -> State:
        return self._trunk_state(self.lineage.cell.method.rewind_step)

    def _trunk_state(self, step: int) -> State:
        """w_k of the trunk on the same inputs: from its snapshot, or trained again for k steps when
        there is none."""
        trunk = self.trunk
        path = snapshot_path(snapshot_key(trunk, step))
        with suppress(NotCommitted):
            return read_tensors(self.bench.store, path)
        model = self._initial_model()
        if step > 0:
            training = self._training(model, None, iteration=0)
            replace(training, recipe=self.lineage.cell.train).until(step)
        if trunk == self.lineage.trunk_on(self.step.inputs):
            # That of another trunk is no part of this lineage's sweep.
            self._commit_snapshot(trunk, step, model.state_dict())
        return model.state_dict()

    def _commit_snapshot(self, trunk: str, step: int, state: State) -> None:
        path = snapshot_path(snapshot_key(trunk, step))
        if not self.bench.store.is_committed(path):
            self.bench.store.commit(path, {WEIGHTS: encode_tensors(state)})

    def _initial_model(self, of: Iteration | None = None) -> nn.Module:
        """The model with the initial weights of an iteration of the lineage, by default this."""
        of = of or self
        cell, data = of.cell, of.data
        model = build_model(cell.model, data.shape, data.classes, of.initial_seed)
        if of.initial_content is not None:
            load_kept(self.bench.store, of.initial_content, model)
        return laid_out(model, cell.train.precision, self.bench.device)

    def _checkpoint(self) -> StoredCheckpoint:
        minutes = self.bench.keeping.checkpoint_minutes
        return StoredCheckpoint(self.bench.store, self.key, minutes)
