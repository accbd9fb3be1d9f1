"""The initial weights that methods keep: the sketching paper's Figures 1a, 2a and 2b."""

import altair as alt

from orchestrator.results.figures.curves import Measure, block, blocks, density, mean_curves
from orchestrator.results.figures.kept import histogram_rows, norm_rows, random_norm_rows
from orchestrator.results.figures.methods import method_look
from orchestrator.results.figures.rows import Row, distinct
from orchestrator.results.figures.style import Look, heading
from orchestrator.results.opening import Results

WEIGHT = Measure("weight", "Initial weight")
SHARE = Measure("share", "Share of kept weights", "%", fraction=True)
NORM = Measure("init_norm_kept", "Norm of kept weights")
RANDOM_NORM = Measure("norm", "Norm of kept weights")
MASKS_SHARE = Measure("share", "Share of random masks", "%", fraction=True)


def kept_weights(results: Results) -> alt.TopLevelMixin | None:
    """Histograms of the initial weights that masks keep, a panel for each density aimed at."""
    rows = histogram_rows(results)
    if not rows:
        return None
    look = method_look(results, "curve", rows, dense=True)
    networks = distinct(rows, "network")
    charts = [_histograms(rows, look, network, network == networks[0]) for network in networks]
    return blocks(rows, charts)


def kept_norms(results: Results) -> alt.TopLevelMixin | None:
    """Norms of the initial weights that masks keep, a panel for each layer."""
    rows = norm_rows(results)
    if not rows:
        return None
    look = method_look(results, "curve", rows)
    settings = distinct(rows, "setting")
    charts = [_norms(rows, look, setting, setting == settings[0]) for setting in settings]
    return blocks(rows, charts)


def random_norms(results: Results) -> alt.TopLevelMixin | None:
    """Norms that random masks keep of each layer, and that of the lineage's own mask."""
    rows = random_norm_rows(results)
    if not rows:
        return None
    charts = [
        _random_norms([row for row in rows if row["setting"] == setting], f"chosen{i}")
        for i, setting in enumerate(distinct(rows, "setting"))
    ]
    return blocks(rows, charts, shared=False)


def _random_norms(shown: list[Row], key: str) -> alt.ConcatChart:
    """The rows `shown` of one setting: a panel for each variant, with all layers."""
    look = Look("layer", tuple(distinct(shown, "layer")), "layer", True, True, key)
    own = (
        alt.Chart()
        .transform_aggregate(own="mean(init_norm_kept)", groupby=["layer"])
        .mark_rule(size=2)
        .encode(
            alt.X("own:Q"),
            look.colour(),
            look.dash(),
            opacity=alt.condition(look.chosen(), alt.value(1.0), alt.value(0.1)),
            tooltip=[alt.Tooltip("layer:N"), alt.Tooltip("own:Q", title="norm", format=".4f")],
        )
    )
    panels = []
    for variant in distinct(shown, "variant"):
        curves = mean_curves(RANDOM_NORM, MASKS_SHARE, look, ("label", "norm"))
        if not panels:
            curves = curves.add_params(look.chosen())
        layers = alt.LayerChart(layer=[curves, own])
        panels.append(block([layers], variant, alt.datum.variant == variant))
    setting = shown[0]["setting"]
    return block(panels, heading(setting), alt.datum.setting == setting, columns=2)


def _histograms(rows: list[Row], look: Look, network: str, listening: bool) -> alt.ConcatChart:
    shown = [row for row in rows if row["network"] == network]
    panels = []
    for group in sorted(distinct(shown, "group"), reverse=True):
        curves = mean_curves(WEIGHT, SHARE, look, ("label", "weight"))
        if listening and not panels:
            curves = curves.add_params(look.chosen())
        uniform = (
            alt.Chart()
            .transform_aggregate(uniform="mean(uniform_share)", groupby=["weight"])
            .mark_area(color="grey", opacity=0.3)
            .encode(alt.X("weight:Q", title=WEIGHT.title), alt.Y("uniform:Q", title=SHARE.title))
        )
        layers = alt.LayerChart(layer=[uniform, curves])
        panels.append(block([layers], group, alt.datum.group == group))
    return block(panels, heading(network), alt.datum.network == network, columns=2)


def _norms(rows: list[Row], look: Look, setting: str, listening: bool) -> alt.ConcatChart:
    shown = [row for row in rows if row["setting"] == setting]
    panels = []
    for layer in distinct(shown, "layer"):
        within = density([row for row in shown if row["layer"] == layer])
        curves = mean_curves(within, NORM, look)
        if listening and not panels:
            curves = curves.add_params(look.chosen())
        layers = alt.LayerChart(layer=[*_uniform_norms(within), curves])
        panels.append(block([layers], layer, alt.datum.layer == layer))
    return block(panels, heading(setting), alt.datum.setting == setting, columns=2)


def _uniform_norms(within: Measure) -> list[alt.Chart]:
    base = (
        alt.Chart()
        .transform_aggregate(
            x="mean(density)",
            norm="mean(uniform_norm)",
            low="mean(uniform_low)",
            high="mean(uniform_high)",
            groupby=["label", "iteration"],
        )
        .encode(alt.X("x:Q", scale=within.scale(), axis=within.axis()))
    )
    band = base.mark_area(color="grey", opacity=0.3).encode(
        alt.Y("low:Q", title=NORM.title), alt.Y2(field="high")
    )
    line = base.mark_line(color="grey", strokeDash=[4, 4]).encode(alt.Y("norm:Q", title=NORM.title))
    return [band, line]
