"""Settings for the tests of training."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Nets this small train several times faster on one thread, above all on a busy machine."""
    torch.set_num_threads(1)
