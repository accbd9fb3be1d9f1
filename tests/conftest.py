"""Fixtures that several test modules share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def oracles() -> Path:
    """The folder of arrays computed by the methods' published code."""
    shared = os.environ.get("PRUNESWEEP_SHARED")
    if not shared:
        pytest.skip("PRUNESWEEP_SHARED is not set: it names the folder that holds oracles/")
    return Path(shared) / "oracles"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--regenerate-golden", action="store_true", help="Rewrite tests/golden/ instead of checking"
    )
