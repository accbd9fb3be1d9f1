"""What a model is: a function from the images' shape and the number of classes to a network."""

from __future__ import annotations

from trainables.config import ContentFile
from trainables.lazy_torch import nn
from trainables.models.shape import Shape
from trainables.plugins.entry import Entry, Kind


class Model(Entry):
    """A network by name; called with the images' shape and the number of classes, it gives one
    that maps images [N, *shape] to logits [N, classes].

    With a file of `initial_weights`, training starts from those, whatever the seed, and not from
    the ones that it is made with.
    """

    initial_weights: ContentFile | None = None

    def __call__(self, shape: Shape, classes: int) -> nn.Module:
        return self.call(shape, classes)


MODEL = Kind("model", Model, ("shape", "classes"), ("trainables.models",))
model = MODEL.register
