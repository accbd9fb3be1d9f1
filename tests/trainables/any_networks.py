"""A plug-in of networks with layers of every sort, for images of 8x8 and ten classes."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm

from prunesweep import Shape, model


def rows(images: Tensor) -> Tensor:
    """The images as sequences [N, 8, 8] of their rows."""
    return images.flatten(1).unflatten(1, (8, 8))


class Rows(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return rows(images)


@model
def dropout(shape: Shape, classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 12), nn.LayerNorm(12), nn.ReLU(), nn.Dropout(0.3),
        nn.Linear(12, classes),
    )  # fmt: skip


@model
def grouped(shape: Shape, classes: int) -> nn.Module:
    """A grouped and a depthwise convolution."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4), nn.ReLU(),
        nn.Conv2d(8, 8, 2, groups=8, bias=False), nn.BatchNorm2d(8), nn.Flatten(),
        nn.Linear(8, classes),
    )  # fmt: skip


@model
def conv1d(shape: Shape, classes: int) -> nn.Module:
    return nn.Sequential(
        Rows(), nn.Conv1d(8, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, classes)
    )


@model
def conv3d(shape: Shape, classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 1)), nn.Conv3d(1, 4, (1, 3, 3), stride=(1, 2, 2)), nn.ReLU(),
        nn.Flatten(), nn.Linear(36, classes),
    )  # fmt: skip


class TiedLinears(nn.Module):
    """Two layers with one weight."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.head = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.first(rows(images)).relu()
        return self.head(self.second(hidden).relu().flatten(1))


@model
def tied_linears(shape: Shape, classes: int) -> nn.Module:
    return TiedLinears(classes)


class TiedEmbedding(nn.Module):
    """Pixels as tokens; the embedding's weight is that of a later layer, which has no other."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 6)
        self.decoder = nn.Linear(6, 9)
        self.decoder.weight = self.embedding.weight
        self.head = nn.Linear(9 * 8, classes)

    def forward(self, images: Tensor) -> Tensor:
        tokens = rows(images).mul(2).round().clamp(-4, 4).long() + 4
        return self.head(self.decoder(self.embedding(tokens).mean(1)).flatten(1))


@model
def tied_embedding(shape: Shape, classes: int) -> nn.Module:
    return TiedEmbedding(classes)


class Attention(nn.Module):
    """Rows that attend to those before them, with buffers that are in no state dict."""

    position: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, classes)
        later = torch.full((8, 8), -torch.inf).triu(1)
        self.register_buffer("later", later, persistent=False)
        self.register_buffer("used", torch.ones(8, 1, dtype=torch.bool), persistent=False)
        self.register_buffer("position", torch.linspace(-1, 1, 64).view(8, 8), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        x = rows(images) + self.position
        mixed, _ = self.attention(x, x, x, attn_mask=self.later, need_weights=False)
        return self.head((mixed * self.used).mean(1))


@model
def attention(shape: Shape, classes: int) -> nn.Module:
    return Attention(classes)


class First(nn.Module):
    def forward(self, sequence: Tensor) -> Tensor:
        return sequence[:, 0]


@model
def encoder_layer(shape: Shape, classes: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.Sequential(Rows(), nn.Linear(8, 8), layer, First(), nn.Linear(8, classes))


class Recurrent(nn.Module):
    """An LSTM, whose weights are pruned as well."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.head = nn.Linear(6, classes)

    def prunes(self, name: str, parameter: nn.Parameter) -> bool:
        return "weight" in name

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.lstm(rows(images))[0][:, -1])


@model
def recurrent(shape: Shape, classes: int) -> nn.Module:
    return Recurrent(classes)


@model
def lazy(shape: Shape, classes: int) -> nn.Module:
    return nn.Sequential(
        nn.LazyConv2d(4, 3, stride=2), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(),
        nn.LazyLinear(classes),
    )  # fmt: skip


class Normed(nn.Module):
    """Weights computed from parameters in torch's two ways; `prunes` chooses. It keeps what it
    computed."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.hidden = parametrizations.spectral_norm(nn.Linear(64, 8))
        self.older = spectral_norm(nn.Linear(8, 8))
        self.head = nn.Linear(8, classes)
        self(torch.ones(2, 64))

    def prunes(self, name: str, parameter: nn.Parameter) -> bool:
        return name.endswith(("original", "weight_orig", "head.weight"))

    def forward(self, images: Tensor) -> Tensor:
        self.features = self.older(self.hidden(images.flatten(1)).relu()).relu()
        return self.head(self.features)


@model
def normed(shape: Shape, classes: int) -> nn.Module:
    return Normed(classes)


class SharedNorm(nn.Module):
    """One BatchNorm in two places, so that its buffers have two names each."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 8), nn.Linear(8, 8, bias=False)
        self.norm = self.again = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.norm(self.first(images.flatten(1))).relu()
        return self.head(self.again(self.second(hidden)).relu())


@model
def shared_norm(shape: Shape, classes: int) -> nn.Module:
    return SharedNorm(classes)


@model
def frozen(shape: Shape, classes: int) -> nn.Module:
    """Random features, which are pruned, and not trained."""
    features = nn.Linear(64, 12).requires_grad_(False)
    return nn.Sequential(nn.Flatten(), features, nn.ReLU(), nn.Linear(12, classes))


# What cannot work.


@model
def computed_weight(shape: Shape, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), parametrizations.weight_norm(nn.Linear(64, classes)))


class Scaled(nn.Linear):
    """It would prune its scale."""

    def __init__(self, classes: int) -> None:
        super().__init__(64, classes)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def prunes(self, name: str, parameter: nn.Parameter) -> bool:
        return True

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.flatten(1)) * self.scale


@model
def scaled(shape: Shape, classes: int) -> nn.Module:
    return Scaled(classes)


class TwoHeads(nn.Module):
    """It gives two logits in training."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        logits = self.head(images.flatten(1))
        return (logits, logits) if self.training else logits


@model
def two_heads(shape: Shape, classes: int) -> nn.Module:
    return TwoHeads(classes)


class Noting(nn.Linear):
    """It keeps a text in its state."""

    def get_extra_state(self) -> str:
        return "a note"

    def set_extra_state(self, state: str) -> None: ...

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.flatten(1))


@model
def noting(shape: Shape, classes: int) -> nn.Module:
    return Noting(64, classes)


@model
def lazy_misfit(shape: Shape, classes: int) -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(4, 9), nn.LazyLinear(classes))
