"""Training runs, one or several at once, on data that stays on the device."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from trainables.errors import Diverged
from trainables.measures.masks import Masks
from trainables.models import Model
from trainables.training.batches import (
    DeviceData,
    Drawn,
    Examples,
    Inputs,
    Randomness,
    batches_of,
    steps_per_epoch,
)
from trainables.training.evaluation import Evaluation, evaluate
from trainables.training.execution import PLAIN, Execution
from trainables.training.graphs import graphed
from trainables.training.networks import Networks, One, Stack, form_of
from trainables.training.precision import float32_products
from trainables.training.progress import Checkpoint, Progress
from trainables.training.recipe import Recipe
from trainables.training.steps import Steps, Totals


@dataclass(frozen=True)
class Training:
    """A training run of `model`, in place, on the streams of `randomness`.

    `masks` are the kept weights (None: all), on the model's device; pruned weights are zero at the
    start and stay exactly zero. A run from `start_step` k > 0 takes the steps k…end, with their
    learning rates and their places in the data order, and a fresh optimizer. `snapshot(step)` is
    called before every step and once after the last. `architecture` is what the model was made
    from; a run without is trained alone. Its numbers do not depend on `execution` but for rounding.
    """

    model: nn.Module
    masks: Masks | None
    data: DeviceData
    recipe: Recipe
    randomness: Randomness
    inputs: Inputs = "real"
    start_step: int = 0
    snapshot: Callable[[int], None] | None = None
    checkpoint: Checkpoint | None = None
    architecture: Model | None = None
    execution: Execution = PLAIN

    @property
    def kind(self) -> Any:
        """What runs have in common that can be one computation."""
        if self.architecture is None or not self.recipe.optimizer.elementwise:
            return id(self)
        return self.architecture, id(self.data), self.recipe, self.inputs, self.start_step

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(len(self.data.train), self.recipe.batch_size)

    def finish(self) -> Progress:
        """Train to the recipe's end.

        Raises Diverged when the loss of an epoch, in training or on the test set, is not finite.
        """
        (ended,) = train([self])
        if isinstance(ended, Diverged):
            raise ended
        return ended

    def until(self, step: int) -> None:
        """Take the steps before `step`, counted over the whole run, and measure nothing."""
        run = _Run(self, Progress())
        group = _Group([run])
        for epoch in range(math.ceil(step / self.steps_per_epoch)):
            group.train(range(min(step - epoch * self.steps_per_epoch, self.steps_per_epoch)))
            run.progress.epoch += 1


def train(trainings: Sequence[Training]) -> list[Progress | Diverged]:
    """Train runs of one `kind` to their end, as one computation; what became of each.

    One that diverges leaves the others as they are. Raises Unfusible when there are several whose
    architecture cannot be one computation.
    """
    runs = [_Run.begun(training) for training in trainings]
    group: _Group | None = None
    while behind := _behind(runs):
        if group is None or behind != group.runs:
            if group is not None:
                group.leave()
            group = _Group(behind)
        group.epoch()
    return [run.ended() for run in runs]


def _behind(runs: Sequence["_Run"]) -> list["_Run"]:
    """Of the runs that are not at their end, those with the longest way to go: what a checkpoint
    had left behind catches up first."""
    going = [run for run in runs if run.diverged is None and run.is_going]
    first = min((run.progress.epoch for run in going), default=0)
    return [run for run in going if run.progress.epoch == first]


@dataclass(eq=False)
class _Run:
    """A training on its way."""

    training: Training
    progress: Progress
    diverged: Diverged | None = None

    @classmethod
    def begun(cls, training: Training) -> "_Run":
        resumed = training.checkpoint.load(training.model) if training.checkpoint else None
        first = training.start_step // training.steps_per_epoch
        return cls(training, resumed or Progress(epoch=first))

    @property
    def is_going(self) -> bool:
        return self.progress.epoch < self.training.recipe.epochs

    def ended(self) -> Progress | Diverged:
        if self.diverged is not None:
            return self.diverged
        training = self.training
        if training.snapshot:
            training.snapshot(training.recipe.epochs * training.steps_per_epoch)
        if self.progress.best is not None:
            training.model.load_state_dict(self.progress.best)
        return self.progress

    def measure(self, trained: "_Trained") -> None:
        """Add the row of an epoch, and keep its weights if they are the best."""
        training, progress = self.training, self.progress
        test = self._evaluated(training.data.test)
        if not (math.isfinite(trained.loss) and math.isfinite(test.loss)):
            self.diverged = Diverged(
                f"the training loss is {trained.loss:g} and the test loss {test.loss:g} in epoch "
                f"{progress.epoch + 1} of {training.recipe.epochs} (learning rate "
                f"{trained.rate:g}); try a smaller train.optimizer.lr or train.clip_grad_norm"
            )
            return
        held_out = training.data.validation
        validation = self._evaluated(held_out) if held_out else None
        progress.epoch += 1
        progress.rows.append(
            {
                "epoch": progress.epoch,
                "step": trained.step,
                "lr": trained.rate,
                "train_loss": trained.loss,
                "train_accuracy": trained.accuracy,
                "validation_loss": validation and validation.loss,
                "validation_accuracy": validation and validation.accuracy,
                "test_loss": test.loss,
                "test_accuracy": test.accuracy,
            }
        )
        self._keep_best()

    def _evaluated(self, examples: Examples) -> Evaluation:
        recipe = self.training.recipe
        return evaluate(self.training.model, examples, recipe.loss, recipe.precision)

    def _keep_best(self) -> None:
        training, progress = self.training, self.progress
        if training.recipe.keep == "last":
            return
        by = "test_accuracy" if training.recipe.keep == "best_test" else "validation_accuracy"
        *earlier, latest = [row[by] or 0.0 for row in progress.rows]
        if not earlier or latest > max(earlier):
            state = training.model.state_dict()
            progress.best = {name: tensor.clone() for name, tensor in state.items()}


@dataclass(frozen=True)
class _Trained:
    """What one network made of the training examples of an epoch, up to `step`."""

    step: int
    rate: float
    loss: float
    accuracy: float


class _Group:
    """Runs at the same epoch, trained as one computation."""

    def __init__(self, runs: Sequence[_Run]) -> None:
        self.runs = list(runs)
        self._trainings = [run.training for run in runs]
        of = self._first
        self._aside = 0.0
        """Seconds of the epoch in which snapshots were written, which is no training."""
        self._randomness = [training.randomness for training in self._trainings]
        self._batches = batches_of(of.data, of.recipe, self._randomness, of.inputs)
        self._steps = Steps(
            _networks(self._trainings),
            of.recipe,
            [training.masks for training in self._trainings],
            [run.progress.optimizer for run in runs],
            self._batches.made,
            of.execution.compile,
        )
        self._take = self._steps.take
        if of.execution.graphs:
            self._take = graphed(self._steps, of.recipe, of.data.train.labels.device)
        for run in runs:
            run.progress.fused = max(run.progress.fused, len(runs))

    @property
    def _first(self) -> Training:
        return self._trainings[0]

    @property
    def _epoch(self) -> int:
        return self.runs[0].progress.epoch

    def leave(self) -> None:
        """Give each run what the optimizer remembers of it."""
        for run, state in zip(self.runs, self._steps.states(), strict=True):
            run.progress.optimizer = state

    def epoch(self) -> None:
        """Train what is left of the epoch, measure it, and let the runs' checkpoints have it."""
        started, self._aside = time.perf_counter(), 0.0
        first = max(self._first.start_step - self._epoch * self._first.steps_per_epoch, 0)
        trained = self.train(range(first, self._first.steps_per_epoch))
        for run, of_run in zip(self.runs, trained, strict=True):
            run.measure(of_run)
        seconds = (time.perf_counter() - started - self._aside) / len(self.runs)
        for run in self.runs:
            run.progress.seconds += seconds
        if any(training.checkpoint for training in self._trainings):
            self._save()

    def _save(self) -> None:
        self.leave()
        for run in self.runs:
            if run.training.checkpoint and run.diverged is None:
                run.training.checkpoint.save(run.training.model, run.progress)

    def train(self, steps: range) -> list[_Trained]:
        """Take `steps` of the epoch."""
        epoch, recipe = self._epoch, self._first.recipe
        rate = recipe.rate(epoch)
        self._steps.at_rate(rate)
        snapshots = [each.snapshot for each in self._trainings if each.snapshot]
        totals: Totals | None = None
        with float32_products(recipe.precision):
            for step, drawn in self._drawn(epoch, steps):
                if snapshots:
                    began = time.perf_counter()
                    for snapshot in snapshots:
                        snapshot(step)
                    self._aside += time.perf_counter() - began
                losses, correct = self._take(*drawn)
                totals = totals or Totals.like(losses)
                totals.add(losses, correct, len(drawn[0]))
        assert totals is not None, "an epoch has a step"
        at, seen = epoch * self._first.steps_per_epoch + steps.stop, totals.seen
        return [
            _Trained(at, rate, loss / seen, correct / seen)
            for loss, correct in zip(*totals.of_each(), strict=True)
        ]

    def _drawn(self, epoch: int, steps: range) -> Iterator[tuple[int, Drawn]]:
        """What is drawn for each step, with its number in the whole run."""
        # Layers that draw, such as dropout, do so from the global generators; where there are
        # several networks none does, but a plugged-in loss may.
        self._randomness[0].seed_global(epoch)
        first = epoch * self._first.steps_per_epoch
        drawn = self._batches.drawn(epoch, steps)
        return zip((first + step for step in steps), drawn, strict=True)


def _networks(trainings: Sequence[Training]) -> Networks:
    if len(trainings) == 1:
        return One(trainings[0].model)
    first, *others = trainings
    assert all(other.kind == first.kind for other in others)
    form = form_of(cast(Any, first.architecture), first.data.shape, first.data.classes)
    return Stack([training.model for training in trainings], form)
