"""SQL over a sweep's tables."""

import pyarrow as pa

from orchestrator.records import SweepRecord
from orchestrator.results.opening import open_results
from trainables.store import Store

EVERY_ITERATION = """
SELECT {cell}, iteration,
       round(100 * avg(density), 2) AS "remaining %",
       round(100 * avg(test_accuracy), 2) AS "accuracy %",
       round(100 * stddev_samp(test_accuracy), 2) AS "± std",
       round(100 * avg(pruned_test_accuracy), 2) AS "pruned %",
       count(*) AS seeds
FROM iterations GROUP BY ALL ORDER BY ALL
"""
"""Means and standard deviations over seeds, in percent, at every iteration."""

LAST_ITERATION = """
SELECT {cell}, iteration AS iterations,
       round(100 * avg(density), 1) AS "remaining %",
       round(100 * avg(test_accuracy), 2) AS "accuracy %",
       round(100 * stddev_samp(test_accuracy), 2) AS "± std",
       round(100 * avg(pruned_test_accuracy), 2) AS "pruned %",
       count(*) AS seeds
FROM (SELECT *, max(iteration) OVER (PARTITION BY lineage) AS last FROM iterations)
WHERE iteration = last GROUP BY ALL ORDER BY ALL
"""
"""The same at the last iteration of every lineage."""


def query(store: Store, sweep: str, sql: str = EVERY_ITERATION) -> pa.Table:
    """The result of `sql` over the sweep's tables.

    `{cell}` in it stands for what tells the sweep's cells apart, seeds aside. Tables that lag
    behind the commits are rebuilt first. Raises NoSuchSweep, QueryError, Damaged.
    """
    results = open_results(store, sweep)
    return results.sql(sql.replace("{cell}", _cell(results.record)))


def _cell(record: SweepRecord) -> str:
    """The dataset and model where they vary, and the method with its swept options in one."""
    varying = [
        name
        for name in ("dataset", "model")
        if len({line.config[name]["name"] for line in record.lineages}) > 1
    ]
    options = [f"'{name.split('.')[-1]}=' || \"{name.replace('.', '_')}\"" for name in record.swept]
    return ", ".join([*varying, f"concat_ws(' ', {', '.join(['method', *options])}) AS method"])
