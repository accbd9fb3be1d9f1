"""Tables in pieces: the same rows whatever was there before, and only what is new is read."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from measured import committed_files, measured, sweep_file

import orchestrator.results.pieces
from orchestrator.records.sweep import SweepRecord, existing_sweep, write_sweep
from orchestrator.results.compacting import compact, is_current, table_damage
from orchestrator.results.opening import Results, open_results
from orchestrator.results.tables import TABLES, table_path, table_paths
from orchestrator.storage.collecting import table_sweep
from trainables.lineage.schemas import EPOCH_SCHEMA
from trainables.store import Damaged, Store, iteration_path
from trainables.store.artifacts import EPOCHS, METRICS, encode_table

METHODS = [{"name": "sap", "p": [0.25, 0.5]}]
SECTIONS: dict[str, Any] = {"prune": {"iterations": 2}, "methods": METHODS}
"""Lineages of three iterations, of which the first is that of another."""


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orchestrator.results.pieces, "PIECE", 7)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The keys of the commits whose tables are read."""
    found: set[str] = set()
    read_files = Store.read_files

    def noted(store: Store, path: str, names: Any) -> dict[str, bytes]:
        found.add(path.rpartition("/")[2])
        return read_files(store, path, names)

    monkeypatch.setattr(Store, "read_files", noted)
    return found


def sweep(folder: Path, seeds: int, **sections: Any) -> Results:
    """As of a run that measured everything."""
    file = sweep_file(folder, seeds=list(range(seeds)), **SECTIONS | sections)
    return measured(folder, file, lambda line, t: {"test_loss": t + line.config["seed"] / 8})


def rows(store: Store) -> dict[str, list[dict[str, Any]]]:
    results = open_results(store, "s")
    return {table: results.table(table).to_pylist() for table in TABLES}


def from_nothing(store: Store) -> dict[str, list[dict[str, Any]]]:
    store.remove("tables")
    return rows(store)


def keys(record: SweepRecord) -> set[str]:
    return {key for line in record.lineages for key in line.keys}


def train_again(store: Store, key: str, t: int, loss: float) -> None:
    epochs = pa.Table.from_pylist([{"epoch": e, "step": e} for e in (1, 2)], EPOCH_SCHEMA)
    files = committed_files(key, t, {"test_loss": loss}) | {EPOCHS: encode_table(epochs)}
    store.commit(iteration_path(key), files)


def test_pieces_have_the_rows_of_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = sweep(tmp_path, 4).store
    assert len(table_paths(store, "iterations", "s")) == 4
    assert not store.exists(table_path("iterations", "s"))
    assert {table_sweep(name) for name in store.names("tables")} == {"s"}
    in_pieces = rows(store)
    sql = "SELECT * FROM iterations"
    assert open_results(store, "s").sql(sql).to_pylist() == in_pieces["iterations"]
    monkeypatch.setattr(orchestrator.results.pieces, "PIECE", 1000)
    assert rows(store) == in_pieces
    # What was in the way is gone.
    names = {*store.names("tables")}
    assert names == {f"{table}-s.parquet" for table in TABLES} | {"manifest-s.json"}


def test_only_what_is_new_is_read(tmp_path: Path, read: set[str]) -> None:
    store = sweep(tmp_path, 2).store
    old = keys(existing_sweep(store, "s"))
    assert read == old
    for seeds, iterations in ((3, 2), (5, 3), (6, 4)):
        read.clear()
        record = sweep(tmp_path, seeds, prune={"iterations": iterations}).record
        assert read == keys(record) - old
        old = keys(record)
    read.clear()
    grown = rows(store)
    assert not read
    assert from_nothing(store) == grown


def test_a_sweep_that_gets_smaller_has_the_rows_that_it_has(tmp_path: Path) -> None:
    store = sweep(tmp_path, 5).store
    sweep(tmp_path, 2)
    smaller = rows(store)
    assert len(smaller["iterations"]) == 2 * 2 * 3
    assert from_nothing(store) == smaller


def test_a_piece_that_has_not_changed_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = sweep(tmp_path, 4)
    store, record = results.store, existing_sweep(results.store, "s")
    written: list[str] = []
    write = Store.write
    monkeypatch.setattr(
        Store, "write", lambda s, path, data: written.append(path) or write(s, path, data)
    )
    # As a run knows it, and as a record that was read.
    for each in (results.record, record):
        assert compact(store, each, store.committed("iterations")) == []
    assert written == []
    spoilt = table_paths(store, "sparsity", "s")[2]
    store.files.write(spoilt, b"nothing")
    (found,) = table_damage(store, "s")
    assert found.path == spoilt
    before = rows(store)
    piece = spoilt.removeprefix("tables/sparsity")
    tables = {path for path in written if "manifest" not in path}
    assert tables == {f"tables/{table}{piece}" for table in TABLES}
    assert from_nothing(store) == before


def test_who_is_killed_has_done_a_part(
    tmp_path: Path, read: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = sweep(tmp_path, 2)
    store, record, whole = results.store, results.record, rows(results.store)
    committed = store.committed("iterations")
    for after in range(1, 20):
        store.remove("tables")
        with monkeypatch.context() as patch:
            patch.setattr(Store, "write", _dying(after))
            try:
                compact(store, record, committed)
                break
            except KeyboardInterrupt:
                pass
        # A piece that is not whole is no damage.
        assert table_damage(store, "s") == []
        assert not is_current(store, record, committed)
        read.clear()
        assert rows(store) == whole
        # The first piece was done with its four files and two manifests.
        assert (len(read) < len(committed)) == (after > 5)
    else:
        pytest.fail("it never came to an end")


def _dying(after: int) -> Any:
    left = iter(range(after))
    write = Store.write

    def dying(store: Store, path: str, data: bytes) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        write(store, path, data)

    return dying


def test_what_was_trained_again_is_read_again(tmp_path: Path) -> None:
    results = sweep(tmp_path, 3)
    store, line = results.store, results.record.lineages[2]
    key = line.keys[1]
    store.set_aside(iteration_path(key))
    train_again(store, key, 1, 99.0)
    (row,) = (row for row in rows(store)["iterations"] if row["key"] == key)
    assert row["test_loss"] == 99.0
    # Rows of one iteration alone have epochs: the others' are none.
    assert [(row["lineage"], row["epoch"]) for row in rows(store)["epochs"]] == [
        (line.id, 1), (line.id, 2),
    ]  # fmt: skip
    sweep(tmp_path, 4)
    assert from_nothing(store) == rows(store)


def test_a_damaged_iteration_is_left_out_until_it_is_mended(tmp_path: Path) -> None:
    results = sweep(tmp_path, 3)
    store, line = results.store, results.record.lineages[0]
    before = rows(store)
    store.remove("tables")
    file = f"{iteration_path(line.keys[1])}/{METRICS}"
    sound = store.peek(file)
    assert sound is not None
    store.put(file, b"nothing")
    committed = store.committed("iterations")
    (damage,) = compact(store, results.record, committed)
    assert isinstance(damage, Damaged)
    assert len(open_results(store, "s").iterations) == len(before["iterations"]) - 1
    assert not is_current(store, results.record, committed)
    store.put(file, sound)
    assert rows(store) == before


def test_swept_parameters_have_one_type_in_all_pieces(tmp_path: Path) -> None:
    methods = [{"name": "one_shot"}, {"name": "sap", "p": [0.25, 0.5]}]
    results = sweep(tmp_path, 4, methods=methods)
    kinds = {str(part.type) for part in results.iterations["method_p"].chunks}
    assert kinds == {"double"}
    write_sweep(results.store, results.record)
    assert rows(results.store)["iterations"] == results.iterations.to_pylist()


@pytest.mark.parametrize(
    ("option", "values", "column"),
    [
        ('int | Literal["all"] = "all"', [3, "all"], ["3", "all"]),
        ("bool | float = False", [True, 0.5], ["true", "0.5"]),
        ("float | int = 0", [1, 0.5], [1.0, 0.5]),
        ("int = 0", [2**70, 1], [str(2**70), "1"]),
    ],
)
def test_a_swept_parameter_may_have_values_of_several_types(
    tmp_path: Path, option: str, values: list[Any], column: list[Any]
) -> None:
    (tmp_path / "lab.py").write_text(
        "from typing import Literal\n"
        "from prunesweep import Scoring, criterion\n\n"
        "@criterion\n"
        f"def windowed(scoring: Scoring, *, window: {option}):\n"
        "    return {name: w.abs() for name, w in scoring.weights.items()}\n"
    )
    file = sweep_file(
        tmp_path, plugins=["lab.py"], prune={"iterations": 0},
        methods=[{"name": "one_shot", "criterion": {"name": "windowed", "window": values}}],
    )  # fmt: skip
    results = measured(tmp_path, file, lambda line, t: {})
    assert results.iterations["method_criterion_window"].to_pylist() == column
    assert len(results.paper_table().rows) == 2
