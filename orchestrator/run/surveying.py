"""Surveying: what a node of a cluster says of itself.

It goes to the nodes as it is, since prunesweep may not be there, or another one: it needs nothing
but Python until it has seen that the code is the right one.
"""

import shutil
import socket
import tempfile
import time
import uuid
from importlib.metadata import version
from importlib.util import find_spec
from platform import python_version
from typing import Any

PACKAGES = ("prunesweep", "orchestrator", "trainables")
NONCE = "nonce"


def survey(code: str, location: str, folder: str, nonce: bytes) -> dict[str, Any]:
    """What the node that it runs on says of itself.

    Where its `own_code` is `code` and torch can be imported, `storage` is what is wrong with the
    one at `location`, None when nothing is: it holds `nonce` in `folder`, and can be written.
    """
    began = time.time()
    said = {
        "host": socket.gethostname(),
        "python": python_version(),
        "ray": version("ray"),
        "free_bytes": shutil.disk_usage(tempfile.gettempdir()).free,
        **_torch(),
        **_code(),
    }
    if said.get("code") == code and "torch" in said:
        said["storage"] = _storage(location, folder, nonce)
    return said | {"began": began, "ended": time.time()}


def _torch() -> dict[str, Any]:
    try:
        import torch
    except Exception as error:  # a broken installation raises anything
        return {"no_torch": f"{type(error).__name__}: {error}"}
    return {"torch": torch.__version__, "cuda": torch.version.cuda or torch.version.hip}


def _code() -> dict[str, Any]:
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        return {"no_code": ", ".join(missing)}
    try:
        from trainables.own_code import own_code
    except ImportError:  # one from before there was such a thing
        return {"code": "unknown"}
    return {"code": own_code()}


def _storage(location: str, folder: str, nonce: bytes) -> str | None:
    from trainables.store import Store

    try:
        store = Store(location)
        # Nothing is written to another one.
        if store.peek(f"{folder}/{NONCE}") != nonce:
            return "is another one there"
        written = f"{folder}/{uuid.uuid4().hex}"
        store.put(written, b"")
        store.delete_file(written)
    except Exception as error:
        return f"cannot be used there ({type(error).__name__}: {error})"
    return None
