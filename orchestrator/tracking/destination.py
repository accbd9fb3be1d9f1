"""Tracking: where a sweep's lineages are shown in W&B, how, and where the store says so."""

import hashlib
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from platformdirs import user_data_path
from pydantic import ValidationError

from orchestrator.records.labels import labels
from orchestrator.records.sweep import SweepRecord
from orchestrator.sweepfile.spec import WandbOptions
from orchestrator.tracking.service import TrackingError, key_source, reason, wandb_host
from trainables.config import canonical_json
from trainables.store import Store


@dataclass(frozen=True)
class Destination:
    """Where a sweep's W&B runs go. `host` is None offline."""

    mode: Literal["offline", "online"]
    project: str
    entity: str | None
    host: str | None = None

    def __str__(self) -> str:
        place = "/".join(part for part in (self.host, self.entity, self.project) if part)
        return place if self.mode == "online" else f"offline, for {place}"

    def offline(self) -> "Destination":
        """The same project, in folders on this machine."""
        return Destination("offline", self.project, self.entity)


def destination(options: WandbOptions) -> Destination | None:
    """Where `options` send W&B runs on this machine; None when W&B is disabled.

    Raises TrackingError when they have to be online and there is no key, or W&B's settings are
    wrong.
    """
    # Told and marked as what it is, and not left to W&B to find.
    entity = options.entity or os.environ.get("WANDB_ENTITY") or None
    told = options.mode or os.environ.get("WANDB_MODE") or None
    mode = {"dryrun": "offline", "run": "online"}.get(told or "", told)
    if mode not in (None, "offline", "online", "disabled"):
        raise TrackingError(f"WANDB_MODE is {told}: choose offline, online or disabled")
    if mode == "disabled":
        return None
    if mode == "offline" or key_source() is None:
        if mode == "online":
            raise TrackingError(
                "W&B is to be online, and there is no key: set WANDB_API_KEY or call `wandb login`,"
                " or choose mode offline, from which `prunesweep wandb-sync` sends later"
            )
        return Destination("offline", options.project, entity)
    return Destination("online", options.project, entity, wandb_host())


def overridden(options: WandbOptions, **changes: Any) -> WandbOptions:
    """`options` with the changes that are not None. Raises TrackingError."""
    given = {name: value for name, value in changes.items() if value is not None}
    try:
        return WandbOptions.model_validate(options.model_dump() | given)
    except ValidationError as error:
        raise TrackingError(reason(error)) from error


@dataclass(frozen=True)
class Tracking:
    """How the W&B runs of a sweep's lineages are made.

    `labels` are by lineage id. `run` tells this run of the sweep from others.
    """

    storage: str
    sweep: str
    to: Destination
    options: WandbOptions
    labels: Mapping[str, str]
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    @property
    def base(self) -> str:
        """The folder, within the store, of what is known about this sweep's W&B runs."""
        return f"wandb/{self.sweep}"

    def folder(self, lineage: str) -> Path:
        """The local folder of a lineage's W&B files."""
        local = Store(self.storage).local_root
        if local is not None:
            return local / self.base / lineage
        storage = hashlib.sha256(self.storage.encode()).hexdigest()[:10]
        return user_data_path("prunesweep") / storage / self.base / lineage

    def problem_path(self, lineage: str) -> str:
        """The path in the store of what kept a lineage from W&B."""
        return f"{self.base}/problems/{lineage}.json"

    def offline(self) -> "Tracking":
        """The same, in folders on this machine."""
        return replace(self, to=self.to.offline())

    def mark(self, lineage: str, key: str) -> str:
        """The name of the mark that a lineage was sent up to the iteration `key`."""
        options = self.options.model_dump(mode="json", exclude={"mode", "project", "entity"})
        what = canonical_json([str(self.to), key, options, self.labels[lineage]])
        return f"{lineage}-{hashlib.sha256(what.encode()).hexdigest()[:16]}"


def track(record: SweepRecord, store: Store, options: WandbOptions) -> Tracking | None:
    """The tracking of a sweep; None when W&B is disabled. Raises TrackingError."""
    to = destination(options)
    if to is None:
        return None
    return Tracking(store.location, record.name, to, options, labels(record))


def recorded_options(record: SweepRecord) -> WandbOptions:
    """The W&B options that a sweep was last run with."""
    return WandbOptions.model_validate(record.spec.get("wandb") or {})
