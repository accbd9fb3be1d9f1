"""The figures of the papers, each one function of a sweep's results."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import altair as alt

from orchestrator.results.figures import (
    ablations,
    connectivity,
    effective,
    heat_maps,
    initialization,
    intrinsic_dimension,
    iterations,
    representations,
    scopes,
    scores,
    trade_off,
    training,
)
from orchestrator.results.opening import Results

Draw = Callable[[Results], alt.TopLevelMixin | None]


@dataclass(frozen=True)
class Figure:
    """One figure. `draw` gives its chart, or None when the sweep lacks what it `needs`.

    Every row of a chart's data has `label`, `seed` and `lineage`, and the chart itself averages
    over seeds: with rows left out, it is the figure of those that remain. Charts that need the same
    rows have the same data set. Reports and dashboards have those that are `on_page`: the others
    take long to draw.
    """

    name: str
    title: str
    caption: str
    source: str
    needs: str
    draw: Draw
    on_page: bool = True


BANDS = "Means over seeds; bands are ± one sample standard deviation."

_FIGURES = (
    Figure(
        "retrained",
        "Retrained models",
        "Accuracy, remaining weights, PQ Index (p = 0.5, q = 1) and Gini Index of the retrained "
        f"models at each iteration. {BANDS}",
        "SAP Figures 2a, 3a, 11a–18a",
        "a lineage of two iterations or more",
        iterations.retrained,
    ),
    Figure(
        "pruned",
        "Pruned models",
        "Accuracy and PQ Index (p = 0.5, q = 1) of the models pruned at each iteration, before "
        f"retraining, and what that pruning took of the model that was pruned. {BANDS}",
        "SAP Figures 2b, 3b, 11b–18b",
        "a lineage of two iterations or more",
        iterations.pruned,
    ),
    Figure(
        "trade-off",
        "Accuracy against density",
        "Accuracy of the retrained models against their remaining weights; a curve goes through a "
        "method's iterations, or through what it ends with at the densities that it aims at. "
        f"{BANDS}",
        "SAP Figure 4a, sketching paper Tables 1–4",
        "an iteration with weights pruned",
        trade_off.trade_off,
    ),
    Figure(
        "scope-trade-off",
        "Pruning scopes: accuracy against density",
        "Accuracy of the retrained models against their remaining weights, for each pruning scope. "
        f"{BANDS}",
        "SAP Figures 4a, 19a–26a",
        "two scopes or more, with lineages of two iterations or more",
        scopes.scope_trade_off,
    ),
    Figure(
        "layer-remaining",
        "Remaining weights by layer",
        "Remaining weights of the layers at each iteration, by method and pruning scope; of a deep "
        f"network, six layers from the first to the last. {BANDS}",
        "SAP Figures 4b, 19b–26b",
        "a lineage of two iterations or more",
        scopes.layer_remaining,
    ),
    Figure(
        "layer-pq-index",
        "PQ Index by layer",
        "PQ Index (p = 0.5, q = 1) of the layers of the retrained models at each iteration, by "
        "method and pruning scope; of a deep network, six layers from the first to the last. "
        f"{BANDS}",
        "SAP Figures 4c, 19c–26c",
        "a lineage of two iterations or more",
        scopes.layer_pq_index,
    ),
    Figure(
        "ablation-p-q",
        "SAP: effect of p and q",
        "SAP with different p at the same q, and with different q at the same p: accuracy, "
        "remaining weights, PQ Index (p = 0.5, q = 1) and Gini Index of the retrained models. "
        f"{BANDS}",
        "SAP Figures 5, 27–29",
        "SAP methods that differ in p alone, or in q alone",
        iterations.ablation_p_q,
    ),
    Figure(
        "ablation-eta-gamma",
        "SAP: effect of η and γ",
        "SAP with different η at the same γ, and with different γ at the same η: accuracy, "
        "remaining weights, PQ Index (p = 0.5, q = 1) and Gini Index of the retrained models. "
        f"{BANDS}",
        "SAP Figures 6, 30–32",
        "SAP methods that differ in eta alone, or in gamma alone",
        iterations.ablation_eta_gamma,
    ),
    Figure(
        "pq-heat-maps",
        "PQ Index for all p and q",
        "PQ Index of all weights of the retrained models for p = 0.1…1.0 and q = 1.0…2.0, by "
        "method and iteration. Means over seeds.",
        "SAP Figures 7–10",
        "a lineage of two iterations or more",
        heat_maps.p_q_heat_maps,
    ),
    Figure(
        "pq-heat-maps-pruned",
        "PQ Index for all p and q, pruned models",
        "PQ Index of all weights of the pruned models, before they are retrained, for p = 0.1…1.0 "
        "and q = 1.0…2.0, by method and iteration. Means over seeds.",
        "SAP Figures 7–10, by their text",
        "a lineage of two iterations or more",
        heat_maps.p_q_heat_maps_pruned,
    ),
    Figure(
        "kept-weights",
        "Initial weights kept",
        "Histograms of the initial weights that the masks of the last iterations keep, at each "
        "density aimed at. Grey: all prunable weights, which is what uniformly random masks keep "
        f"on average. {BANDS}",
        "Sketching paper Figure 1a",
        "an iteration with weights pruned, and the snapshots of the initial weights",
        initialization.kept_weights,
    ),
    Figure(
        "kept-norms",
        "Norms of the initial weights kept",
        "Norm of the initial weights that masks keep of a layer, against the layer's remaining "
        "weights. Grey: uniformly random masks, root mean square ± two standard deviations. "
        f"{BANDS}",
        "Sketching paper Figure 2a",
        "an iteration with weights pruned, and the snapshots of the initial weights",
        initialization.kept_norms,
    ),
    Figure(
        "random-norms",
        "Norms of winning tickets and of random masks",
        "Norm of the initial weights that the masks of the last iterations keep of a layer "
        "(upright lines, means over seeds), beside the norms under 10,000 uniformly random masks "
        "that keep as many weights. Of a deep network, six layers from the first to the last. "
        f"{BANDS}",
        "Sketching paper Figure 2b",
        "a lineage of two iterations or more with weights pruned, and the snapshots of the initial "
        "weights",
        initialization.random_norms,
        on_page=False,
    ),
    Figure(
        "scores",
        "Scores at initialization",
        "Histograms of the scores of weights drawn uniformly at random over the network, before "
        "it was pruned: of all of them, of those that a mask of the highest scores keeps, and of "
        f"those that a randomized mask keeps, as shares of all. {BANDS}",
        "Sketching paper Figure 1b",
        "pruning at initialization with scores that were kept (store.keep_scores)",
        scores.scores,
    ),
    Figure(
        "effective",
        "Effective weights",
        "Weights on a path of kept ones from an input to an output, against all that are kept; on "
        f"the dashed line all of them are. {BANDS}",
        "",
        "an iteration of which fewer weights are effective than kept",
        effective.effective,
    ),
    Figure(
        "ablations",
        "Ablations",
        "Accuracy of each method as it is, through which the dashed line goes, and with each "
        "ablation, at the iterations that they branch off. Means over seeds ± one sample standard "
        "deviation.",
        "",
        "a sweep with ablations",
        ablations.ablations,
    ),
    Figure(
        "connectivity",
        "Linear mode connectivity",
        "Test error along the straight lines between copies of an iteration that are trained from "
        f"step k on in different orders, for some iterations of each method. {BANDS}",
        "Frankle et al. (2020)",
        "a sweep that measures lmc",
        connectivity.connectivity,
    ),
    Figure(
        "instability",
        "Instability to the noise of SGD",
        "Largest test error along the lines between copies, above the mean of their ends, against "
        f"the step k that they are trained from. {BANDS}",
        "Frankle et al. (2020)",
        "a sweep that measures lmc",
        connectivity.instability,
    ),
    Figure(
        "barriers",
        "Barriers along the iterations",
        "Largest test error, above the mean of the ends, along the lines between copies that are "
        "trained from step k on, and between an iteration and the one before it, against the "
        f"iteration. {BANDS}",
        "Frankle et al. (2020)",
        "lmc or lmc_consecutive of two iterations or more",
        connectivity.barriers,
    ),
    Figure(
        "layer-barriers",
        "Barriers by layer",
        "Largest test error, above the mean of the ends, where one layer alone goes from one copy "
        "to the other. Means over seeds.",
        "",
        "a sweep that measures lmc with layerwise",
        connectivity.layer_barriers,
    ),
    Figure(
        "method-barriers",
        "Barriers between methods",
        "Largest test error along the line between the tickets of two methods, above the mean of "
        f"its ends, against their remaining weights. {BANDS}",
        "",
        "a sweep that measures lmc_methods",
        connectivity.method_barriers,
    ),
    Figure(
        "representations",
        "Convergent representations",
        "Correlation of the units of two seeds' tickets, each unit paired with one other at most, "
        "by layer; means over the units, and over the pairs of seeds that a seed is the second of. "
        f"{BANDS}",
        "Li et al. (2016)",
        "a sweep that measures representations",
        representations.representations,
    ),
    Figure(
        "intrinsic-dimension",
        "Intrinsic dimension",
        "Test accuracy of tickets that are trained in a random subspace of their free weights, "
        f"against its dimension, for some iterations. {BANDS}",
        "Li et al. (2018), Figure 2",
        "a sweep that measures intrinsic_dimension",
        intrinsic_dimension.intrinsic_dimension,
    ),
    Figure(
        "training",
        "Training",
        "Losses and accuracies by epoch of some iterations; of long trainings, some of the epochs. "
        f"{BANDS}",
        "",
        "a committed iteration",
        training.training,
    ),
)

FIGURES: Mapping[str, Figure] = {figure.name: figure for figure in _FIGURES}
"""By name, in order of display."""
