"""torchvision's classification networks: `plugins: [prunesweep.torchvision_models]`.

`model: torchvision:resnet18` is the network of that name, without trained weights. Most are made
for images of 224x224 and halve smaller ones down to nothing; `plan` says so.
"""

from difflib import get_close_matches

from torch import nn

from prunesweep import Shape
from trainables.models.channels import with_channels
from trainables.models.entry import MODEL
from trainables.torchvision_import import import_torchvision

__version__ = "1"


@MODEL.named("torchvision:")
def torchvision(shape: Shape, classes: int, name: str) -> nn.Module:
    """A network of torchvision's by its name there, with its own initial weights.

    Maps images [N, C, H, W] to logits [N, classes]. Raises ValueError when there is none.
    """
    models = import_torchvision().models
    known = models.list_models(module=models)
    if name not in known:
        close = get_close_matches(name, known, n=1)
        hint = f"did you mean torchvision:{close[0]}?" if close else f"known: {', '.join(known)}"
        raise ValueError(f"torchvision has no network {name}; {hint}")
    # These give more than logits in training.
    options = {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    network = models.get_model(name, weights=None, num_classes=classes, **options)
    return with_channels(network, shape[0])
