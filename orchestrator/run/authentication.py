"""Authentication: the token with which this process starts a Ray cluster, or comes to one."""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from orchestrator.run.ray_internals import read_authentication


def own_token() -> AbstractContextManager[None]:
    """Ray asks for a new token and comes with it, which is in the environment and on no disk."""
    return _authentication({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)})


def users_token() -> AbstractContextManager[None]:
    """Ray comes with the user's token, where there is one."""
    mode = users_mode()
    return _authentication({"RAY_AUTH_MODE": mode} if mode else {})


def users_mode() -> str | None:
    """With an address, Ray sends a token only where RAY_AUTH_MODE says so; a cluster that wants
    none does not mind one."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token")
    has_token = "RAY_AUTH_TOKEN" in os.environ or Path(named).is_file()
    return os.environ.get("RAY_AUTH_MODE") or ("token" if has_token else None)


@contextmanager
def _authentication(variables: Mapping[str, str]) -> Iterator[None]:
    """Ray's authentication as in these environment variables; afterwards as it was."""
    before = {name: os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
    os.environ.update(variables)
    read_authentication()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        read_authentication()
