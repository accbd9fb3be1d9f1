"""Commands that train nothing, asked in the test's own process."""

import io
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from orchestrator.commands import cli


def ask(folder: Path, *arguments: str, expect: int = 0) -> str:
    """What a command that trains nothing prints. In this process, which has imported it all."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), chdir(folder):
        patch.setattr(sys, "argv", ["prunesweep", *arguments])
        with pytest.raises(SystemExit) as exit:
            cli.main()
    assert exit.value.code == expect
    out.seek(0)
    return out.read()


def refused(folder: Path, *arguments: str) -> str:
    """What a command says that ends with 2."""
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    with redirect_stderr(err):
        ask(folder, *arguments, expect=2)
    err.seek(0)
    return err.read()
