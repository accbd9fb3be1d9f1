"""Selections: exact counts, ties, nesting, and masks drawn in proportion to scores."""

import math
from fractions import Fraction
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from trainables.pruning.amount import kept_count
from trainables.pruning.selection import STRIDE, drop_lowest, keep_highest, sampled, sketch
from trainables.sparsity.masks import Masks, kept_counts
from trainables.training.randomness import stream

Net = tuple[dict[str, Tensor], dict[str, Tensor]]


FEW = st.integers(-3, 3)
ODD = st.sampled_from([-math.inf, -1.0, -0.0, 0.0, 5e-324, 1.0, math.inf, math.nan])


@st.composite
def nets(draw: st.DrawFn, few: st.SearchStrategy[float] = FEW) -> Net:
    """Scores and masks of two layers; few distinct scores, so that many are tied."""
    scores, masks = {}, {}
    for name, shape in {"a": (3, 4), "b": (2, 3, 1)}.items():
        size = torch.Size(shape).numel()
        values = st.lists(few, min_size=size, max_size=size)
        scores[name] = torch.tensor(draw(values), dtype=torch.float64).view(shape)
        kept = st.lists(st.booleans(), min_size=size, max_size=size)
        masks[name] = torch.tensor(draw(kept)).view(shape)
    return scores, masks


counts = st.integers(0, 18)
densities = st.floats(0, 1, exclude_min=True)


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


@given(densities, st.integers(1, 10**9))
def test_a_density_keeps_the_ceiling_of_its_share_and_never_nothing(
    density: float, total: int
) -> None:
    kept = kept_count(density, total)
    assert 1 <= kept <= total
    assert 0 <= kept - Fraction(repr(density)) * total < 1


@pytest.mark.parametrize(
    ("density", "total", "kept"), [(0.8, 10, 8), (0.02, 100, 2), (0.1, 9, 1), (1.0, 7, 7)]
)
def test_a_density_is_the_decimal_that_was_written(density: float, total: int, kept: int) -> None:
    assert kept_count(density, total) == kept


def without_lowest(scores: Tensor, kept: Tensor, amount: int) -> Tensor:
    """What is kept [size] without the `amount` lowest scores, one after the other; what is not a
    number counts as infinite."""
    value = [math.inf if math.isnan(each) else each for each in scores.tolist()]
    ascending = sorted(kept.nonzero().flatten().tolist(), key=lambda i: value[i])
    left = kept.clone()
    left[ascending[: max(0, amount)]] = False
    return left


@given(nets() | nets(ODD), counts)
def test_a_group_alone_is_pruned_as_among_others(net: Net, amount: int) -> None:
    scores, kept = flat(net[0]), flat(net[1])
    expected = without_lowest(scores, kept, amount)
    alone = drop_lowest(scores[None], kept[None], torch.tensor([amount]))
    assert torch.equal(alone, expected[None])
    twice = torch.stack([scores, scores]), torch.stack([kept, kept])
    among = drop_lowest(*twice, torch.tensor([amount, 0]))
    assert torch.equal(among, torch.stack([expected, kept]))


def test_whole_numbers_are_compared_exactly() -> None:
    """Float32 has every second one from 2^24 on."""
    scores = torch.arange(2**26 + 7, 2**26 - 1, -1)
    masks = {"a": torch.ones(8, dtype=torch.bool)}
    assert keep_highest({"a": scores}, masks, 6)["a"].tolist() == [True] * 6 + [False] * 2
    kept = torch.ones(2, 8, dtype=torch.bool)
    left = drop_lowest(scores.expand(2, 8), kept, torch.tensor([2, 1]))
    assert left.sum(1).tolist() == [6, 7]
    assert not left[0, 6:].any()


@given(nets() | nets(ODD), counts)
def test_the_highest_are_those_that_dropping_the_lowest_leaves(net: Net, count: int) -> None:
    scores, masks = net
    kept = flat(masks)
    expected = without_lowest(flat(scores), kept, int(kept.sum()) - count)
    assert torch.equal(flat(keep_highest(scores, masks, count)), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("lead", [0.0, 1e3, -1e3])
@pytest.mark.parametrize("share", [0.001, 0.3, 0.7, 0.999])
def test_a_sample_that_misleads_about_the_threshold_changes_nothing(
    share: float, lead: float, dtype: torch.dtype
) -> None:
    """The weights that the threshold is guessed from score higher or lower than all others."""
    generator = stream(0, "test")
    scores, masks = {}, {}
    for name, shape in {"a": (50, 40, 3), "b": (7, 11), "c": (4000,)}.items():
        row = torch.randn(torch.Size(shape).numel(), generator=generator) * 100
        row[::STRIDE] += lead
        scores[name] = row.view(shape).to(dtype)
        masks[name] = torch.rand(shape, generator=generator) < 0.6
    kept = flat(masks)
    count = int(share * int(kept.sum()))
    comparable = flat(scores).to(torch.promote_types(dtype, torch.float32))
    expected = without_lowest(comparable, kept, int(kept.sum()) - count)
    assert torch.equal(flat(keep_highest(scores, masks, count)), expected)
    turned = {name: score.transpose(0, -1).contiguous().transpose(0, -1)
              for name, score in scores.items()}  # fmt: skip
    after = keep_highest(turned, masks, count)
    assert torch.equal(flat(after), expected)
    assert all(mask.is_contiguous() for mask in after.values())


@given(nets(), counts)
def test_the_count_is_exact_and_nothing_comes_back(net: Net, count: int) -> None:
    scores, masks = net

    def drawn(scores: dict[str, Tensor], masks: Masks, count: int) -> Masks:
        return sampled(scores, masks, count, stream(0, "test"))

    for select in (keep_highest, drawn):
        after = select(scores, masks, count)
        assert {name: mask.shape for name, mask in after.items()} == {
            name: mask.shape for name, mask in masks.items()
        }
        assert int(flat(after).sum()) == min(count, int(flat(masks).sum()))
        assert not bool((flat(after) & ~flat(masks)).any())


@given(nets(), counts, st.integers(0, 99))
def test_a_sampled_mask_keeps_the_counts_of_each_layer(net: Net, count: int, seed: int) -> None:
    scores, masks = net
    threshold = keep_highest(scores, masks, count)
    drawn = sampled(scores, masks, count, stream(seed, "test"))
    assert kept_counts(drawn) == kept_counts(threshold)


@given(nets(), counts, st.integers(0, 99))
def test_what_is_not_positive_is_drawn_last_and_by_its_score(
    net: Net, count: int, seed: int
) -> None:
    scores, masks = net
    drawn = sampled(scores, masks, count, stream(seed, "test"))
    for name, score in scores.items():
        gone = masks[name] & ~drawn[name]
        rest = drawn[name] & (score <= 0)
        if rest.any():
            assert not bool((gone & (score > 0)).any())
            assert not gone.any() or score[rest].min() >= score[gone].max()


def test_a_layer_without_a_place_keeps_nothing() -> None:
    scores = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([9.0, 8.0, 7.0])}
    masks = {name: torch.ones_like(score, dtype=torch.bool) for name, score in scores.items()}
    assert kept_counts(sampled(scores, masks, 3, stream(0, "test"))) == {"a": 0, "b": 3}


def draws(scores: Tensor, count: int, repeats: int) -> Tensor:
    """`repeats` sampled masks [repeats, size] of one layer."""
    generator = stream(0, "draws")
    masks = {"w": torch.ones_like(scores, dtype=torch.bool)}
    return torch.stack(
        [sampled({"w": scores}, masks, count, generator)["w"] for _ in range(repeats)]
    )


def test_a_single_weight_is_drawn_in_proportion_to_its_score() -> None:
    scores = torch.tensor([1.0, 0.0, 2.0, 3.0, -5.0, 10.0])
    observed = draws(scores, 1, repeats=5000).sum(dim=0)
    assert observed[1] == observed[4] == 0
    positive = scores > 0
    expected = 5000 * scores[positive] / scores[positive].sum()
    assert stats.chisquare(observed[positive], expected).pvalue > 1e-3


def test_distinct_weights_are_drawn_one_after_the_other_in_proportion() -> None:
    """Two of four: the chance of a pair {i, j} is p_i·p_j/(1−p_i) + p_j·p_i/(1−p_j)."""
    scores = torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64)
    p = scores / scores.sum()
    masks = draws(scores, 2, repeats=5000)
    chance = torch.zeros(16, dtype=torch.float64)
    for i, j in permutations(range(4), 2):
        chance[2**i + 2**j] += p[i] * p[j] / (1 - p[i])
    observed = torch.bincount((masks * torch.tensor([1, 2, 4, 8])).sum(dim=1), minlength=16)
    possible = chance > 0
    assert int(observed[possible].sum()) == 5000
    assert stats.chisquare(observed[possible], 5000 * chance[possible]).pvalue > 1e-3


def test_the_scale_of_the_scores_does_not_matter() -> None:
    scores = {"w": torch.rand(50, generator=stream(0, "scores"), dtype=torch.float64)}
    masks = {"w": torch.ones(50, dtype=torch.bool)}
    one, other = (
        sampled({"w": scores["w"] * scale}, masks, 20, stream(3, "test"))["w"]
        for scale in (1e-200, 1e200)
    )
    assert torch.equal(one, other)


def test_a_sketch_counts_its_draws_in_proportion() -> None:
    """Algorithm 1: m_i·s·p_i is how often i was drawn of s times."""
    p = torch.tensor([0.1, 0.2, 0.0, 0.3, 0.4], dtype=torch.float64)
    times = sketch(p, 1000, stream(0, "sketch")) * 1000 * p
    torch.testing.assert_close(times, times.round())
    assert float(times.sum()) == pytest.approx(1000)
    assert times[2] == 0
    drawn = p > 0
    assert stats.chisquare(times[drawn], 1000 * p[drawn]).pvalue > 1e-3


def test_a_sketch_of_size_s_has_at_most_s_entries() -> None:
    p = torch.full((300, 10), 0.1, dtype=torch.float64)
    sizes = (sketch(p, 4, stream(0, "sketch")) > 0).sum(dim=1)
    assert int(sizes.max()) == 4
    assert int(sizes.min()) < 4
