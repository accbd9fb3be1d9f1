"""Memory that a worker's steps take and give back."""

import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, sys
import torch
from trainables.lineage.memory import keep_memory

def step():
    for megabytes in (1, 40, 8, 120):
        torch.ones(megabytes, 2**18)

if sys.argv[1:]:
    keep_memory()
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
def test_what_a_step_gives_back_the_next_one_has() -> None:
    """Ten steps of 169 MiB have no page handed out again; by itself glibc has them all, else
    `keep_memory` is not needed."""

    def faults(*arguments: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", STEPS, *arguments], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    assert faults("keep") < 100
    assert faults() > 1000
