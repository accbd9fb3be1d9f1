"""The decorator of methods."""

from typing import Any, TypeVar

from trainables.plugins.entry import attach
from trainables.pruning.iterative import ByFunction
from trainables.pruning.method import METHOD

Thing = TypeVar("Thing", bound=Any)


def method(thing: Thing) -> Thing:
    """Makes a config class, or a function, a method.

    A class derives from `Iterative` or `Method`, and from the parts whose options it has. A
    function is called with the `Network` at every iteration, its options as keywords, and gives
    the masks of what is to be kept. Raises PluginError.
    """
    if isinstance(thing, type):
        return METHOD.register(thing)
    config = METHOD.config_of(thing, thing.__name__, ByFunction)
    attach(thing, "config", config)
    METHOD.adopt(config, thing.__name__)
    return thing
