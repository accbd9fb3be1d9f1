"""Training runs, one or several at once, on data that stays on the device."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from trainables.errors import Diverged, Interrupted
from trainables.models import Model
from trainables.sparsity.masks import Masks, density
from trainables.store import Damaged, StoreError
from trainables.training.averaging import end_with
from trainables.training.batches import (
    DeviceData,
    Drawn,
    Inputs,
    Randomness,
    batches_of,
    steps_per_epoch,
)
from trainables.training.evaluation import Evaluation, Evaluations
from trainables.training.execution import PLAIN, Execution
from trainables.training.graphs import Graphed
from trainables.training.losses import may_draw
from trainables.training.mask_schedule import MaskSchedule
from trainables.training.precision import arithmetic
from trainables.training.progress import Begun, Checkpoint, Progress
from trainables.training.randomness import global_states, set_global_states
from trainables.training.recipe import Recipe
from trainables.training.side_by_side import has_convolutions
from trainables.training.stepping import stepping
from trainables.training.steps import Steps, Totals


def never() -> bool:
    """Nobody tells this process to go."""
    return False


@dataclass(frozen=True)
class Training:
    """A training run of `model`, in place, on the streams of `randomness`.

    `masks` are the kept weights (None: all), on the model's device; pruned weights are zero at the
    start and stay exactly zero. A run from `start_step` k > 0 takes the steps k…end, with their
    learning rates and their places in the data order, and a fresh optimizer. `snapshot(step)` is
    called before every step and once after the last. `architecture` is what the model was made
    from; a run without is trained alone. Its numbers do not depend on `execution` but for rounding.
    `is_told` is asked between steps: whether to go, which saves the state and raises Interrupted.
    With a `mask_schedule` the masks change on the way; those at its end are the progress's.
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
    is_told: Callable[[], bool] = never
    mask_schedule: MaskSchedule | None = None

    @property
    def kind(self) -> Any:
        """What runs have in common that can be one computation."""
        if self.architecture is None or not self.recipe.optimizer.elementwise:
            return id(self)
        if self.mask_schedule is not None:  # an update may take the place of its step alone
            return id(self)
        if may_draw(self.recipe.loss, self.data.classes):
            return id(self)
        return self.architecture, id(self.data), self.recipe, self.inputs, self.start_step

    @property
    def steps_per_epoch(self) -> int:
        recipe = self.recipe
        return steps_per_epoch(len(self.data.train), recipe.batch_size, recipe.accumulate)

    @property
    def steps(self) -> int:
        """Of the whole training."""
        return self.recipe.epochs * self.steps_per_epoch

    def finish(self) -> Progress:
        """Train to the recipe's end.

        Raises Diverged when the loss of an epoch, in training or on the test set, is not finite,
        and Interrupted.
        """
        (ended,) = train([self])
        if isinstance(ended, Exception):
            raise ended
        return ended

    def until(self, step: int) -> None:
        """Take the steps before `step`, counted over the whole run, and measure nothing.

        Raises Interrupted, without a state that is kept.
        """
        run = _Run(self, Progress())
        group = _Group([run])
        for epoch in range(math.ceil(step / self.steps_per_epoch)):
            group.train(range(min(step - epoch * self.steps_per_epoch, self.steps_per_epoch)))
            run.progress.epoch += 1


def train(trainings: Sequence[Training]) -> list[Progress | Exception]:
    """Train runs of one `kind` to their end, as one computation; what became of each.

    One that diverges, or whose snapshot or checkpoint cannot be stored, leaves the others as they
    are. Raises Unfusible when there are several whose architecture cannot be one computation, and
    Interrupted.
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
    going = [run for run in runs if run.is_going]
    first = min((run.progress.place for run in going), default=None)
    return [run for run in going if run.progress.place == first]


@dataclass(eq=False)
class _Run:
    """A training on its way."""

    training: Training
    progress: Progress
    failed: Exception | None = None

    @classmethod
    def begun(cls, training: Training) -> "_Run":
        run = cls(training, Progress(epoch=training.start_step // training.steps_per_epoch))
        if training.checkpoint:
            with run.storing():
                run.progress = training.checkpoint.load(training.model) or run.progress
        return run

    @contextmanager
    def storing(self) -> Iterator[None]:
        """For what is stored of this run alone: what that raises is no matter of the others."""
        try:
            yield
        except (OSError, StoreError, Damaged) as error:
            self.failed = error

    @property
    def masks(self) -> Masks | None:
        """The kept weights of now."""
        return self.progress.masks or self.training.masks

    @property
    def is_going(self) -> bool:
        return self.failed is None and self.progress.epoch < self.training.recipe.epochs

    def snapshot(self, step: int) -> None:
        if self.training.snapshot and self.failed is None:
            with self.storing():
                self.training.snapshot(step)

    def ended(self) -> Progress | Exception:
        training = self.training
        self.snapshot(training.steps)
        if self.failed is not None:
            return self.failed
        if self.progress.best is not None:
            training.model.load_state_dict(self.progress.best)
        elif self.progress.average:
            end_with(training.model, self.progress.average)
        return self.progress

    def measure(self, trained: "_Trained", test: Evaluation, validation: Evaluation | None) -> None:
        """Add the row of an epoch, and keep its weights if they are the best."""
        training, progress = self.training, self.progress
        if not (math.isfinite(trained.loss) and math.isfinite(test.loss)):
            self.failed = Diverged(
                f"the training loss is {trained.loss:g} and the test loss {test.loss:g} in epoch "
                f"{progress.epoch + 1} of {training.recipe.epochs} (learning rate "
                f"{trained.rate:g}); try a smaller train.optimizer.lr or train.clip_grad_norm"
            )
            return
        progress.epoch, progress.begun = progress.epoch + 1, None
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
        if training.mask_schedule is not None and self.masks is not None:
            progress.rows[-1]["density"] = density(self.masks)
        self._keep_best()

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
    """Runs at the same place, trained as one computation."""

    def __init__(self, runs: Sequence[_Run]) -> None:
        self.runs = list(runs)
        self._trainings = [run.training for run in runs]
        self._checkpoints = [each.checkpoint for each in self._trainings if each.checkpoint]
        self._since = time.perf_counter()
        of = self._first
        self._randomness = [training.randomness for training in self._trainings]
        self._batches = batches_of(of.data, of.recipe, self._randomness, of.inputs)
        assert all(training.kind == of.kind for training in self._trainings)
        self._steps, self._take = stepping(
            [training.model for training in self._trainings],
            [run.masks for run in runs],
            [run.progress.optimizer for run in runs],
            of.architecture,
            of.recipe,
            of.data,
            self._batches.made,
            of.execution if of.mask_schedule is None else of.execution.without_graphs(),
        )
        models = [training.model for training in self._trainings]
        # A graph keeps the memory that it needs, which only feature maps make large.
        captured = isinstance(self._take, Graphed) and not has_convolutions(of.model)
        self._evaluations = Evaluations(models, of.recipe.loss, of.recipe.precision, captured)
        for run, average in zip(runs, self._steps.averages(), strict=True):
            for name, tensor in run.progress.average.items():
                average[name].copy_(tensor)
            run.progress.average = average
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
        self._since = time.perf_counter()
        begun = self._begun[0].steps if self._begun else 0
        first = max(self._first.start_step - self._epoch * self._first.steps_per_epoch, begun)
        trained = self.train(range(first, self._first.steps_per_epoch))
        with self._steps.averaged():
            self._measure(trained)
        going = any(run.is_going for run in self.runs)
        self._keep(going and self._first.is_told())

    def _measure(self, trained: Sequence["_Trained"]) -> None:
        data = self._first.data
        tests = self._evaluations.of(data.test)
        held_out: Sequence[Evaluation | None] = [None] * len(self.runs)
        if data.validation:
            held_out = self._evaluations.of(data.validation)
        for run, of_run, test, validation in zip(self.runs, trained, tests, held_out, strict=True):
            if run.failed is None:
                run.measure(of_run, test, validation)

    @property
    def _begun(self) -> list[Begun]:
        return [run.progress.begun for run in self.runs if run.progress.begun]

    def train(self, steps: range) -> list[_Trained]:
        """Take `steps` of the epoch."""
        epoch, recipe = self._epoch, self._first.recipe
        rate: float | None = None
        stored = [run for run in self.runs if run.training.snapshot]
        totals: Totals | None = None
        with arithmetic(recipe.precision):
            for step, drawn in zip(steps, self._drawn(epoch, steps), strict=True):
                if stored:
                    began = time.perf_counter()
                    for run in stored:
                        run.snapshot(epoch * self._first.steps_per_epoch + step)
                    # To write them is no training.
                    self._since += time.perf_counter() - began
                before, rate = rate, recipe.rate(epoch, step, self._first.steps_per_epoch)
                if rate != before:
                    self._steps.at_rate(rate)
                losses, correct = self._taken(epoch * self._first.steps_per_epoch + step, drawn)
                totals = totals or Totals.like(losses, self._begun)
                totals.add(losses, correct, len(drawn[0]))
                told = self._first.is_told()
                if (told or self._is_due) and step + 1 < steps.stop:
                    self._note(step + 1, totals)
                    self._keep(told)
        assert totals is not None, "an epoch has a step"
        assert rate is not None
        if epoch + 1 < recipe.epochs:
            self._batches.prepare(epoch + 1)
        at, seen = epoch * self._first.steps_per_epoch + steps.stop, totals.seen
        return [
            _Trained(at, rate, loss / seen, correct / seen)
            for loss, correct in zip(*totals.of_each(), strict=True)
        ]

    def _taken(self, step: int, drawn: Drawn) -> tuple[Tensor, Tensor]:
        """What the batch of `step` gives; masks change before that, or in its place, when due."""
        schedule = self._first.mask_schedule
        if schedule is None or not schedule.is_due(step):
            return self._take(*drawn)
        (run,), steps = self.runs, self._steps
        assert isinstance(steps, Steps)
        found = steps.backward(*drawn) if schedule.by_gradient else None
        run.progress.masks = schedule.masks(step, run.masks or {})
        steps.change_masks([run.progress.masks])
        return found or self._take(*drawn)

    @property
    def _is_due(self) -> bool:
        return any(checkpoint.is_due for checkpoint in self._checkpoints)

    def _note(self, steps: int, totals: Totals) -> None:
        """Give each run what was taken of the epoch."""
        states = global_states()
        sums = zip(*totals.of_each(), strict=True)
        for run, (loss, correct) in zip(self.runs, sums, strict=True):
            run.progress.begun = Begun(steps, loss, correct, totals.seen, states)

    def _keep(self, told: bool) -> None:
        """Count the time, let the checkpoints have the state where they are to, those of all or of
        none, so that the runs stay at one place; and go when this process is `told`."""
        now = time.perf_counter()
        for run in self.runs:
            run.progress.seconds += (now - self._since) / len(self.runs)
        self._since = now
        if told or self._is_due:
            self.leave()
            for run in self.runs:
                if run.training.checkpoint and run.failed is None:
                    with run.storing():
                        run.training.checkpoint.save(run.training.model, run.progress)
        if told:
            raise Interrupted("this process was told to go")

    def _drawn(self, epoch: int, steps: range) -> Iterator[Drawn]:
        """What is drawn for each step."""
        # Layers that draw, such as dropout, do so from the global generators, and so may a loss;
        # where there are several networks none does.
        self._randomness[0].seed_global(epoch)
        for begun in self._begun[:1]:
            set_global_states(begun.states)
        return self._batches.drawn(epoch, steps)
