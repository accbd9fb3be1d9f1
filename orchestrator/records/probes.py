"""Probes: what training steps take on a device, measured by `plan --probe`; kept in `probes/`."""

import hashlib
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from orchestrator.records.files import Time
from trainables.config import canonical_json
from trainables.store import Damaged, Store

FOLDER = "probes"


@dataclass(frozen=True)
class Probe:
    """What was measured of one kind of training.

    `work` is what decides how long a step takes: dataset, model, and the recipe without its length
    and learning rate. Of `fused` networks that are one computation, `step_seconds` is each one's
    part. `memory_bytes` is what a GPU has, None of a CPU.
    """

    work: dict[str, Any]
    fused: int
    device: str
    host: str
    torch: str
    step_seconds: float
    evaluation_seconds: float
    peak_memory_bytes: int
    memory_bytes: int | None
    measured_at: Time


PROBE = TypeAdapter(Probe)


def write_probe(store: Store, probe: Probe) -> None:
    """Keep `probe` in the place of an earlier one of the same."""
    what = canonical_json([probe.work, probe.fused, probe.device, probe.host])
    name = hashlib.sha256(what.encode()).hexdigest()[:32]
    store.write_json(f"{FOLDER}/{name}.json", PROBE.dump_python(probe, mode="json"))


def read_probes(store: Store) -> list[Probe]:
    """All that are kept; one that cannot be read costs no more than what it would tell."""
    found = []
    for name in store.names(FOLDER):
        try:
            found.append(PROBE.validate_python(store.read_json(f"{FOLDER}/{name}")))
        except (Damaged, ValidationError):
            continue
    return found
