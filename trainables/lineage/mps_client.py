"""How a process uses GPUs: through the MPS daemon that its environment names, or without."""

import os

PIPE, LOG = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"


def without_mps() -> None:
    """Use GPUs without the daemon; for a process that has not used any yet."""
    os.environ.pop(PIPE, None)
    os.environ.pop(LOG, None)
