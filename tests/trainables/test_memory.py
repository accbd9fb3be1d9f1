"""Memory that a worker's steps take and give back."""

import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, statistics, sys
import torch
from trainables.lineage.memory import keep_memory

def step():
    for megabytes in (1, 40, 8, 120):
        torch.ones(megabytes, 2**18)

if sys.argv[1:]:
    keep_memory()
faults = []
for _ in range(15):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(statistics.median(faults))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
def test_what_a_step_gives_back_the_next_one_has() -> None:
    """No page of a step of 169 MiB is handed out again; by itself glibc has them all, else
    `keep_memory` is not needed. Of the steps the one in the middle: a piece that comes to lie in
    between has one of them look for new room."""

    def faults(*arguments: str) -> float:
        done = subprocess.run(
            [sys.executable, "-c", STEPS, *arguments], capture_output=True, text=True, check=True
        )
        return float(done.stdout)

    assert faults("keep") < 100
    assert faults() > 1000
