"""Pruning at initialization: scores and masks against the methods' published code, against finite
differences and against their definitions."""

import copy
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from trainables.models import prunable
from trainables.plugins.entry import built_in
from trainables.pruning import MethodConfig, Network
from trainables.pruning.amount import kept_count
from trainables.pruning.at_init import AtInit
from trainables.pruning.criterion import CRITERION, Criterion
from trainables.pruning.scoring import Batch, Scoring
from trainables.pruning.scoring_data import CHUNK, flow_input, scoring_batches
from trainables.pruning.selection import keep_highest
from trainables.sparsity.masks import Masks, apply_masks, dense_masks, kept_counts
from trainables.training.batches import DeviceData, Examples
from trainables.training.randomness import stream

RELATIVE = 1e-4
"""How far scores may be from the published code's."""

ROUNDING = 1e-5
"""The error of a float32 sum over examples and pixels, as a share of its layer's largest score: a
score far smaller than that is a sum that cancels, and its own size says nothing of its error."""

TEMPERATURE = 200.0
NETS = ["mlp", "convnet"]
DENSITIES = ["0.5", "0.1", "0.02"]


def method(name: str, **options: Any) -> AtInit:
    examples = {"examples": 48} if name in ("snip", "grasp", "ntk", "prospr") else {}
    given = {"name": name, "density": 0.1, **examples, **options}
    found = TypeAdapter(MethodConfig).validate_python(given)
    assert isinstance(found, AtInit)
    return found


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def score(criterion: str, model: nn.Module, masks: Masks, *batches: Batch) -> dict[str, Tensor]:
    chosen = built_in(CRITERION)[criterion](name=criterion)
    assert isinstance(chosen, Criterion)
    return chosen(Scoring(model, masks, batches, stream(0, "test")))


def prune_at_init(config: AtInit, model: nn.Module, data: DeviceData, seed: int) -> Masks:
    return config(Network(model, dense_masks(prunable(model)), data, seed, iteration=1))


# Against the published code


def network(name: str) -> nn.Sequential:
    if name == "mlp":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(),
            nn.Linear(32, 10),
        )  # fmt: skip
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip


class Published:
    """One of the nets that the published code has scored, and what it found."""

    def __init__(self, folder: Path, name: str) -> None:
        with np.load(folder / f"pai_{name}_seed0.npz") as arrays:
            self.arrays = {key: torch.from_numpy(arrays[key]) for key in arrays}
        self.model = network(name)
        self.model.load_state_dict(self.under("state"))
        self.masks = dense_masks(prunable(self.model))
        self.scored = copy.deepcopy(self.model).double().eval()

    def under(self, key: str) -> dict[str, Tensor]:
        return {k[len(key) + 1 :]: v for k, v in self.arrays.items() if k.startswith(f"{key}/")}

    def ours(self, criterion: str) -> dict[str, Tensor]:
        inputs, labels = self.arrays["x"].double(), self.arrays["y"]
        if criterion == "synflow":
            return score(criterion, self.scored, self.masks, (torch.ones_like(inputs[:1]), labels))
        halves = zip(inputs.split(32), labels.split(32), strict=True)
        return score(criterion, self.scored, self.masks, *halves)

    def normalized(self, criterion: str, scores: dict[str, Tensor]) -> dict[str, Tensor]:
        """As in the published code, where the loss is a mean over examples."""
        divisor: Tensor | float = 1.0
        if criterion == "snip":
            divisor = flat(scores).sum()
        if criterion == "grasp":
            mean = flat(scores).sum().abs() / len(self.arrays["y"]) ** 2
            # 1e-10 guards its division; it is 3e-4 of the sum of the convnet's scores.
            divisor = (mean + 1e-10) * len(self.arrays["y"]) ** 2
        return {name: values / divisor for name, values in scores.items()}


@pytest.fixture(scope="module", params=NETS)
def published(request: pytest.FixtureRequest, oracles: Path) -> Published:
    return Published(oracles, request.param)


def assert_scores_agree(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert list(ours) == list(theirs)
    for name, values in ours.items():
        floor = ROUNDING * float(theirs[name].abs().max())
        torch.testing.assert_close(values, theirs[name].double(), rtol=RELATIVE, atol=floor)


def assert_masks_agree(ours: Masks, theirs: Masks, scores: dict[str, Tensor]) -> None:
    """Equal, except among weights whose score is within the tolerance of the lowest kept one."""
    assert kept_counts(ours).keys() == kept_counts(theirs).keys()
    assert int(flat(ours).sum()) == int(flat(theirs).sum())
    threshold = flat(scores)[flat(ours)].min()
    tied = (flat(scores) - threshold).abs() <= RELATIVE * threshold.abs()
    assert bool((tied | (flat(ours) == flat(theirs))).all())


@pytest.mark.parametrize("criterion", ["magnitude", "snip", "grasp", "synflow"])
def test_scores_are_those_of_the_published_code(criterion: str, published: Published) -> None:
    ours = published.normalized(criterion, published.ours(criterion))
    assert_scores_agree(ours, published.under(f"score/{criterion}/eval"))


@pytest.mark.parametrize("criterion", ["magnitude", "snip", "grasp", "synflow"])
@pytest.mark.parametrize("density", DENSITIES)
def test_masks_are_those_of_the_published_code(
    criterion: str, density: str, published: Published
) -> None:
    scores = published.ours(criterion)
    count = kept_count(float(density), len(flat(scores)))
    theirs = published.under(f"mask/{criterion}/iters1/density{density}")
    assert_masks_agree(keep_highest(scores, published.masks, count), theirs, scores)


def test_grasp_with_its_sign_turned_is_told_apart(published: Published) -> None:
    scores = published.ours("grasp")
    turned = {name: -values for name, values in scores.items()}
    with pytest.raises(AssertionError):
        assert_scores_agree(
            published.normalized("grasp", turned), published.under("score/grasp/eval")
        )
    for density in DENSITIES:
        count = kept_count(float(density), len(flat(scores)))
        theirs = published.under(f"mask/grasp/iters1/density{density}")
        with pytest.raises(AssertionError):
            assert_masks_agree(keep_highest(turned, published.masks, count), theirs, turned)


@pytest.mark.parametrize("rounds", [1, 100])
@pytest.mark.parametrize("density", DENSITIES)
def test_synflow_masks_are_those_of_the_published_code(
    rounds: int, density: str, published: Published
) -> None:
    shape = tuple(published.arrays["x"].shape[1:])
    config = method("synflow", density=float(density), rounds=rounds)
    ours = prune_at_init(config, published.model, random_data(shape), seed=0)
    theirs = published.under(f"mask/synflow/iters{rounds}/density{density}")
    assert_masks_agree(ours, theirs, masked_scores("synflow", published, ours))


def masked_scores(criterion: str, published: Published, masks: Masks) -> dict[str, Tensor]:
    model = copy.deepcopy(published.scored)
    apply_masks(model, masks)
    ones = torch.ones_like(published.arrays["x"][:1].double())
    return score(criterion, model, masks, (ones, published.arrays["y"]))


@pytest.mark.parametrize("criterion", ["snip", "grasp"])
def test_weights_would_come_back_without_the_rule_that_none_does(
    criterion: str, published: Published
) -> None:
    """SynFlow's published code scores pruned weights like any other. Iterated, it takes some back
    with SNIP, whose scores there are those of the unpruned weight, and with GraSP, where a pruned
    weight's 0 is above the negative scores. Until it takes one back, the two rules agree."""
    config = method(criterion, density=0.5, rounds=5)
    ours, theirs = published.masks, published.masks
    returned = 0
    for count in config.kept_after_rounds(len(flat(published.masks))):
        ours = keep_highest(iterated(criterion, published, ours), ours, count)
        scores = iterated(criterion, published, theirs)
        after = keep_highest(scores, published.masks, count)
        returned += int((flat(after) & ~flat(theirs)).sum())
        theirs = after
        assert returned or bool((flat(ours) == flat(theirs)).all())
    assert returned > 0


def iterated(criterion: str, published: Published, masks: Masks) -> dict[str, Tensor]:
    """Scores of the masked net as the published code has them, pruned weights included."""
    model = copy.deepcopy(published.scored)
    apply_masks(model, masks)
    batch = (published.arrays["x"].double(), published.arrays["y"])
    if criterion == "grasp":
        return score("grasp", model, masks, batch)
    weights = {name: weight.detach() for name, weight in prunable(model).items()}
    dense = prunable(published.scored)
    slopes = slopes_of(model, {n: w.requires_grad_() for n, w in weights.items()}, batch)
    return {name: (dense[name].detach() * slope).abs() for name, slope in slopes.items()}


# Against finite differences


@pytest.fixture
def smooth() -> nn.Module:
    """A float64 net without kinks, with BatchNorm whose statistics are not the initial ones."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        model = nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(),
            nn.Linear(48, 5), nn.Tanh(), nn.Linear(5, 3),
        ).double()  # fmt: skip
        model(torch.randn(8, 2, 4, 4, dtype=torch.float64))
    return model.eval()


@pytest.fixture
def batch() -> Batch:
    generator = stream(0, "batch")
    inputs = torch.randn(70, 2, 4, 4, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(3, (70,), generator=generator)


def half_masks(model: nn.Module) -> Masks:
    generator = stream(0, "masks")
    return {
        name: torch.rand(weight.shape, generator=generator) < 0.5
        for name, weight in prunable(model).items()
    }


def slopes_of(
    model: nn.Module, weights: dict[str, Tensor], batch: Batch, temperature: float = 1.0
) -> dict[str, Tensor]:
    inputs, labels = batch
    logits = functional_call(model, weights, (inputs,)) / temperature
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))


def central_difference(
    f: Callable[[dict[str, Tensor]], Tensor], at: dict[str, Tensor], name: str, index: int
) -> float:
    """∂f/∂m at m = 1 for the weight `index` of `name` times m."""
    step = 1e-5

    def moved(by: float) -> float:
        tensors = {key: tensor.clone() for key, tensor in at.items()}
        tensors[name].view(-1)[index] *= 1 + by
        return float(f(tensors).detach())

    return (moved(step) - moved(-step)) / (2 * step)


@pytest.mark.parametrize("masked", [False, True])
def test_snip_is_the_slope_of_the_loss_along_each_mask_entry(
    masked: bool, smooth: nn.Module, batch: Batch
) -> None:
    masks = half_masks(smooth) if masked else dense_masks(prunable(smooth))
    apply_masks(smooth, masks)
    weights = {name: weight.detach() for name, weight in prunable(smooth).items()}

    def loss(tensors: dict[str, Tensor]) -> Tensor:
        inputs, labels = batch
        logits = functional_call(smooth, tensors, (inputs,))
        return F.cross_entropy(logits, labels, reduction="sum")

    scores = score("snip", smooth, masks, batch)
    for name, values in scores.items():
        for index in range(0, values.numel(), 7):
            slope = central_difference(loss, weights, name, index)
            assert float(values.view(-1)[index]) == pytest.approx(abs(slope), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("masked", [False, True])
def test_grasp_is_the_slope_of_half_the_squared_gradient_along_each_mask_entry(
    masked: bool, smooth: nn.Module, batch: Batch
) -> None:
    """∂(½‖g‖²)/∂m = θ·Hg, g the gradient of the kept weights: a weight with a high score is one
    whose removal makes the gradient smaller, and stays."""
    masks = half_masks(smooth) if masked else dense_masks(prunable(smooth))
    apply_masks(smooth, masks)
    weights = {name: weight.detach() for name, weight in prunable(smooth).items()}

    def half_squared_gradient(tensors: dict[str, Tensor]) -> Tensor:
        leaves = {name: tensor.requires_grad_() for name, tensor in tensors.items()}
        slopes = slopes_of(smooth, leaves, batch, TEMPERATURE)
        return torch.stack([(slopes[n] * masks[n]).square().sum() for n in slopes]).sum() / 2

    def moved(tensors: dict[str, Tensor]) -> Tensor:
        return half_squared_gradient({name: t.detach().clone() for name, t in tensors.items()})

    scores = score("grasp", smooth, masks, batch)
    size = float(flat(scores).abs().max())
    for name, values in scores.items():
        for index in range(0, values.numel(), 7):
            slope = central_difference(moved, weights, name, index)
            found = float(values.view(-1)[index])
            assert found == pytest.approx(slope, rel=1e-5, abs=1e-6 * size)


@pytest.mark.parametrize("criterion", ["snip", "grasp"])
@pytest.mark.parametrize("chunk", [1, 32])
def test_chunks_add_up_to_the_whole_batch(
    criterion: str, chunk: int, smooth: nn.Module, batch: Batch
) -> None:
    masks = half_masks(smooth)
    apply_masks(smooth, masks)
    inputs, labels = batch
    chunks = zip(inputs.split(chunk), labels.split(chunk), strict=True)
    whole, parts = score(criterion, smooth, masks, batch), score(criterion, smooth, masks, *chunks)
    size = float(flat(whole).abs().max())
    torch.testing.assert_close(flat(parts), flat(whole), rtol=1e-10, atol=1e-10 * size)


def test_synflow_of_a_linear_net_is_the_sketching_probability() -> None:
    """Sketching paper §5: with the norms ‖X_(i)‖ as input the score is ‖X_(i)‖·|w_i|."""
    model = nn.Linear(5, 1).double()
    norms = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]], dtype=torch.float64)
    scores = score("synflow", model, dense_masks(prunable(model)), (norms, torch.zeros(1)))
    torch.testing.assert_close(scores["weight"], norms * model.weight.detach().abs())


def test_synflow_takes_buffers_and_biases_by_their_absolute_value() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(1, 1))
    values = {"0.weight": -2.0, "0.bias": -3.0, "1.weight": -0.5, "1.bias": -1.0}
    values |= {"1.running_mean": -4.0, "1.running_var": 4.0, "3.weight": -5.0, "3.bias": 7.0}
    state = {name: torch.full_like(model.state_dict()[name], v) for name, v in values.items()}
    model.load_state_dict(state, strict=False)
    model.double().eval()
    ones = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    scores = score("synflow", model, dense_masks(prunable(model)), (ones, torch.zeros(1)))
    slope = 0.5 / (4 + 1e-5) ** 0.5
    assert float(scores["0.weight"]) == pytest.approx(5 * slope * 2)
    assert float(scores["3.weight"]) == pytest.approx(5 * ((2 + 3 - 4) * slope + 1))


@pytest.mark.parametrize("criterion", ["snip", "grasp", "prospr"])
def test_wide_convolutions_decide_the_masks_that_torchs_do(
    criterion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores differ by rounding, which decides nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU(),
            nn.Conv2d(128, 130, 3, padding=1, stride=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(130, 16, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(16, 10),
        ).double().eval()  # fmt: skip
    masks = dense_masks(prunable(model))
    batches = scoring_batches(random_data((3, 8, 8), 10), "real", 40, stream(0, "test"))
    ours = score(criterion, model, masks, *batches)
    monkeypatch.setattr("trainables.pruning.convolution.CHANNELS", 10**9)
    torchs = score(criterion, model, masks, *batches)
    assert not torch.equal(flat(ours), flat(torchs))
    assert all(scores.is_contiguous() for scores in ours.values())
    for name, scores in ours.items():
        size = float(torchs[name].abs().max())
        torch.testing.assert_close(scores, torchs[name], rtol=0, atol=1e-13 * size)
    for density in map(float, DENSITIES):
        count = kept_count(density, len(flat(ours)))
        kept, expected = (keep_highest(each, masks, count) for each in (ours, torchs))
        assert torch.equal(flat(kept), flat(expected))


# What scoring leaves alone


def random_data(shape: tuple[int, ...] = (2, 4, 4), classes: int = 3, n: int = 50) -> DeviceData:
    generator = stream(0, "images")
    images = torch.randint(256, (n, *shape), generator=generator, dtype=torch.uint8)
    labels = torch.randint(classes, (n,), generator=generator)
    channel = (1, -1, 1, 1)
    mean, std = torch.full((shape[0],), 0.4).view(channel), torch.full((shape[0],), 0.3)
    examples = Examples(images, labels, mean, std.view(channel))
    channels, height, width = shape
    return DeviceData((channels, height, width), classes, examples, examples, None)


ALL = ["random", "magnitude", "snip", "grasp", "synflow", "ntk", "prospr"]


def snapshot(model: nn.Module) -> list[Any]:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients = [p.grad if p.grad is None else p.grad.clone() for p in model.parameters()]
    required = [p.requires_grad for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    return [state, gradients, required, modes, torch.get_rng_state()]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_scoring_leaves_the_network_and_the_random_state_alone(
    name: str, training: bool, smooth: nn.Module
) -> None:
    smooth.train(training)
    smooth.get_submodule("1").eval()
    smooth.get_parameter("0.weight").requires_grad_(False)
    bias = smooth.get_parameter("4.bias")
    bias.grad = torch.ones_like(bias)
    identities = [id(parameter) for parameter in smooth.parameters()]
    before = snapshot(smooth)
    prune_at_init(method(name, rounds=3), smooth, random_data(), seed=0)
    torch.testing.assert_close(snapshot(smooth), before, rtol=0, atol=0)
    assert [id(parameter) for parameter in smooth.parameters()] == identities


@pytest.mark.parametrize("name", [name for name in ALL if name != "prospr"])
def test_a_criterion_leaves_the_network_it_is_given_alone(name: str, smooth: nn.Module) -> None:
    smooth.get_parameter("0.weight").requires_grad_(False)
    before = snapshot(smooth)
    batches = flow_input(random_data(), "chi", stream(0, "chi"))
    score(name, smooth, half_masks(smooth), *batches)
    torch.testing.assert_close(snapshot(smooth), before, rtol=0, atol=0)


# Rounds

configs = st.builds(
    method,
    st.sampled_from(ALL),
    density=st.floats(0, 1, exclude_min=True),
    rounds=st.integers(1, 4),
    schedule=st.sampled_from(["exponential", "linear"]),
    selection=st.sampled_from(["threshold", "sampled"]),
    sampled_rounds=st.sampled_from(["last", "every"]),
)


def tiny() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(32, 6), nn.ReLU(), nn.Linear(6, 3))


@settings(max_examples=60, deadline=None)
@given(configs, st.integers(0, 9))
def test_the_density_is_met_exactly_down_to_one_weight(config: AtInit, seed: int) -> None:
    model = tiny()
    masks = prune_at_init(config, model, random_data(), seed)
    assert {name: mask.shape for name, mask in masks.items()} == {
        name: weight.shape for name, weight in prunable(model).items()
    }
    assert int(flat(masks).sum()) == kept_count(config.density, 32 * 6 + 6 * 3)


@given(configs, st.integers(1, 10**8))
def test_each_round_keeps_no_more_than_the_one_before(config: AtInit, total: int) -> None:
    counts = config.kept_after_rounds(total)
    assert len(counts) == config.rounds
    assert counts == sorted(counts, reverse=True)
    assert total >= counts[0]
    assert counts[-1] == kept_count(config.density, total) >= 1


def test_schedules_are_exponential_and_linear() -> None:
    exponential, linear = (
        [
            method("snip", density=0.01, rounds=4, schedule=schedule).round_density(i)
            for i in (1, 2, 4)
        ]
        for schedule in ("exponential", "linear")
    )
    assert exponential == pytest.approx([0.01**0.25, 0.1, 0.01])
    assert linear == pytest.approx([0.7525, 0.505, 0.01])


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Scoring]:
    """The scorings of the rounds that follow, each with its network as it then was."""
    scorings: list[Scoring] = []
    scores = AtInit.scores

    def recording(config: AtInit, scoring: Scoring) -> dict[str, Tensor]:
        model = copy.deepcopy(scoring.model)
        scorings.append(Scoring(model, scoring.masks, scoring.batches))
        return scores(config, scoring)

    monkeypatch.setattr(AtInit, "scores", recording)
    return scorings


@pytest.mark.parametrize("selection", ["threshold", "sampled"])
@pytest.mark.parametrize("name", ALL)
def test_a_pruned_weight_is_zero_in_later_rounds_and_never_comes_back(
    name: str, selection: str, recorded: list[Scoring]
) -> None:
    config = method(name, rounds=8, selection=selection, sampled_rounds="every")
    last = prune_at_init(config, tiny(), random_data(), seed=0)
    masks = [flat(scoring.masks) for scoring in recorded] + [flat(last)]
    assert [int(mask.sum()) for mask in masks[1:]] == config.kept_after_rounds(210)
    for earlier, later in pairwise(masks):
        assert not bool((later & ~earlier).any())
    for scoring in recorded:
        assert not bool(flat(scoring.weights)[~flat(scoring.masks)].any())
        assert not scoring.model.training
        assert flat(scoring.weights).dtype == torch.float64


def test_examples_are_those_of_every_round_and_chi_is_drawn_anew(
    recorded: list[Scoring],
) -> None:
    prune_at_init(method("snip", rounds=2), tiny(), random_data(), seed=0)
    prune_at_init(method("synflow", rounds=2, data="chi"), tiny(), random_data(), seed=0)
    inputs = [torch.cat([x for x, _ in scoring.batches]) for scoring in recorded]
    assert torch.equal(inputs[0], inputs[1])
    assert not torch.equal(inputs[2], inputs[3])


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("selection", ["threshold", "sampled"])
def test_the_seed_decides_the_masks(name: str, selection: str) -> None:
    config = method(name, selection=selection, rounds=2, sampled_rounds="every")
    one, again, other = (prune_at_init(config, tiny(), random_data(), seed) for seed in (0, 0, 1))
    assert torch.equal(flat(one), flat(again))
    if selection == "sampled":
        assert not torch.equal(flat(one), flat(other))


def test_sampling_at_the_last_round_changes_that_round_only() -> None:
    """What it can change is what the last round prunes."""
    options = {"density": 0.2, "rounds": 20, "schedule": "exponential"}
    before = method("synflow", **options).kept_after_rounds(210)[-2]
    found = {}
    for selection, rounds in (("threshold", "last"), ("sampled", "last"), ("sampled", "every")):
        config = method("synflow", **options, selection=selection, sampled_rounds=rounds)
        found[selection, rounds] = flat(prune_at_init(config, tiny(), random_data(), seed=0))
    threshold, last, every = found.values()
    assert int((last & ~threshold).sum()) <= before - kept_count(0.2, 210)
    assert int((every & ~threshold).sum()) > before - kept_count(0.2, 210)


def test_scores_that_are_no_numbers_are_refused() -> None:
    model = tiny()
    with torch.no_grad():
        model.get_parameter("3.weight").fill_(float("nan"))
    with pytest.raises(ValueError, match=r"synflow: not all scores of 1\.weight are finite"):
        prune_at_init(method("synflow"), model, random_data(), seed=0)


def test_a_weight_that_the_logits_ignore_scores_zero() -> None:
    model = tiny()
    model.add_module("unused", nn.Identity())
    model.get_submodule("unused").register_module("head", nn.Linear(2, 2))
    for name in ("snip", "grasp", "synflow"):
        masks = prune_at_init(method(name, density=0.02), model, random_data(), seed=0)
        assert not bool(masks["unused.head.weight"].any())


# Scoring data


def drawn(kind: str, examples: int = 48, data: DeviceData | None = None) -> Batch:
    generator = stream(0, "test")
    batches = scoring_batches(data or random_data(), kind, examples, generator)  # type: ignore[arg-type]
    assert all(len(labels) <= CHUNK for _, labels in batches)
    inputs, labels = zip(*batches, strict=True)
    return torch.cat(inputs), torch.cat(labels)


def test_real_data_are_distinct_training_examples_as_they_are() -> None:
    data = random_data()
    inputs, labels = drawn("real")
    images = data.train.normalized(data.train.images).double()
    same = (inputs.flatten(1)[:, None] == images.flatten(1)).all(dim=2)
    chosen = same.int().argmax(dim=1)
    assert bool(same.any(dim=1).all())
    assert len(set(chosen.tolist())) == 48
    assert torch.equal(labels, data.train.labels[chosen])


def test_more_examples_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match="examples: 51 of only 50"):
        drawn("real", examples=51)


def test_normal_data_have_the_moments_and_the_classes_of_the_data() -> None:
    inputs, labels = drawn("normal", examples=3000)
    assert inputs.shape == (3000, 2, 4, 4)
    assert inputs.dtype == torch.float64
    assert float(inputs.mean()) == pytest.approx(0, abs=0.02)
    assert float(inputs.std()) == pytest.approx(1, abs=0.02)
    assert torch.bincount(labels).tolist() == pytest.approx([1000] * 3, abs=120)


def test_sparse_data_have_each_location_in_one_image() -> None:
    inputs, _ = drawn("sparse", examples=40, data=random_data((3, 8, 8)))
    assert bool(((inputs != 0).sum(dim=0) == 1).all())
    owners = (inputs != 0).int().argmax(dim=0)
    assert bool((owners == owners[0]).all())
    assert len(owners.unique()) > 20


def test_the_inputs_of_synflow_are_ones_or_norms_of_128_normals() -> None:
    generator, data = stream(0, "test"), random_data((3, 16, 16))
    ((ones, _),), ((chi, _),) = (flow_input(data, kind, generator) for kind in ("ones", "chi"))
    assert torch.equal(ones, torch.ones(1, 3, 16, 16, dtype=torch.float64))
    assert chi.shape == ones.shape
    assert float(chi.square().mean()) == pytest.approx(128, rel=0.02)
    assert float(chi.var()) == pytest.approx(0.5, abs=0.08)
