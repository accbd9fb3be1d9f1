"""A W&B report of a sweep: curves over iterations, density and epochs, by method."""

from typing import Any

from orchestrator.records.sweep import SweepRecord
from orchestrator.tracking.destination import destination, overridden, recorded_options
from orchestrator.tracking.service import TrackingError
from orchestrator.tracking.service import wandb as quiet_wandb

AGAINST_ITERATION = {
    "Test accuracy": "iteration/test_accuracy",
    "Test accuracy before retraining": "iteration/pruned_test_accuracy",
    "PQ index": "iteration/pq_index",
    "Remaining weights": "iteration/density",
}
AGAINST_DENSITY = {
    "Test accuracy against density": "iteration/test_accuracy",
    "PQ index against density": "iteration/pq_index",
}
AGAINST_EPOCH = {
    "Test accuracy over all epochs": "epoch/test_accuracy",
    "Training loss over all epochs": "epoch/train_loss",
}
PER_ROW, WIDTH, HEIGHT = 2, 12, 8


def build_wandb_report(record: SweepRecord) -> str:
    """Save a draft of the sweep's report in its W&B project; its URL.

    Raises TrackingError without a key, without wandb-workspaces, or when W&B cannot be used.
    """
    to = destination(overridden(recorded_options(record), mode="online"))
    assert to is not None
    quiet_wandb()
    try:
        entity = to.entity or _default_entity()
        return wandb_report(record, to.project, entity).save(draft=True).url
    except TrackingError:
        raise
    except Exception as error:  # wandb has no base class for what may go wrong
        raise TrackingError(f"the W&B report could not be saved: {error}") from error


def wandb_report(record: SweepRecord, project: str, entity: str) -> Any:
    """The report as an object; nothing is saved. Raises TrackingError without wandb-workspaces.

    Without an `entity` it can be looked at, but not be saved.
    """
    v2 = _reports()
    sweep = record.name
    runs = v2.Runset(
        entity=entity,
        project=project,
        name=sweep,
        filters=f"Metric('Group') = '{sweep}'",
        groupby=["config.label"],
    )
    plots = [
        *_plots("iteration", AGAINST_ITERATION),
        *_plots("iteration/density", AGAINST_DENSITY, log_x=True),
        *_plots("epoch", AGAINST_EPOCH),
    ]
    for number, plot in enumerate(plots):
        row, column = divmod(number, PER_ROW)
        plot.layout = v2.Layout(x=column * WIDTH, y=row * HEIGHT, w=WIDTH, h=HEIGHT)
    text = (
        f"{len(record.lineages)} lineages of the sweep {sweep}: means over seeds with their"
        " standard deviation, by method."
    )
    return v2.Report(
        project=project,
        entity=entity,
        title=sweep,
        description="Made by prunesweep.",
        blocks=[v2.P(text), v2.PanelGrid(runsets=[runs], panels=plots)],
        width="fluid",
    )


def _plots(x: str, titles: dict[str, str], **options: Any) -> list[Any]:
    v2 = _reports()
    return [
        v2.LinePlot(
            title=title,
            x=v2.Metric(x),
            y=[v2.Metric(metric)],
            title_x=x.split("/")[-1],
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
            **options,
        )
        for title, metric in titles.items()
    ]


def _default_entity() -> str:
    return quiet_wandb().Api().default_entity


def _reports() -> Any:
    try:
        from wandb_workspaces.reports import v2
    except ImportError as error:
        raise TrackingError(
            "W&B reports need wandb-workspaces: pip install 'prunesweep[wandb-report]'"
        ) from error
    return v2
