"""SQL over a sweep's tables."""

import duckdb
import pyarrow as pa

from orchestrator.records import SweepRecord, existing_sweep
from orchestrator.results.tables import compact, is_current, open_tables
from trainables.store import Store

SUMMARY = """
SELECT dataset, model, method{swept}, scope, iteration,
       round(100 * avg(density), 2) AS percent_remaining,
       round(100 * avg(test_accuracy), 2) AS accuracy,
       round(100 * stddev_samp(test_accuracy), 2) AS accuracy_std,
       round(100 * avg(pruned_test_accuracy), 2) AS pruned_accuracy,
       count(*) AS seeds
FROM iterations GROUP BY ALL ORDER BY ALL
"""
"""Mean and standard deviation over seeds of every iteration, in percent."""


class QueryError(ValueError):
    """The SQL is wrong; the text is DuckDB's."""


FINAL = """
SELECT dataset, model, method{swept}, scope, iteration AS iterations,
       round(100 * avg(density), 1) AS "remaining %",
       round(100 * avg(test_accuracy), 2) AS "accuracy %",
       round(100 * stddev_samp(test_accuracy), 2) AS "± std",
       round(100 * avg(pruned_test_accuracy), 2) AS "pruned %",
       count(*) AS seeds
FROM (SELECT *, max(iteration) OVER (PARTITION BY lineage) AS last FROM iterations)
WHERE iteration = last GROUP BY ALL ORDER BY ALL
"""
"""The last iteration of every lineage, over seeds. `{swept}` stands for the swept columns."""


def query(store: Store, sweep: str, sql: str | None) -> pa.Table:
    """The result of `sql` over the sweep's tables, or of SUMMARY.

    Tables that lag behind the commits are rebuilt first. Raises NoSuchSweep, QueryError, Damaged.
    """
    record = existing_sweep(store, sweep)
    if not is_current(store, record):
        compact(store, record)
    connection = open_tables(store, [sweep])
    text = (sql or SUMMARY).replace("{swept}", _swept_columns(record))
    try:
        return connection.execute(text).to_arrow_table()
    except duckdb.Error as error:
        raise QueryError(str(error)) from error


def _swept_columns(record: SweepRecord) -> str:
    names = (name.replace(".", "_") for name in record.swept if name != "prune.scope")
    return "".join(f', "{name}"' for name in names)
