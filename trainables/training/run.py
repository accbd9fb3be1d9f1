"""One training run, and evaluation, on data that stays on the device."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypedDict

import torch
from torch import Tensor, nn

from trainables.errors import Hopeless
from trainables.measures.masks import Masks, apply_masks
from trainables.training.batches import (
    DeviceData,
    Examples,
    Inputs,
    Randomness,
    batches,
    steps_per_epoch,
)
from trainables.training.losses import CROSS_ENTROPY, Loss
from trainables.training.recipe import Recipe

EVALUATION_BATCH = 1000

State = dict[str, Tensor]


class EpochRow(TypedDict):
    """The measures of one epoch, as the table `epochs` has them; accuracies are 0…1."""

    epoch: int
    step: int
    lr: float
    train_loss: float
    train_accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    test_loss: float
    test_accuracy: float


class Diverged(Hopeless):
    """The training or the test loss is no longer a finite number."""


@dataclass
class Progress:
    """How far a run has come: what an epoch checkpoint holds besides the optimizer's state."""

    epoch: int = 0
    rows: list[EpochRow] = field(default_factory=list)
    seconds: float = 0.0
    best: State | None = None


class Checkpoint(Protocol):
    """Where a run keeps its state between epochs."""

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress | None: ...

    def save(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress
    ) -> None: ...


@dataclass(frozen=True)
class Evaluation:
    loss: float
    accuracy: float


@torch.inference_mode()
def evaluate(model: nn.Module, examples: Examples, loss: Loss = CROSS_ENTROPY) -> Evaluation:
    """Mean loss and accuracy (0…1) over all examples, in eval mode."""
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=examples.labels.device)
    correct = torch.zeros((), dtype=torch.int64, device=examples.labels.device)
    for start in range(0, len(examples), EVALUATION_BATCH):
        chosen = slice(start, start + EVALUATION_BATCH)
        labels = examples.labels[chosen]
        logits = model(examples.normalized(examples.images[chosen]))
        total += loss.total(logits, labels)
        correct += (logits.argmax(dim=1) == labels).sum()
    return Evaluation(total.item() / len(examples), correct.item() / len(examples))


@dataclass(frozen=True)
class Training:
    """A training run of `model`, in place, on the streams of `randomness`.

    `masks` are the kept weights (None: all), on the model's device; pruned weights are zero at the
    start and stay exactly zero. A run from `start_step` k > 0 takes the steps k…end, with their
    learning rates and their places in the data order, and a fresh optimizer.
    """

    model: nn.Module
    masks: Masks | None
    data: DeviceData
    recipe: Recipe
    randomness: Randomness
    inputs: Inputs = "real"
    start_step: int = 0

    def finish(
        self,
        snapshot: Callable[[int], None] | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> Progress:
        """Train to the recipe's end. `snapshot(step)` is called before every step and once after
        the last.

        Raises Diverged when the loss of an epoch, in training or on the test set, is not finite.
        """
        optimizer, recipe = self.recipe.optimizer.of(self.model), self.recipe
        resumed = checkpoint.load(self.model, optimizer) if checkpoint else None
        progress = resumed or Progress(epoch=self.start_step // self.steps_per_epoch)
        masked = self._masked()
        resumed_seconds, started = progress.seconds, time.perf_counter()
        while progress.epoch < recipe.epochs:
            epoch = progress.epoch
            totals = self._steps(optimizer, masked, epoch, self._range(epoch), snapshot)
            progress.rows.append(self._row(epoch, totals))
            progress.epoch += 1
            self._keep_best(progress)
            progress.seconds = resumed_seconds + time.perf_counter() - started
            if checkpoint:
                checkpoint.save(self.model, optimizer, progress)
        if snapshot:
            snapshot(recipe.epochs * self.steps_per_epoch)
        if progress.best is not None:
            self.model.load_state_dict(progress.best)
        return progress

    def until(self, step: int) -> None:
        """Take the steps before `step`, counted over the whole run, and measure nothing."""
        optimizer, masked = self.recipe.optimizer.of(self.model), self._masked()
        for epoch in range(math.ceil(step / self.steps_per_epoch)):
            end = min(step - epoch * self.steps_per_epoch, self.steps_per_epoch)
            self._steps(optimizer, masked, epoch, range(end))

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(len(self.data.train), self.recipe.batch_size)

    def _range(self, epoch: int) -> range:
        """The steps of an epoch that are not before the start."""
        first = max(self.start_step - epoch * self.steps_per_epoch, 0)
        return range(first, self.steps_per_epoch)

    def _masked(self) -> list[tuple[nn.Parameter, Tensor]]:
        """Each masked parameter with its mask as 0 and 1. A zero weight with a zero gradient has
        zero momentum and zero weight decay, so masking the gradient keeps it at exactly zero."""
        if self.masks is None:
            return []
        apply_masks(self.model, self.masks)
        weights = {name: self.model.get_parameter(name) for name in self.masks}
        return [
            (weights[name], mask.to(weights[name]))
            for name, mask in self.masks.items()
            if not bool(mask.all())
        ]

    def _steps(
        self,
        optimizer: torch.optim.Optimizer,
        masked: list[tuple[nn.Parameter, Tensor]],
        epoch: int,
        steps: range,
        snapshot: Callable[[int], None] | None = None,
    ) -> "_Totals":
        """Take `steps` of an epoch."""
        recipe = self.recipe
        self.randomness.seed_global(epoch)
        totals = _Totals.on(self.data.train.labels.device)
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(epoch)
        parameters = list(self.model.parameters())
        self.model.train()
        for step, (images, labels) in self._numbered_batches(epoch, steps):
            if snapshot:
                snapshot(step)
            optimizer.zero_grad(set_to_none=True)
            logits = self.model(images)
            loss = recipe.loss.mean(logits, labels)
            loss.backward()
            if recipe.clip_before_mask:
                self._clip(parameters)
            for parameter, mask in masked:
                if parameter.grad is not None:
                    parameter.grad.mul_(mask)
            if not recipe.clip_before_mask:
                self._clip(parameters)
            optimizer.step()
            if masked and not recipe.optimizer.keeps_zeros:
                apply_masks(self.model, self.masks or {})
            totals.add(loss, logits, labels, step + 1)
        return totals

    def _clip(self, parameters: list[nn.Parameter]) -> None:
        if self.recipe.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.recipe.clip_grad_norm)

    def _numbered_batches(
        self, epoch: int, steps: range
    ) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
        drawn = batches(self.data, self.recipe, self.randomness, epoch, steps, self.inputs)
        return zip((epoch * self.steps_per_epoch + step for step in steps), drawn, strict=True)

    def _row(self, epoch: int, totals: "_Totals") -> EpochRow:
        recipe, rate = self.recipe, self.recipe.rate(epoch)
        train_loss = totals.loss.item() / totals.seen
        test = evaluate(self.model, self.data.test, recipe.loss)
        if not (math.isfinite(train_loss) and math.isfinite(test.loss)):
            raise Diverged(
                f"the training loss is {train_loss:g} and the test loss {test.loss:g} in epoch "
                f"{epoch + 1} of {recipe.epochs} (learning rate {rate:g}); try a smaller "
                "train.optimizer.lr or train.clip_grad_norm"
            )
        held_out = self.data.validation
        validation = evaluate(self.model, held_out, recipe.loss) if held_out else None
        return {
            "epoch": epoch + 1,
            "step": totals.steps,
            "lr": rate,
            "train_loss": train_loss,
            "train_accuracy": totals.correct.item() / totals.seen,
            "validation_loss": validation and validation.loss,
            "validation_accuracy": validation and validation.accuracy,
            "test_loss": test.loss,
            "test_accuracy": test.accuracy,
        }

    def _keep_best(self, progress: Progress) -> None:
        if self.recipe.keep == "last":
            return
        by = "test_accuracy" if self.recipe.keep == "best_test" else "validation_accuracy"
        *earlier, latest = [row[by] or 0.0 for row in progress.rows]
        if not earlier or latest > max(earlier):
            progress.best = {name: t.clone() for name, t in self.model.state_dict().items()}


@dataclass
class _Totals:
    """Sums over the steps of an epoch, on the device: no step waits for them."""

    loss: Tensor
    correct: Tensor
    seen: int = 0
    steps: int = 0

    @classmethod
    def on(cls, device: torch.device) -> "_Totals":
        return cls(
            torch.zeros((), dtype=torch.float64, device=device),
            torch.zeros((), dtype=torch.int64, device=device),
        )

    @torch.no_grad()
    def add(self, loss: Tensor, logits: Tensor, labels: Tensor, steps: int) -> None:
        self.loss += loss * len(labels)
        self.correct += (logits.argmax(dim=1) == labels).sum()
        self.seen += len(labels)
        self.steps = steps
