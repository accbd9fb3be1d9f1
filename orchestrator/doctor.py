"""The doctor: is this installation fit to run sweeps here?"""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from trainables.data import data_roots
from trainables.store import Store


@dataclass(frozen=True)
class Check:
    name: str
    ok: bool
    found: str


def examine(store: Store, environ: Mapping[str, str]) -> list[Check]:
    """Every check, in order; one that fails does not stop the others."""
    checks: dict[str, Callable[[], str]] = {
        "python": lambda: sys.version.split()[0],
        "torch": _torch,
        "torchvision": _torchvision,
        "ray": _ray,
        "wandb": _wandb,
        "devices": _devices,
        "data": lambda: _data(environ),
        "storage": lambda: _storage(store),
    }
    return [_check(name, look) for name, look in checks.items()]


def _check(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except Exception as error:  # whatever is wrong is what the doctor is asked for
        return Check(name, False, f"{type(error).__name__}: {error}")


def _torch() -> str:
    import torch

    return torch.__version__


def _torchvision() -> str:
    from trainables.data.torchvision_import import import_torchvision

    return import_torchvision().__version__


def _ray() -> str:
    from importlib.metadata import version

    return version("ray")


def _wandb() -> str:
    from importlib.metadata import version

    from orchestrator.spec import WandbOptions
    from orchestrator.tracking import destination, key_source

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
    store.require_writable()
    free = store.free_bytes()
    if free is None:
        return store.location
    return f"{store.location} is writable, {free / 1e9:.1f} GB free"
