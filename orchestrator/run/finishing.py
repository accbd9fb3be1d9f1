"""Finishing: what a sweep file has done when its run is over."""

import os
import subprocess


def call(command: str, sweep: str, storage: str, state: str) -> str | None:
    """Have the shell run `command` with `$PRUNESWEEP_SWEEP`, `$PRUNESWEEP_STORAGE` and
    `$PRUNESWEEP_STATE`, which is finished, failed or interrupted; what went wrong, if it did."""
    told = {
        "PRUNESWEEP_SWEEP": sweep,
        "PRUNESWEEP_STORAGE": storage,
        "PRUNESWEEP_STATE": state,
    }
    # Standard output is for what prunesweep was asked for.
    done = subprocess.run(
        command, shell=True, env=os.environ | told, stdout=subprocess.DEVNULL, check=False
    )
    return f"on_finish: it ended with {done.returncode}" if done.returncode else None
