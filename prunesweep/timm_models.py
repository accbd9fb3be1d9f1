"""timm's networks: `plugins: [prunesweep.timm_models]`.

It needs `pip install prunesweep[timm]`.

`model: timm:resnet18` is the network of that name, without trained weights. `img_size` is passed to
networks that are made for one size of images, such as vision transformers.
"""

from difflib import get_close_matches
from typing import Any

from torch import nn

from prunesweep import Shape
from trainables.models.entry import MODEL
from trainables.torchvision_import import import_torchvision

__version__ = "1"


@MODEL.named("timm:")
def timm(
    shape: Shape, classes: int, name: str, *, img_size: bool = False, drop_rate: float = 0.0
) -> nn.Module:
    """A network of timm's by its name there, with its own initial weights; nothing is downloaded.

    Maps images [N, C, H, W] to logits [N, classes]. Raises ValueError when there is none.
    """
    import_torchvision()  # which timm imports
    try:
        from timm import create_model, list_models
    except ImportError as error:
        raise ValueError("timm:… needs timm: pip install 'prunesweep[timm]'") from error
    known = list_models()
    if name not in known:
        close = get_close_matches(name, known, n=1)
        hint = f"; did you mean timm:{close[0]}?" if close else ""
        raise ValueError(f"timm has no network {name}{hint}")
    options: dict[str, Any] = {"img_size": shape[1:]} if img_size else {}
    return create_model(
        name,
        pretrained=False,
        num_classes=classes,
        in_chans=shape[0],
        drop_rate=drop_rate,
        **options,
    )
