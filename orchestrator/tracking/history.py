"""A lineage's history: its commits as rows, one an epoch, in the order of training."""

from typing import Any

import pyarrow as pa

from trainables.lineage.metrics import METRICS_SCHEMA
from trainables.lineage.schemas import EPOCH_SCHEMA
from trainables.store import Store, iteration_path
from trainables.store.artifacts import EPOCHS, METRICS, read_table


def _numbers(schema: pa.Schema) -> tuple[str, ...]:
    kinds = (pa.types.is_integer, pa.types.is_floating)
    return tuple(field.name for field in schema if any(kind(field.type) for kind in kinds))


EPOCH_COLUMNS = _numbers(EPOCH_SCHEMA)
ITERATION_COLUMNS = tuple(name for name in _numbers(METRICS_SCHEMA) if name != "iteration")


def iteration_rows(store: Store, key: str, first: int) -> list[dict[str, Any]]:
    """The rows of one committed iteration, of which the lineage has `first` epochs before it.

    Every row has `epoch`, counted from 1 over the whole lineage, and the numbers of the table
    `epochs` as `epoch/…`; the last one also has `iteration` and the numbers of the table
    `iterations` as `iteration/…`. Values are those of the tables; nulls are left out. Raises
    Damaged.
    """
    path = iteration_path(key)
    measures = read_table(store, path, METRICS, METRICS_SCHEMA).to_pylist()[0]
    epochs = read_table(store, path, EPOCHS, EPOCH_SCHEMA).to_pylist()
    rows = [
        {"epoch": first + number, "epoch/iteration": measures["iteration"]}
        | _prefixed("epoch", epoch, EPOCH_COLUMNS)
        for number, epoch in enumerate(epochs, 1)
    ]
    rows[-1] |= {"iteration": measures["iteration"]}
    rows[-1] |= _prefixed("iteration", measures, ITERATION_COLUMNS)
    return rows


def _prefixed(prefix: str, values: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {f"{prefix}/{name}": values[name] for name in names if values[name] is not None}
