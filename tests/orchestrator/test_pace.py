"""How long a run has to go."""

import pytest

from orchestrator.run.pace import Pace


def test_what_a_run_takes_to_start_is_no_part_of_its_pace() -> None:
    pace = Pace()
    assert pace.left(30.0, 60, 1, []) is None
    # Half a minute of starting, then iterations of one second.
    for second in range(5):
        pace.committed(31.0 + second, 1.0)
    assert pace.left(35.0, 20, 1, [(35.0, 1)]) == pytest.approx(15.0)
    assert pace.left(35.5, 20, 1, [(35.0, 1)]) == pytest.approx(14.5)


def test_what_others_are_at_counts_from_the_first_commit_on() -> None:
    pace = Pace()
    pace.committed(10.0, 1.0)  # four began at 9.0
    assert pace.left(10.0, 40, 4, [(2.0, 1)] * 3 + [(10.0, 1)]) == pytest.approx(9.0)
    # Those that wait for room are at nothing yet.
    assert pace.left(10.0, 40, 1, [(2.0, 1)] * 9) == pytest.approx(19.0)


def test_no_less_than_the_longest_lineage_at_work() -> None:
    pace = Pace()
    for _ in range(8):
        pace.committed(1.0, 1.0)
    assert pace.left(1.0, 18, 8, [(1.0, 10)]) == pytest.approx(10.0)
    assert pace.left(1.5, 18, 8, [(1.0, 10)]) == pytest.approx(9.5)


def test_what_others_train_is_not_left_to_this_run() -> None:
    pace = Pace()
    # Before this one has committed anything, they are all that is known.
    assert pace.left(30.0, 60, 1, [], elsewhere=2.0) == pytest.approx(30.0)
    for second in range(5):
        pace.committed(31.0 + second, 1.0)
    assert pace.per_second(35.0) == pytest.approx(1.0)
    assert pace.left(35.0, 45, 1, [(35.0, 1)], elsewhere=3.0) == pytest.approx(10.0)


def test_at_the_end_there_is_nothing_to_go() -> None:
    pace = Pace()
    pace.committed(3.0, 0.0)
    assert pace.left(9.0, 1, 2, []) == 0.0
