"""The networks that can be pruned: a function each, `@model def f(shape, classes, *, option=…)`."""

from __future__ import annotations

from typing import Annotated, Any

from trainables.lazy_torch import nn, torch
from trainables.models.entry import MODEL, Model, model
from trainables.models.prunable import prunable
from trainables.models.shape import Shape
from trainables.plugins.entry import Named, PluginError

__all__ = [
    "MODEL",
    "Model",
    "ModelConfig",
    "Shape",
    "blueprint",
    "build_model",
    "model",
    "prunable",
]

ModelConfig = Annotated[Model, Named(MODEL)]


def build_model(
    config: Model, shape: Shape, classes: int, seed: int, device: str = "cpu"
) -> nn.Module:
    """The model of `config` on the CPU, or another `device`, its weights drawn from `seed` alone.

    Maps images [N, *shape] to logits [N, classes]. The global random state is left as it was. A
    model keeps the weights that it was made with; lazy ones are made here.
    Raises ValueError when images of `shape` are too small for the model, or when it has no weight
    that can be pruned.
    """
    with torch.random.fork_rng(devices=[]), torch.device(device):
        # torch.manual_seed would reseed the accelerators too, which fork_rng does not restore here.
        torch.default_generator.manual_seed(seed)
        built = config(shape, classes)
        if not isinstance(built, nn.Module):
            raise PluginError(f"{config.where()}: {config.name} gives {built!r}, no torch module")
        if any(map(nn.parameter.is_lazy, built.parameters())):
            _logits(config, built, shape, training=False)
    _check_prunable(config, built)
    return built


def blueprint(config: Model, shape: Shape, classes: int) -> nn.Module:
    """The model of `config` with the shapes of its weights and no memory for them, however large;
    a plugged-in one, which may look at its weights, as `build_model` makes it. Raises as it does.
    """
    device = "meta" if config.plugged_code is None else "cpu"
    return build_model(config, shape, classes, seed=0, device=device)


def _check_prunable(config: Model, built: nn.Module) -> None:
    try:
        weights = prunable(built)
    except ValueError as error:
        raise PluginError(f"{config.where()}: {config.name}: {error}") from error
    if not weights:
        raise PluginError(f"{config.where()}: {config.name} has no weight that can be pruned")
    for name, weight in weights.items():
        if weight.ndim == 0:
            raise PluginError(
                f"{config.where()}: {config.name} prunes {name}, which is a single number; "
                "let prunes(name, parameter) be False for it"
            )


def check_model(config: Model, built: nn.Module, shape: Shape, classes: int) -> None:
    """Raise PluginError unless the model maps two images of `shape` to logits [2, classes], in
    evaluation and in training, and all of its state are tensors.

    Statistics that it keeps in training move.
    """
    for training in (False, True):
        logits = _logits(config, built, shape, training)
        found = tuple(getattr(logits, "shape", ()))
        if found != (2, classes):
            raise PluginError(
                f"{config.where()}: {config.name} maps 2 images to "
                f"{found or type(logits).__name__}{' in training' if training else ''}; "
                f"it must give logits of the shape (2, {classes}), one for each class"
            )
    for name, value in built.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise PluginError(
                f"{config.where()}: {config.name} has {name} in its state_dict, which is "
                f"{type(value).__name__} and no tensor, and cannot be stored"
            )


def _logits(config: Model, model: nn.Module, shape: Shape, training: bool) -> Any:
    """What the model makes of two images of zeros; raises PluginError."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return model.train(training)(torch.zeros(2, *shape))
    except Exception as error:  # whatever a network of a user's raises
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise PluginError(
            f"{config.where()}: {config.name} cannot take images of {'x'.join(map(str, shape))} "
            f"(channels x height x width): {reason}"
        ) from error
    finally:
        for module, training in modes:
            module.training = training
