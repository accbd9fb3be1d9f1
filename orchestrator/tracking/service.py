"""W&B's client library on this machine: its module, its service process, its server and key.

The only module that imports wandb, beside `wandb_internals`, which has its private parts.
"""

import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from orchestrator.tracking import wandb_internals
from trainables.errors import UserError

if TYPE_CHECKING:
    from wandb import Run as Run


class TrackingError(UserError, ValueError):
    """W&B cannot be used as it was asked for; the message says what to do."""


@cache
def wandb() -> Any:
    """The module wandb, told to be quiet and to report nothing about itself to anyone."""
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb as module

    return module


def wandb_host() -> str:
    """The URL of W&B's server. Raises TrackingError when W&B's settings are wrong."""
    try:
        wandb()
        return wandb_internals.server_url()
    except Exception as error:  # a variable or a file of settings that is wrong, or no wandb at all
        raise TrackingError(
            f"W&B cannot be set up ({reason(error)}); correct that, or set wandb.mode: offline"
        ) from error


def key_source() -> str | None:
    """Where W&B finds a key for its server; None without one. Reaches nobody. Raises TrackingError
    when W&B's settings are wrong."""
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        if os.environ.get(name):
            return name
    netrc = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    settings = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb", "settings")
    files = [Path(file).expanduser() for file in (*netrc, settings)]
    if not any(file.is_file() for file in files):
        return None  # without importing wandb, which takes longer than all the rest
    host = wandb_host()
    try:
        found = wandb_internals.has_key(host)
    except Exception:  # such as a key that cannot be one
        return None
    return "what `wandb login` wrote" if found else None


def end_service(exit_code: int = 0) -> None:
    """End W&B's service process, which is started again when it is needed."""
    if "wandb" in sys.modules:
        with suppress(BaseException):  # wandb may even call sys.exit
            wandb().teardown(exit_code)


def leave_service() -> None:
    """Do not wait for W&B's service at the end of this process; it ends by itself soon after."""
    if "wandb" in sys.modules:
        with suppress(Exception):  # the process ends either way, at worst after a wait
            wandb_internals.do_not_wait()


def reason(error: BaseException) -> str:
    """What went wrong, in one line, and not with which value: it may have been a key."""
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        return f"{place}: {first['msg'].removeprefix('Value error, ')}"
    lines = str(error).strip().splitlines() or ["no reason given"]
    return lines[0][:300]
