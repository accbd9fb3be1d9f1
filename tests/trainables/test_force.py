"""FORCE: SNIP in rounds, in which weights can come back."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from test_lineage_sketching import data, kept, lineage, masks_of, run
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from trainables.lineage.keeping import StoreOptions
from trainables.models import prunable
from trainables.pruning import Method, MethodConfig, Network
from trainables.pruning.methods.force import FORCE
from trainables.pruning.scoring_data import scoring_batches
from trainables.sparsity.masks import Masks, dense_masks, kept_counts
from trainables.training.batches import DeviceData, Examples

__all__ = ["data"]


def method(name: str = "force", **options: Any) -> Method:
    given = {"name": name, "density": 0.2, "examples": 40, **options}
    return TypeAdapter(MethodConfig).validate_python(given)


def given_to(net: nn.Module, data: DeviceData, seed: int = 0) -> Network:
    return Network(net, dense_masks(prunable(net)), data, seed, iteration=1)


def places(masks: Masks) -> list[int]:
    return torch.cat([mask.flatten() for mask in masks.values()]).nonzero().flatten().tolist()


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))


def test_of_four_weights_one_comes_back() -> None:
    """Two images of two pixels, (1, 0) of class 0 and (0, 1) of class 1: the slope of a weight is
    the probability of the wrong class of the image that it sees, σ(1 − 5) = 0.018 and
    σ(0.5 − 1) = 0.378. The scores are 0.09, 0.19, 0.02 and 0.38, and the second and the fourth
    stay. Then the first image has the wrong class by 0.5: the first weight scores 2.5."""
    images = torch.tensor([[255, 0], [0, 255]], dtype=torch.uint8).reshape(2, 1, 1, 2)
    mean, std = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    two = Examples(images, torch.tensor([0, 1]), mean, std)
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    net[1].weight.data = torch.tensor([[5.0, 0.5], [1.0, 1.0]])
    given = given_to(net, DeviceData((1, 1, 2), 2, two, two, None))
    assert places(method(density=0.5, examples=2, rounds=1)(given)) == [1, 3]
    assert places(method(density=0.25, examples=2, rounds=2)(given)) == [0]
    assert places(method("snip", density=0.25, examples=2, rounds=2)(given)) == [3]


def test_a_round_scores_the_weights_of_all_at_the_pruned_network(data: DeviceData) -> None:
    net = network()
    given = given_to(net, data)
    config = method(rounds=3)
    assert isinstance(config, FORCE)
    batches = scoring_batches(data, "real", 40, given.stream("scoring data", "force"))
    inputs, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    twin = network().double().eval()
    state = {name: tensor.detach() for name, tensor in twin.named_parameters()}
    names = [*given.masks]
    kept_ = torch.ones(592, dtype=torch.bool)
    came_back = 0
    for count in config.kept_after_rounds(592):
        parts = kept_.split([512, 80])
        masked = {
            n: (state[n] * m.view_as(state[n])).requires_grad_()
            for n, m in zip(names, parts, strict=True)
        }
        found = F.cross_entropy(functional_call(twin, state | masked, (inputs,)), labels)
        slopes: Any = torch.autograd.grad(found, [*masked.values()])
        scores = torch.cat([(state[n] * g).flatten() for n, g in zip(names, slopes, strict=True)])
        now = torch.zeros(592, dtype=torch.bool)
        now[scores.abs().topk(count).indices] = True
        came_back += int((now & ~kept_).sum())
        kept_ = now
    assert came_back
    assert places(config(given)) == kept_.nonzero().flatten().tolist()


def test_the_first_round_is_that_of_snip(data: DeviceData) -> None:
    given = given_to(network(), data)

    class Same(Network):
        """Whose scoring data is the same for every method."""

        def stream(self, *labels: str | int) -> torch.Generator:
            return torch.Generator().manual_seed(3)

    same = Same(**vars(given))
    assert places(method(rounds=1)(same)) == places(method("snip", rounds=1)(same))


@pytest.mark.parametrize("layers", ["global", "uniform"])
def test_the_network_stays_as_it_was_and_counts_are_exact(layers: str, data: DeviceData) -> None:
    net = network()
    before: dict[str, Tensor] = {name: t.clone() for name, t in net.state_dict().items()}
    found = method(rounds=5, layer_densities=layers)(given_to(net, data))
    assert all(torch.equal(net.state_dict()[name], before[name]) for name in before)
    assert sum(kept_counts(found).values()) == 119
    if layers == "uniform":
        assert [*kept_counts(found).values()] == [103, 16]


def test_scores_that_are_no_numbers_are_refused(data: DeviceData) -> None:
    net = network()
    net.get_parameter("1.weight").data[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"force: not all scores of 1\.weight are finite"):
        method()(given_to(net, data))


def test_it_is_trained_and_its_scores_are_kept(data: DeviceData, tmp_path: Path) -> None:
    one = lineage("force", density=0.1, examples=64, rounds=6)
    (metrics,) = run(one, data, tmp_path, keeping=StoreOptions(keep_scores=20))
    assert (metrics["iteration"], metrics["params_kept"]) == (1, kept(0.1))
    assert sum(kept_counts(masks_of(tmp_path, one.keys[0])).values()) == kept(0.1)
