"""Statistics over seeds: by hand, against SciPy, and what holds of any values."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from orchestrator.results.statistics import (
    Comparison,
    Summary,
    bootstrap_interval,
    cell_statistics,
    compare,
    compare_cells,
    summarize,
)

accuracies = st.integers(0, 10_000).map(lambda count: count / 10_000)
"""Accuracies on 10,000 test images."""

seeds = st.dictionaries(st.integers(0, 9), accuracies, max_size=6)


def near(value: float) -> Any:
    """Equal to what is within rounding of `value`; Any, as it stands where a float belongs."""
    return pytest.approx(value)


def test_a_summary_worked_out_by_hand() -> None:
    # Deviations from 5 are -3, -1, -1, -1, 0, 0, 2, 4: squares add up to 32, over n - 1 = 7.
    summary = summarize([2, 4, 4, 4, 5, 5, 7, 9])
    assert summary == Summary(5.0, near(math.sqrt(32 / 7)), 8)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], Summary(None, None, 0)),
        ([None, math.nan, math.inf], Summary(None, None, 0)),
        ([0.5], Summary(0.5, None, 1)),
        ([0.5, None, math.nan, 0.7, -math.inf], Summary(0.6, near(0.1 * 2**0.5), 2)),
        ([0.5, 0.5, 0.5], Summary(0.5, 0.0, 3)),
    ],
)
def test_what_is_missing_or_not_finite_does_not_count(
    values: list[float | None], expected: Summary
) -> None:
    assert summarize(values) == expected


def test_the_interval_of_three_values_is_their_range() -> None:
    # 1 of 27 resamples is the lowest value three times over, which is more than 2.5 %.
    assert bootstrap_interval([0.5, 0.9, 0.6]) == (0.5, 0.9)


def test_the_interval_is_scipys() -> None:
    values = [0.931, 0.9288, 0.932, 0.9301, 0.9295]
    found = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=9_999, rng=np.random.default_rng(0)
    ).confidence_interval
    assert bootstrap_interval(values) == (found.low, found.high)
    # near 1.96 standard errors to both sides, narrowed by sqrt((n - 1) / n) as the bootstrap does
    half = 1.96 * np.std(values) / math.sqrt(5)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)


@pytest.mark.parametrize("values", [[], [0.5], [0.5, 0.6], [0.5, None, 0.6], [0.5] * 5])
def test_too_few_or_equal_values_have_no_interval(values: list[float | None]) -> None:
    assert bootstrap_interval(values) is None


@settings(deadline=None)
@given(st.lists(accuracies, min_size=3, max_size=8))
def test_an_interval_lies_in_the_range_and_is_always_the_same(values: list[float]) -> None:
    interval = bootstrap_interval(values)
    assert (interval is None) == (min(values) == max(values))
    if interval is not None:
        rounding = 1e-12
        assert min(values) - rounding <= interval[0] <= interval[1] <= max(values) + rounding
        assert bootstrap_interval(values) == interval


def test_the_coverage_that_the_documentation_names() -> None:
    """Of normal values, as `bootstrap_interval` says; 400 samples give ± 0.05 at two sigmas."""
    rng = np.random.default_rng(1)
    for n, coverage in ((3, 0.73), (5, 0.84)):
        intervals = [bootstrap_interval(rng.normal(size=n)) for _ in range(400)]
        held = np.mean([each is not None and each[0] <= 0 <= each[1] for each in intervals])
        assert held == pytest.approx(coverage, abs=0.05)


def test_a_paired_comparison_worked_out_by_hand() -> None:
    # Differences 1, 2, 3: t = 2 / (1 / sqrt(3)) = 3.46 with 2 degrees of freedom, where
    # P(|T| > t) = 1 - t / sqrt(2 + t^2), and t^2 = 12.
    compared = compare({0: 11.0, 1: 12.0, 2: 23.0}, {0: 10.0, 1: 10.0, 2: 20.0})
    expected = 1 - math.sqrt(12) / math.sqrt(14)
    assert compared == Comparison(2.0, near(expected), "paired t")
    assert not compared.differs


def test_what_seeds_have_in_common_cancels() -> None:
    """The spread between seeds is twenty times the difference, which is the same at every seed."""
    one = {0: 0.900, 1: 0.920, 2: 0.880, 3: 0.941}
    other = {seed: value - 0.002 for seed, value in one.items()} | {3: 0.940}
    assert compare(one, other).differs
    unpaired = {seed + 10: value for seed, value in other.items()}
    assert not compare(one, unpaired).differs


def test_only_common_seeds_are_paired() -> None:
    one, other = {0: 0.5, 1: 0.6, 2: 0.9}, {1: 0.5, 2: 0.7, 3: 0.1, 4: None}
    compared = compare(one, other)
    assert (compared.test, compared.difference) == ("paired t", pytest.approx(0.15))
    assert compared.p_value == pytest.approx(stats.ttest_rel([0.6, 0.9], [0.5, 0.7]).pvalue)


def test_without_common_seeds_it_is_welchs_test() -> None:
    one, other = {0: 0.5, 1: 0.6, 2: 0.65}, {3: 0.1, 4: 0.35, 5: 0.2, 2: 0.3}
    _, p_value = stats.ttest_ind([*one.values()], [*other.values()], equal_var=False)
    compared = compare(one, other)
    assert (compared.test, compared.p_value) == ("Welch t", pytest.approx(p_value))
    assert compared.differs


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        ({}, {0: 0.5}, None),
        ({0: math.nan}, {0: 0.5, 1: 0.6}, None),
        ({0: 0.75}, {0: 0.5}, 0.25),
        ({0: 0.75}, {0: 0.5, 1: 0.5}, 0.25),
        ({0: 0.75, 1: 0.75}, {0: 0.5, 1: 0.5}, 0.25),
    ],
)
def test_where_there_is_no_spread_there_is_no_test(
    one: dict[int, float], other: dict[int, float], difference: float | None
) -> None:
    assert compare(one, other) == Comparison(difference, None, None)
    assert not compare(one, other).differs


def test_one_and_the_same_difference_is_not_certainty() -> None:
    """Two of 360 test images at every seed, where a paired test has p = 0, up to rounding."""
    one = {0: 350 / 360, 1: 355 / 360, 2: 351 / 360}
    other = {0: 348 / 360, 1: 353 / 360, 2: 349 / 360}
    compared = compare(one, other)
    assert compared.test == "Welch t"
    assert not compared.differs


@settings(deadline=None)
@given(seeds, seeds)
def test_a_comparison_has_two_sides(one: dict[int, float], other: dict[int, float]) -> None:
    there, back = compare(one, other), compare(other, one)
    assert there.test == back.test
    if there.difference is not None:
        assert back.difference == pytest.approx(-there.difference)
    if there.p_value is None:
        assert back.p_value is None
    else:
        assert 0 <= there.p_value <= 1
        assert back.p_value == pytest.approx(there.p_value)


@settings(deadline=None)
@given(seeds, seeds, st.floats(-1, 1))
def test_what_is_added_to_both_changes_nothing(
    one: dict[int, float], other: dict[int, float], added: float
) -> None:
    def moved(values: dict[int, float]) -> dict[int, float]:
        return {seed: value + added for seed, value in values.items()}

    here, there = compare(one, other), compare(moved(one), moved(other))
    assert here.test == there.test
    assume(here.p_value is not None and here.p_value > 1e-6)
    assert there.p_value == pytest.approx(here.p_value, rel=1e-3)


@settings(deadline=None)
@given(seeds)
def test_nothing_differs_from_itself(values: dict[int, float]) -> None:
    assert not compare(values, values).differs


LABELS = {"a0": "a", "a1": "a", "a2": "a", "b0": "b", "b1": "b"}
ITERATIONS = pa.table(
    {
        "lineage": ["a0", "a1", "a2", "a0", "a1", "a2", "b0", "b1"],
        "iteration": [0, 0, 0, 1, 1, 1, 0, 0],
        "seed": [0, 1, 2, 0, 1, 2, 0, 1],
        "density": [1.0, 1.0, 1.0, 0.5, 0.4, 0.6, 1.0, 1.0],
        "test_accuracy": [0.5, 0.6, 0.7, 0.5, None, math.nan, 0.1, 0.3],
        "method": ["a"] * 6 + ["b"] * 2,
    }
)


def test_the_statistics_of_cells() -> None:
    assert cell_statistics(ITERATIONS, LABELS, "test_accuracy").to_pylist() == [
        {"label": "a", "iteration": 0, "density": 1.0, "mean": pytest.approx(0.6),
         "std": pytest.approx(0.1), "seeds": 3, "low": 0.5, "high": pytest.approx(0.7)},
        {"label": "a", "iteration": 1, "density": pytest.approx(0.5), "mean": 0.5,
         "std": None, "seeds": 1, "low": None, "high": None},
        {"label": "b", "iteration": 0, "density": 1.0, "mean": pytest.approx(0.2),
         "std": pytest.approx(0.02**0.5), "seeds": 2, "low": None, "high": None},
    ]  # fmt: skip


ON_DATA = {"a0": {0, 1}, "a1": {0, 1}, "a2": {0, 1}, "b0": {0}, "b1": {0}}


def test_cells_are_compared_at_an_iteration_or_at_their_last() -> None:
    at_the_beginning = compare_cells(ITERATIONS, LABELS, "test_accuracy", "a", "b", 0, ON_DATA)
    assert at_the_beginning == compare({0: 0.5, 1: 0.6, 2: 0.7}, {0: 0.1, 1: 0.3})
    at_the_end = compare_cells(ITERATIONS, LABELS, "test_accuracy", "a", "b", None, ON_DATA)
    assert at_the_end == compare({0: 0.5}, {0: 0.1, 1: 0.3})


def test_lineages_are_compared_at_their_own_last_iteration() -> None:
    """A stop rule may end each at another one; what has not come to its end is left out."""
    planned = ON_DATA | {"a1": {0}, "a2": {0, 1, 2}}
    found = compare_cells(ITERATIONS, LABELS, "test_accuracy", "a", "b", None, planned)
    assert found == compare({0: 0.5, 1: 0.6}, {0: 0.1, 1: 0.3})
    planned |= {"b0": {0, 1}, "b1": {0, 1}}
    with pytest.raises(ValueError, match="no lineage of 'b' has come to its end; give an itera"):
        compare_cells(ITERATIONS, LABELS, "test_accuracy", "a", "b", None, planned)


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="no cell has the label 'c'; choose one of: a, b"):
        compare_cells(ITERATIONS, LABELS, "test_accuracy", "a", "c", None, ON_DATA)
    with pytest.raises(ValueError, match="'b' has no iteration 1; it has 0"):
        compare_cells(ITERATIONS, LABELS, "test_accuracy", "a", "b", 1, ON_DATA)
    with pytest.raises(ValueError, match="no metric 'method'; choose one of: iteration, seed, d"):
        cell_statistics(ITERATIONS, LABELS, "method")
