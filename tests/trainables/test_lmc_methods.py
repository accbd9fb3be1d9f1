"""Linear mode connectivity between the tickets of two methods."""

from pathlib import Path
from typing import Any

import pytest
from test_connectivity import measure, rows_of
from test_lineage import CPU, DIGITS, ROOTS, held, lineage, method, run

from trainables.data import load_dataset
from trainables.lineage.keys import Lineage
from trainables.lineage.pairs import compared, with_pairs
from trainables.training.batches import DeviceData

LMC = measure("lmc_methods")


@pytest.fixture(scope="module")
def data() -> DeviceData:
    return DeviceData.of(load_dataset(DIGITS, ROOTS), CPU)


def told(*lineages: Lineage) -> list[tuple[Any, ...]]:
    """Each pair: the methods, and when."""
    names = {line.id: line.cell.method.name for line in lineages}
    return [
        tuple((names[ticket.lineage], ticket.iteration) for ticket in each.pair or ())
        for line, each in compared(lineages, LMC)
        if each.is_of(line.id)
    ]


def test_tickets_of_two_methods_are_compared_at_equal_iterations() -> None:
    random = method("lottery_ticket", ratio=0.3, criterion="random")
    one, other = lineage(), lineage(random)
    assert [(a[1], b[1]) for a, b in told(one, other)] == [(1, 1), (2, 2)]  # one trunk is no pair
    seconds: set[str] = set()
    for seed in range(8):
        pair = lineage(random, seed=seed), lineage(seed=seed)
        found = [line for line, each in compared(pair, LMC) if each.is_of(line.id)]
        seconds |= {str(line.cell.method) for line in found}
    assert len(seconds) == 1
    assert told(one, lineage(random, seed=1)) == []
    assert told(one, lineage(random, scope="layer")) == []


def test_tickets_that_aim_at_densities_are_compared_at_equal_ones() -> None:
    snip, *others = (
        lineage(method(name, density=density))
        for name, density in (("snip", 0.2), ("grasp", 0.2), ("grasp", 0.1))
    )
    imp = lineage(method("imp", density=0.2, ratio=0.5))
    assert told(snip, *others) == [(("grasp", 1), ("snip", 1))]
    assert told(snip, imp) == [(("imp", 3), ("snip", 1))]
    # That of `snip` is at iteration 1 as well, and of another density.
    assert told(snip, lineage()) == []


def test_the_line_goes_from_the_first_ones_weights_to_the_seconds(
    data: DeviceData, tmp_path: Path
) -> None:
    magnitude, imp = (
        lineage(method(name, density=0.49, **options))
        for name, options in (("magnitude", {}), ("imp", {"ratio": 0.3}))
    )
    lineages = with_pairs([magnitude, imp], [LMC])
    for each in lineages:
        run(each, data, tmp_path)
    (found,) = lineages[0].measurements
    assert found.is_of(magnitude.id)
    assert lineages[1].measurements[0].key == found.key
    rows = rows_of(found, tmp_path)
    points = [row for row in rows if row["what"] == "point"]
    ends = [held(line, tmp_path).metrics[-1] for line in (imp, magnitude)]
    for row, metrics in zip((points[0], points[-1]), ends, strict=True):
        assert row["test_loss"] == pytest.approx(metrics["test_loss"])
        assert row["test_error"] == pytest.approx(1 - metrics["test_accuracy"])
    assert {(row["one"], row["other"]) for row in rows} == {(2, 1)}
    assert {(row["measure"], row["rewind"]) for row in rows} == {("lmc_methods", None)}
    assert {row["what"] for row in rows} == {"point", "barrier", "barrier_above_line"}
    assert len(points) == 5
