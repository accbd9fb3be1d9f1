"""Schemas: the columns of the tables that a commit has besides its metrics."""

import pyarrow as pa

EPOCH_SCHEMA = pa.schema(
    [
        ("epoch", pa.int64()),
        ("step", pa.int64()),
        ("lr", pa.float64()),
        ("train_loss", pa.float64()),
        ("train_accuracy", pa.float64()),
        ("validation_loss", pa.float64()),
        ("validation_accuracy", pa.float64()),
        ("test_loss", pa.float64()),
        ("test_accuracy", pa.float64()),
        ("density", pa.float64()),
    ]
)

LAYER_SCHEMA = pa.schema(
    [
        ("layer", pa.string()),
        ("kept", pa.int64()),
        ("total", pa.int64()),
        ("pq_index", pa.float64()),
        ("gini", pa.float64()),
        ("init_magnitude_share", pa.float64()),
        ("uniform_share", pa.float64()),
        ("init_norm_kept", pa.float64()),
    ]
)

SCORE_SCHEMA = pa.schema(
    [
        ("layer", pa.string()),
        ("index", pa.int64()),
        ("score", pa.float64()),
        ("kept", pa.bool_()),
        ("kept_by_threshold", pa.bool_()),
    ]
)
