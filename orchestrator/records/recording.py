"""Recording: what the storage keeps of a sweep, from its spec and its lineages."""

from collections.abc import Sequence

from pydantic_core import to_jsonable_python

from orchestrator.records.sweep import (
    LineageRecord,
    MeasurementRecord,
    SweepRecord,
    noisy_iterations,
)
from orchestrator.sweepfile.spec import SweepSpec, parameter, swept_parameters
from trainables.lineage.keys import Lineage


def record_sweep(spec: SweepSpec, lineages: Sequence[Lineage]) -> SweepRecord:
    """The record of a sweep with its lineages; it is equal to what is read of it again."""
    swept = swept_parameters(spec)
    return SweepRecord(
        name=spec.name,
        spec=spec.model_dump(mode="json"),
        swept=swept,
        lineages=tuple(
            LineageRecord(
                line.id,
                line.config(),
                {name: to_jsonable_python(parameter(line.cell, name)) for name in swept},
                tuple(step.iteration for step in line.own_steps),
                line.own_keys,
                tuple(step.pruned for step in line.own_steps),
                noisy_iterations(line.own_steps),
                _measurements(line) or None,
            )
            for line in lineages
        ),
    )


def _measurements(line: Lineage) -> tuple[MeasurementRecord, ...]:
    return tuple(
        MeasurementRecord(
            each.measure.label,
            line.steps[each.index].iteration,
            each.measure.table,
            each.key,
            tuple(sorted(each.measure.snapshots)),
            each.pair and (each.pair[0].lineage, each.pair[0].iteration),
        )
        for each in line.measurements
        if each.is_of(line.id)
    )
