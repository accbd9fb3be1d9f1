"""Timing: how long training takes, by its steps."""

from dataclasses import dataclass

from trainables.training.batches import steps_per_epoch


@dataclass(frozen=True)
class Timing:
    """What training takes of each of several networks that are trained as one computation.

    `step_seconds` is of one step, `evaluation_seconds` of one example. `peak_memory_bytes` is of
    all of them together: what the device's allocator has reserved, or the process's resident peak.
    """

    step_seconds: float
    evaluation_seconds: float
    peak_memory_bytes: int

    def epoch_seconds(
        self, examples: int, evaluated: int, batch_size: int, accumulate: int = 1
    ) -> float:
        """Of an epoch of `examples`, after which `evaluated` others are evaluated."""
        steps = steps_per_epoch(examples, batch_size, accumulate)
        return steps * self.step_seconds + evaluated * self.evaluation_seconds
