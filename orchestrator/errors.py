"""The errors that are about what the user gave: one message, exit code 2."""

from orchestrator.exporting import ExportError
from orchestrator.planning import PlanError
from orchestrator.published import PublishedError
from orchestrator.records import NoSuchSweep
from orchestrator.results.opening import QueryError
from orchestrator.scheduling import ClusterError
from orchestrator.tracking import TrackingError
from orchestrator.yaml_source import SweepFileError
from trainables.data import DatasetNotFound
from trainables.store import Damaged, StoreError

INPUT_ERRORS = (
    SweepFileError,
    PlanError,
    ClusterError,
    TrackingError,
    DatasetNotFound,
    StoreError,
    NoSuchSweep,
    ExportError,
    QueryError,
    PublishedError,
    Damaged,
)
