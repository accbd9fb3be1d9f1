"""ProsPr: how much the loss after some training depends on a weight."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_at_init import flat, random_data, score
from test_lineage_sketching import data, kept, lineage, run
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.models import prunable
from trainables.plugins.entry import built_in
from trainables.pruning.criterion import CRITERION
from trainables.pruning.scoring import Batch, Scoring
from trainables.pruning.scoring_data import scoring_batches
from trainables.sparsity.masks import Masks, dense_masks
from trainables.training.batches import DeviceData
from trainables.training.randomness import stream

__all__ = ["data"]


def scores(model: nn.Module, masks: Masks, *batches: Batch, steps: int, lr: float) -> Masks:
    chosen: Any = built_in(CRITERION)["prospr"]
    config = chosen(name="prospr", inner_steps=steps, inner_lr=lr)
    return config(Scoring(model, masks, batches))


def test_of_four_weights_worked_out_by_hand() -> None:
    """Two images (1, 0) of class 0, whose classes have the same weight, 2: the probability of the
    wrong one is p = 0.5, and after a step of 1 it is p' = σ(−1), as the weights are p apart on both
    sides. The slope of its loss by w is p'(1 − 2p(1 − p)) = 0.134. Nobody sees the other pixel."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False)).double()
    model[0].weight.data = torch.tensor([[2.0, 3.0], [2.0, -1.0]], dtype=torch.float64)
    images = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    batch = (images, torch.tensor([0, 0]))
    found = scores(model, dense_masks(prunable(model)), batch, steps=1, lr=1.0)
    slope = 0.5 / (1 + math.e)
    torch.testing.assert_close(found["0.weight"], images * 2 * slope)


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)
        )
        model.get_buffer("1.running_var").mul_(2.0)
        return model.double().eval()


def loss_after(model: nn.Module, given: Masks, batches: list[Batch], lr: float) -> float:
    """The loss after plain training on all batches but the last, from weights times `given`."""
    trained = copy.deepcopy(model)
    with torch.no_grad():
        for name, factor in given.items():
            trained.get_parameter(name).mul_(factor)
    for inputs, labels in batches[:-1]:
        trained.zero_grad()
        F.cross_entropy(trained(inputs), labels).backward()
        with torch.no_grad():
            for name, parameter in trained.named_parameters():
                assert parameter.grad is not None
                parameter -= lr * parameter.grad * (given[name] != 0 if name in given else 1)
    inputs, labels = batches[-1]
    return F.cross_entropy(trained(inputs), labels).item()


@pytest.mark.parametrize("pruned", [False, True])
def test_a_score_is_the_difference_that_a_mask_makes_to_the_trained_loss(pruned: bool) -> None:
    model, generator = network(), stream(0, "test")
    masks = dense_masks(prunable(model))
    if pruned:
        masks["0.weight"][:, 1] = False
        model.get_parameter("0.weight").data[:, 1] = 0.0
    chunks = scoring_batches(random_data(), "real", 34, generator)
    inputs, labels = (torch.cat(each) for each in zip(*chunks, strict=True))
    # 34 examples in four parts: the first two have one more.
    batches = [*zip(inputs.split([9, 9, 8, 8]), labels.split([9, 9, 8, 8]), strict=True)]
    found = scores(model, masks, *chunks, steps=3, lr=0.3)
    factors = {name: mask.double() for name, mask in masks.items()}
    for name, place in (("0.weight", 4), ("0.weight", 21), ("0.weight", 40), ("4.weight", 7)):
        losses = []
        for step in (1e-5, -1e-5):
            moved = {n: factor.clone() for n, factor in factors.items()}
            if masks[name].flatten()[place]:
                moved[name].view(-1)[place] += step
            losses.append(loss_after(model, moved, batches, 0.3))
        expected = abs(losses[0] - losses[1]) / 2e-5
        assert float(found[name].flatten()[place]) == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_without_a_step_it_would_be_snip() -> None:
    model, generator = network(), stream(0, "test")
    masks = dense_masks(prunable(model))
    chunks = scoring_batches(random_data(), "real", 40, generator)
    inputs, labels = (torch.cat(each) for each in zip(*chunks, strict=True))
    found = scores(model, masks, (inputs, labels), steps=1, lr=1e-9)
    snip: dict[str, Tensor] = score("snip", model, masks, (inputs[20:], labels[20:]))
    torch.testing.assert_close(flat(found) * 20, flat(snip), rtol=1e-6, atol=1e-9)
    assert not torch.allclose(
        flat(scores(model, masks, (inputs, labels), steps=1, lr=0.5)) * 20, flat(snip), rtol=0.01
    )


def test_a_criterion_leaves_the_network_it_is_given_alone() -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    chunks = scoring_batches(random_data(), "real", 40, stream(0, "test"))
    scores(model, dense_masks(prunable(model)), *chunks, steps=2, lr=0.1)
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_fewer_examples_than_batches_are_refused() -> None:
    model = network()
    chunks = scoring_batches(random_data(), "real", 3, stream(0, "test"))
    with pytest.raises(ValueError, match="examples: 3 is fewer than the 4 batches of prospr"):
        scores(model, dense_masks(prunable(model)), *chunks, steps=3, lr=0.1)


def test_it_is_trained_and_a_criterion_of_iterative_methods(
    data: DeviceData, tmp_path: Path
) -> None:
    (metrics,) = run(lineage("prospr", density=0.1, examples=64), data, tmp_path)
    assert (metrics["iteration"], metrics["params_kept"]) == (1, kept(0.1))
    ticket = lineage("nm", criterion={"name": "prospr", "examples": 64, "inner_steps": 1})
    rows = run(ticket, data, tmp_path)
    assert 2 * rows[-1]["params_kept"] == rows[-1]["params_prunable"]
