"""The decorator of methods."""

from typing import Any, TypeVar

from trainables.pruning.iterative import ByFunction
from trainables.pruning.method import METHOD

Thing = TypeVar("Thing", bound=Any)


def method(thing: Thing) -> Thing:
    """Makes a config class, or a function, a method.

    A class derives from `Iterative` or `Method`, and from the parts whose options it has. A
    function is called with the `Network` at every iteration, its options as keywords, and gives
    the masks of what is to be kept. Raises PluginError.
    """
    given: Any = thing
    if isinstance(given, type):
        METHOD.register(given)
    else:
        METHOD.made_of(given, given.__name__, ByFunction)
    return thing
