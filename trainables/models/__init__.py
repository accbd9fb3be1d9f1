"""The networks that can be pruned.

A model is a builder `f(shape, classes, *, option=default, ...)` and a line in `MODELS`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Union

import torch
from pydantic import Field
from torch import nn

from trainables.config import Config, options_config, options_of
from trainables.models.cifar_resnet import resnet20, wide_resnet20
from trainables.models.cnn import cnn
from trainables.models.initialization import initialize
from trainables.models.perceptrons import lenet_300_100, linear, mlp
from trainables.models.preact_resnet import resnet18, resnet50, wide_resnet_28x8
from trainables.models.prunable import prunable, prunable_modules
from trainables.models.shape import Shape
from trainables.models.tiny_resnet import tiny_resnet18, tiny_wide_resnet18
from trainables.models.vgg import vgg11, vgg16, vgg19

__all__ = [
    "MODELS",
    "ModelConfig",
    "ModelOptions",
    "Shape",
    "build_model",
    "prunable",
    "prunable_modules",
]

MODELS: dict[str, Callable[..., nn.Module]] = {
    "linear": linear,
    "mlp": mlp,
    "lenet_300_100": lenet_300_100,
    "cnn": cnn,
    "resnet18": resnet18,
    "resnet20": resnet20,
    "resnet50": resnet50,
    "wide_resnet20": wide_resnet20,
    "wide_resnet_28x8": wide_resnet_28x8,
    "tiny_resnet18": tiny_resnet18,
    "tiny_wide_resnet18": tiny_wide_resnet18,
    "vgg11": vgg11,
    "vgg16": vgg16,
    "vgg19": vgg19,
}


class ModelOptions(Config):
    """What every model's config has."""

    name: str


if TYPE_CHECKING:
    # The union is made from the registry at run time; checkers see what its members share.
    ModelConfig = ModelOptions
else:
    ModelConfig = Annotated[
        Union[tuple(options_config(name, build, ModelOptions) for name, build in MODELS.items())],
        Field(discriminator="name"),
    ]


def build_model(config: ModelConfig, shape: Shape, classes: int, seed: int) -> nn.Module:
    """The model of `config` on the CPU, its weights drawn from `seed` alone.

    Maps images [N, *shape] to logits [N, classes]. The global random state is left as it was.
    Raises ValueError when images of `shape` are too small for the model.
    """
    builder = MODELS[config.name]
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # torch.manual_seed would reseed the accelerators too, which fork_rng does not restore here.
        torch.default_generator.manual_seed(seed)
        model = builder(shape, classes, **options_of(config, builder))
        initialize(model)
    return model
