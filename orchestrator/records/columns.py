"""The columns of a lineage's cell, as tables and published values have them."""

import json
from collections.abc import Mapping
from typing import Any

from orchestrator.records.sweep import LineageRecord


def identity_row(sweep: str, line: LineageRecord) -> dict[str, Any]:
    config = line.config
    return {
        "sweep": sweep,
        "lineage": line.id,
        "dataset": config["dataset"]["name"],
        "model": config["model"]["name"],
        "method": config["method"]["name"],
        "scope": config["prune"]["scope"],
        "data": config["method"].get("data"),
        "selection": selection_name(config["method"]),
        "ablation": config["ablation"]["name"] if "ablation" in config else None,
        "seed": config["seed"],
        "config": json.dumps(config, sort_keys=True),
    }


def selection_name(method: Mapping[str, Any]) -> str:
    """What the column `selection` says of a method's config: `sampled` alone means that the last of
    several scoring rounds was sampled."""
    selection = method.get("selection", "threshold")
    every = selection == "sampled" and method.get("sampled_rounds") == "every"
    return "sampled at every round" if every else selection
