"""An accuracy that is too low to go on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trainables.pruning.stopping import Rows, StopRule, stop_rule


@stop_rule
class AccuracyBelow(StopRule):
    """The accuracy of the retrained network is below a value."""

    name: Literal["accuracy_below"]
    value: Annotated[float, Field(gt=0, le=1)]
    of: Literal["test", "validation"] = "test"

    @property
    def measure(self) -> str:
        return f"{self.of}_accuracy"

    def __call__(self, rows: Rows) -> str | None:
        accuracy = rows[-1][self.measure]
        if accuracy is None or accuracy >= self.value:
            return None
        return f"the {self.of} accuracy {accuracy:.6g} is below {self.value:g}"
