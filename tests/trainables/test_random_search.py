"""Random search: of many random sparse networks, the one that is best before training."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from test_lineage_sketching import data, kept, lineage, masks_of, run
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from trainables.models import prunable
from trainables.pruning import MethodConfig, Network
from trainables.pruning.methods.random_search import RandomSearch
from trainables.pruning.scoring_data import scoring_batches
from trainables.sparsity.masks import Masks, dense_masks, kept_counts
from trainables.training.batches import DeviceData, Examples

__all__ = ["data"]


def method(**options: Any) -> RandomSearch:
    given = {"name": "random_search", "density": 0.2, "examples": 40, **options}
    found = TypeAdapter(MethodConfig).validate_python(given)
    assert isinstance(found, RandomSearch)
    return found


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))


def given_to(net: nn.Module, data: DeviceData, seed: int = 0) -> Network:
    return Network(net, dense_masks(prunable(net)), data, seed, iteration=1)


def places(masks: Masks) -> list[int]:
    return torch.cat([mask.flatten() for mask in masks.values()]).nonzero().flatten().tolist()


@pytest.mark.parametrize(("score", "best"), [("loss", 2), ("accuracy", 3)])
def test_of_four_weights_the_best_alone_stays(score: str, best: int) -> None:
    """Two images of two pixels, (1, 0) of class 0 and (0, 1) of class 1. Alone, the weights
    1, 3, −2 and 1 have the losses 1.01, 3.74, 0.82 and 1.01, log 2 = 0.69 of each for the image
    that they do not see; the last is the only one by which both images are classified."""
    images = torch.tensor([[255, 0], [0, 255]], dtype=torch.uint8).reshape(2, 1, 1, 2)
    mean, std = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    two = Examples(images, torch.tensor([0, 1]), mean, std)
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    net[1].weight.data = torch.tensor([[1.0, 3.0], [-2.0, 1.0]])
    config = method(density=0.25, examples=2, candidates=64, score=score)
    assert places(config(given_to(net, DeviceData((1, 1, 2), 2, two, two, None)))) == [best]


@pytest.mark.parametrize("score", ["loss", "accuracy"])
@pytest.mark.parametrize("layers", ["global", "erk"])
def test_the_best_of_all_candidates_is_taken(score: str, layers: str, data: DeviceData) -> None:
    config = method(score=score, candidates=12, layer_densities=layers)
    given = given_to(network(), data)
    draws = given.stream("candidates", "random_search")
    drawn = [config._drawn(given.masks, 119, draws) for _ in range(12)]
    assert all(sum(kept_counts(each).values()) == 119 for each in drawn)
    assert len({tuple(places(each)) for each in drawn}) == 12
    batches = scoring_batches(data, "real", 40, given.stream("scoring data", "random_search"))
    inputs, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    costs = []
    for masks in drawn:
        state = {n: t.double() for n, t in given.model.state_dict().items()}
        logits = functional_call(
            given.model.double(), {n: state[n] * masks.get(n, 1) for n in state}, (inputs,)
        )
        right = (logits.argmax(dim=1) == labels).sum().item()
        costs.append(F.cross_entropy(logits, labels).item() if score == "loss" else -right)
    given.model.float()
    best = costs.index(min(costs))
    assert places(config(given)) == places(drawn[best])
    # One more candidate is drawn after those before it.
    (first, second) = (places(method(score=score, candidates=n, layer_densities=layers)(given))
                       for n in (1, 2))  # fmt: skip
    assert first == places(drawn[0])
    assert second == places(drawn[costs.index(min(costs[:2]))])


def test_the_seed_decides(data: DeviceData) -> None:
    config, net = method(candidates=5), network()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    one, again, other = (places(config(given_to(net, data, seed))) for seed in (0, 0, 1))
    assert one == again
    assert one != other
    assert all(torch.equal(net.state_dict()[name], before[name]) for name in before)


def test_the_best_is_trained(data: DeviceData, tmp_path: Path) -> None:
    one = lineage("random_search", density=0.1, candidates=8, examples=64)
    (metrics,) = run(one, data, tmp_path)
    assert (metrics["iteration"], metrics["params_kept"]) == (1, kept(0.1))
    assert sum(kept_counts(masks_of(tmp_path, one.keys[0])).values()) == kept(0.1)
    assert run(one, data, tmp_path) == []
    others = ({"candidates": 9}, {"score": "accuracy"}, {"layer_densities": "erk"})
    given = {"density": 0.1, "candidates": 8, "examples": 64}
    keys = {lineage("random_search", **(given | each)).keys for each in others}
    assert len(keys | {one.keys}) == 4
