"""Importing torchvision beside a torch it was not built for."""

import importlib
import sys
from types import ModuleType
from typing import Any

_definitions: list[Any] = []


def import_torchvision() -> ModuleType:
    """torchvision, good for its datasets, transforms and models.

    A CUDA build of torchvision cannot load its compiled operators beside a CPU-only torch, and
    then fails to import for want of `nms` and `qnms`. Declaring those two is enough: nothing
    here calls them. Raises ImportError when torchvision is not installed.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    _declare_operators()
    return importlib.import_module("torchvision")


def _declare_operators() -> None:
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    # The declarations vanish with the library object.
    _definitions.append(library)
