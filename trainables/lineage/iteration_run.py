"""One iteration: prune → measure → rewind → train → measure → commit."""

import time
from collections.abc import Generator
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from trainables.lineage.commits import commit_iteration
from trainables.lineage.identity import snapshot_key
from trainables.lineage.iteration import Iteration
from trainables.lineage.made import Made
from trainables.lineage.metrics import Metrics
from trainables.measures.masks import Masks, apply_masks, dense_masks
from trainables.measures.weights import measure_sparsity
from trainables.models import build_model, prunable
from trainables.pruning import Network
from trainables.pruning.score_sample import ScoreSample
from trainables.store import NotCommitted, snapshot_path
from trainables.store.artifacts import WEIGHTS, encode_tensors, read_masks, read_tensors
from trainables.store.claims import Claim
from trainables.training.batches import Randomness
from trainables.training.checkpoint import StoredCheckpoint
from trainables.training.evaluation import evaluate
from trainables.training.precision import float32_products, laid_out
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
        train = self._train_trunk if self.step.kind == "train" else self._prune
        made = yield from train(model)
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
            masks = self._parent_masks()
            rewound = self._rewound_state()
            model.load_state_dict(rewound)
            made = self._measured_pruned(model, masks)
        else:
            rewound, made = self._scored_and_pruned(model)
        model.load_state_dict(rewound)
        made.prune_seconds = time.perf_counter() - started
        start = self.lineage.cell.method.rewind_step
        training = self._training(model, made.masks, self.step.iteration, start)
        made.progress = yield replace(training, checkpoint=self._checkpoint())
        return made

    def _scored_and_pruned(self, model: nn.Module) -> tuple[State, Made]:
        """The state to train from, and the masks with the pruned model's measures."""
        scored = self._load_scored(model)
        masks = self._parent_masks() if self.step.has_parent else self._all(model)
        sample = self._score_sample(masks)
        made = self._measured_pruned(model, self._masks(model, masks, sample))
        made.scores = sample
        rewound = self._rewound_state()
        if scored is not None and not self.lineage.cell.prune.rewind_batchnorm:
            buffers = (name for name, _ in model.named_buffers(remove_duplicate=False))
            # Those that are not persistent are in no state.
            rewound = rewound | {name: scored[name] for name in buffers if name in scored}
        return rewound, made

    def _load_scored(self, model: nn.Module) -> State | None:
        """Give `model`, which has its initial weights, the state that is scored, and return it;
        None without a parent, when the initial one is."""
        if not self.step.has_parent:
            self._commit_snapshot(self.lineage.trunk, 0, model.state_dict())
            return None
        index = 0 if self.step.scored == "dense" else self.index - 1
        scored = read_tensors(self.bench.store, self.path(index))
        model.load_state_dict(scored)
        return scored

    def _score_sample(self, masks: Masks) -> ScoreSample | None:
        count, seed = self.bench.keeping.keep_scores, self.lineage.cell.seed
        return ScoreSample(masks, count, stream(seed, "kept scores")) if count else None

    def _masks(self, model: nn.Module, masks: Masks, sample: ScoreSample | None) -> Masks:
        cell = self.lineage.cell
        network = Network(
            model=model,
            masks=masks,
            data=self.bench.data,
            seed=cell.seed,
            iteration=self.step.iteration,
            scope=cell.prune.scope,
            density=self.step.density,
            sample=sample,
        )
        with float32_products("float32"):
            return cell.method(network)

    def _all(self, model: nn.Module) -> Masks:
        return dense_masks(prunable(model))

    def _parent_masks(self) -> Masks:
        parent = read_masks(self.bench.store, self.path(self.index - 1))
        return {name: mask.to(self.bench.device) for name, mask in parent.items()}

    def _measured_pruned(self, model: nn.Module, masks: Masks) -> Made:
        apply_masks(model, masks)
        train = self.lineage.cell.train
        weights: dict[str, Tensor] = {n: w.detach() for n, w in prunable(model).items()}
        return Made(
            masks=masks,
            pruned=evaluate(model, self.bench.data.test, train.loss, train.precision),
            pruned_sparsity=measure_sparsity(weights, masks),
        )

    def _training(
        self, model: nn.Module, masks: Masks | None, iteration: int, start_step: int = 0
    ) -> Training:
        cell = self.lineage.cell
        randomness = Randomness(cell.seed, iteration)
        return Training(
            model,
            masks,
            self.bench.data,
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
        trunk = self.lineage.trunk_on(self.step.inputs)
        path = snapshot_path(snapshot_key(trunk, step))
        with suppress(NotCommitted):
            return read_tensors(self.bench.store, path)
        model = self._initial_model()
        if step > 0:
            self._training(model, None, iteration=0).until(step)
        self._commit_snapshot(trunk, step, model.state_dict())
        return model.state_dict()

    def _commit_snapshot(self, trunk: str, step: int, state: State) -> None:
        path = snapshot_path(snapshot_key(trunk, step))
        if not self.bench.store.is_committed(path):
            self.bench.store.commit(path, {WEIGHTS: encode_tensors(state)})

    def _initial_model(self) -> nn.Module:
        cell, data = self.lineage.cell, self.bench.data
        model = build_model(cell.model, data.shape, data.classes, cell.seed)
        return laid_out(model, cell.train.precision, self.bench.device)

    def _checkpoint(self) -> StoredCheckpoint:
        minutes = self.bench.keeping.checkpoint_minutes
        return StoredCheckpoint(self.bench.store, self.key, minutes)
