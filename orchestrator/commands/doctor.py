"""The doctor: is this installation fit to run sweeps here?"""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

from trainables.data import data_roots
from trainables.own_code import own_code
from trainables.store import Store
from trainables.store.storage_format import require_ours

DASHBOARD_PORT = 8265


@dataclass(frozen=True)
class Check:
    name: str
    ok: bool
    found: str


class Unsafe(Exception):
    """What lets others in."""


def examine(store: Store, environ: Mapping[str, str], address: str | None = None) -> list[Check]:
    """Every check, in order; one that fails does not stop the others.

    `address` is that of a Ray cluster to look at, by default RAY_ADDRESS, if any.
    """
    address = address or environ.get("RAY_ADDRESS")
    checks: dict[str, Callable[[], str]] = {
        "python": lambda: sys.version.split()[0],
        "prunesweep": _prunesweep,
        "torch": _torch,
        "torchvision": _torchvision,
        "ray": _ray,
        "wandb": _wandb,
        "devices": _devices,
        "data": lambda: _data(environ),
        "storage": lambda: _storage(store),
    }
    installation = [_check(name, look) for name, look in checks.items()]
    return [*installation, *(examine_cluster(address) if address else ())]


def examine_cluster(address: str) -> list[Check]:
    """Does the Ray cluster at `address` admit you, and no one else?"""
    checks = {"cluster": _cluster, "token": _token, "dashboard": _dashboard}
    return [_check(name, partial(look, address)) for name, look in checks.items()]


def _check(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except Exception as error:  # whatever is wrong is what the doctor is asked for
        return Check(name, False, f"{type(error).__name__}: {error}")


def _prunesweep() -> str:
    from importlib.metadata import version

    return f"{version('prunesweep')}, code {own_code()}"


def _torch() -> str:
    import torch

    return torch.__version__


def _torchvision() -> str:
    from trainables.torchvision_import import import_torchvision

    return import_torchvision().__version__


def _ray() -> str:
    from importlib.metadata import version

    from orchestrator.run.ray_folder import place_for_sockets, rays_own

    place = place_for_sockets()
    moved = f", with its sockets below {place}: {rays_own()} is too long for them" if place else ""
    return version("ray") + moved


def _wandb() -> str:
    from importlib.metadata import version

    from orchestrator.sweepfile.spec import WandbOptions
    from orchestrator.tracking.destination import destination
    from orchestrator.tracking.service import key_source

    to, source = destination(WandbOptions()), key_source()
    key = f"key from {source}" if source else "no key"
    return f"{version('wandb')}, {key}, by default {to.mode if to else 'disabled'}"


def _devices() -> str:
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{os.cpu_count()} CPUs, {', '.join(gpus) if gpus else 'no GPU'}"


def _data(environ: Mapping[str, str]) -> str:
    roots = data_roots(None, environ)
    return "looked for in " + ", ".join(str(folder) for folder in roots.candidates)


def _storage(store: Store) -> str:
    require_ours(store)
    store.require_writable()
    free = store.free_bytes()
    if free is None:
        return f"{store.location} is writable"
    return f"{store.location} is writable, {free / 1e9:.1f} GB free"


def _cluster(address: str) -> str:
    from orchestrator.run.admission import ask_cluster
    from orchestrator.run.cluster import ClusterError

    admits, _ = ask_cluster(address, with_token=True)
    if not admits:
        raise ClusterError(f"{address} does not admit you: set RAY_AUTH_TOKEN as its nodes have it")
    return f"{address} answers"


def _token(address: str) -> str:
    from orchestrator.run.admission import ask_cluster

    admits, _ = ask_cluster(address, with_token=False)
    if admits:
        raise Unsafe(
            f"{address} admits anyone who reaches it, to run anything on its nodes; start Ray with "
            "RAY_AUTH_MODE=token on all of them"
        )
    return f"{address} asks for one"


def _dashboard(address: str) -> str:
    from orchestrator.run.admission import ask_cluster

    admits, place = ask_cluster(address, with_token=True)
    if admits and not place:
        return "off"
    # Who is not admitted can still look where it usually is.
    place = place or f"{address.rpartition(':')[0]}:{DASHBOARD_PORT}"
    status = _http_status(f"http://{place}/api/version")
    if status is None:
        return f"none answers at {place}"
    if status in (401, 403):
        return f"{place} asks for a token"
    if _is_loopback(place.rpartition(":")[0]):
        return f"{place}, for this machine only"
    raise Unsafe(
        f"{place} answers anyone who reaches it, and lets them run anything on the cluster; start "
        "Ray with --dashboard-host 127.0.0.1, or RAY_AUTH_MODE=token"
    )


def _http_status(url: str) -> int | None:
    """The status of an answer without a token, past any proxy; None without an answer."""
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=5) as answer:
            return answer.status
    except HTTPError as error:
        return error.code
    except OSError:
        return None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
