"""Initial weights that come from a file: the storage keeps them by the file's content, from where
every worker has them."""

from __future__ import annotations

from collections.abc import Iterable

from trainables.config import ContentFile
from trainables.errors import Hopeless, UserError
from trainables.lazy_torch import nn
from trainables.lineage.identity import weights_key
from trainables.lineage.keys import Lineage
from trainables.models.weights import read_weights
from trainables.store import NotCommitted, Store, snapshot_path
from trainables.store.artifacts import WEIGHTS, encode_tensors, read_tensors


class NoInitialWeights(UserError, Hopeless):
    """The weights of a file are not in the storage."""


def files_of(lineages: Iterable[Lineage]) -> dict[str, ContentFile]:
    """The files that initial weights of the lineages come from, by their contents."""
    found = dict.fromkeys(line.cell.model.initial_weights for line in lineages)
    return {file.content: file for file in found if file is not None and file.content is not None}


def kept_path(content: str) -> str:
    """Where a storage keeps the weights of a file with this content."""
    return snapshot_path(weights_key(content))


def keep(store: Store, file: ContentFile) -> None:
    """Commit the weights of `file`, unless they are there. Raises ValueError as `read_weights`."""
    assert file.content is not None
    path = kept_path(file.content)
    if not store.is_committed(path):
        store.commit(path, {WEIGHTS: encode_tensors(read_weights(file))})


def load_kept(store: Store, content: str, model: nn.Module) -> None:
    """Give `model` the kept weights of that content. Raises NoInitialWeights, and Damaged."""
    try:
        found = read_tensors(store, kept_path(content))
    except NotCommitted as error:
        raise NoInitialWeights(
            f"the storage has not the initial weights of the file {content}; run the sweep again, "
            "which puts them there"
        ) from error
    model.load_state_dict(found)
