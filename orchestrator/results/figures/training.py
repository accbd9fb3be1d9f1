"""Training by epoch: losses and accuracies of chosen iterations."""

import altair as alt

from orchestrator.results.figures.curves import (
    Measure,
    block,
    blocks,
    by_iteration,
    mean_curves,
    side_by_side,
)
from orchestrator.results.figures.methods import method_look
from orchestrator.results.figures.rows import distinct, epoch_rows, spread
from orchestrator.results.figures.style import Look, heading
from orchestrator.results.opening import Results

ITERATIONS = 4
"""As many are drawn, evenly spread from the first to the last."""
EPOCHS = 50
"""Of a longer training, as many are drawn, evenly spread from the first to the last."""

EPOCH = Measure("epoch", "Epoch", "d")
MEASURES = (
    Measure("train_loss", "Training loss"),
    Measure("test_loss", "Test loss"),
    Measure("train_accuracy", "Training accuracy", "%", fraction=True),
    Measure("test_accuracy", "Test accuracy", "%", fraction=True),
)


def training(results: Results) -> alt.TopLevelMixin | None:
    """Losses and accuracies by epoch, a column for each of some iterations."""
    iterations = sorted(results.iterations["iteration"].unique().to_pylist())
    # Pruning at initialization has one iteration, the first.
    chosen = sorted({*spread(iterations, ITERATIONS), 1})
    rows = epoch_rows(results, chosen, EPOCHS)
    if not rows:
        return None
    look = method_look(results, "variant", rows)
    settings = distinct(rows, "setting")
    charts = [_block(look, setting, setting == settings[0]) for setting in settings]
    return blocks(rows, charts)


def _block(look: Look, setting: str, listening: bool) -> alt.ConcatChart:
    panels = [
        mean_curves(EPOCH, measure, look, ("label", "iteration", "epoch"), size=(80, 75))
        for measure in MEASURES
    ]
    if listening:
        panels[0] = panels[0].add_params(look.chosen())
    facets = [side_by_side(panel, by_iteration(panel is panels[0])) for panel in panels]
    return block(facets, heading(setting), alt.datum.setting == setting)
