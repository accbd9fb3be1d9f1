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


SURROUNDING = (
    "RUN_ID", "RUN_NAME", "NAME", "RUN_GROUP", "RUN_NOTES", "NOTES", "RUN_TAGS", "TAGS",
    "RUN_JOB_TYPE", "JOB_TYPE", "RESUME", "RESUME_FROM", "FORK_FROM", "RESUMED",
    "SWEEP_ID", "SWEEP_PARAM_PATH", "CONFIG_PATHS",
    "LAUNCH", "LAUNCH_CONFIG_PATH", "JOB_NAME", "JOB_SOURCE", "_RUNQUEUE_ITEM_ID",
    "DIR", "ROOT_DIR", "USE_DOT_WANDB", "IGNORE_GLOBS", "SYNC_TENSORBOARD", "_CLI_ONLY_MODE",
    "_FILES_DIR", "_LABEL", "_PRIMARY", "_SERVER_SIDE_DERIVED_SUMMARY", "_SKIP_TRANSACTION_LOG",
    "_START_TIME", "_SYNC", "_SYNC_DIR_SUFFIX", "_UPDATE_FINISH_STATE",
)  # fmt: skip
"""W&B's variables, after `WANDB_`, that say which run something is and what it has. They are about
whatever started this process, such as `wandb agent`, and would go before what a run is begun with.
Those about servers, accounts, proxies and patience stay."""


@cache
def wandb() -> Any:
    """The module wandb, told to be quiet and to report nothing about itself to anyone, and not told
    of a W&B run around this process."""
    for name in SURROUNDING:
        os.environ.pop(f"WANDB_{name}", None)
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
