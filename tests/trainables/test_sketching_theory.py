"""The sketching paper's lemmas for linear features, over many masks of Algorithm 1.

Errors are ‖Xᵀw − Xᵀ(w⊙m)‖² for X [d, n]. Expectations are means over independent draws and are
compared within four standard errors, or, where the paper gives a bound, with it.
"""

import math

import pytest
import torch
from torch import Tensor

from trainables.pruning.selection import sketch

DRAWS = 200_000
DIMENSION, EXAMPLES, SIZE = 6, 3, 4
FLOAT = torch.float64


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def optimal(x: Tensor, w: Tensor) -> Tensor:
    """p of equation 2 for X [..., d, n] and w [d]: in proportion to ‖X_(i)‖·|w_i|."""
    weight = x.norm(dim=-1) * w.abs()
    return weight / weight.sum(dim=-1, keepdim=True)


def errors(x: Tensor, w: Tensor, p: Tensor, generator: torch.Generator) -> Tensor:
    """The errors [DRAWS] of as many masks, for one X [d, n] or one for each mask."""
    m = sketch(p.expand(DRAWS, -1).contiguous(), SIZE, generator)
    return torch.einsum("...dn,...d->...n", x, w - w * m).square().sum(dim=-1)


def assert_mean(samples: Tensor, expected: Tensor | float) -> None:
    standard_error = samples.std(dim=0) / math.sqrt(len(samples))
    assert bool(((samples.mean(dim=0) - expected).abs() <= 4 * standard_error).all())


def assert_mean_below(samples: Tensor, bound: Tensor | float) -> None:
    assert float(samples.mean() - 4 * samples.std() / math.sqrt(len(samples))) <= float(bound)


def assert_mean_above(samples: Tensor, bound: Tensor | float) -> None:
    assert float(samples.mean() - 4 * samples.std() / math.sqrt(len(samples))) > float(bound)


def normal_data(generator: torch.Generator) -> Tensor:
    """X ~ N(0, I)/√n, one for each mask: [DRAWS, d, n]."""
    x = torch.randn(DRAWS, DIMENSION, EXAMPLES, generator=generator, dtype=FLOAT)
    return x / math.sqrt(EXAMPLES)


def vector(generator: torch.Generator) -> Tensor:
    return torch.randn(DIMENSION, generator=generator, dtype=FLOAT)


def squared_mean_norm() -> float:
    """E[‖X_(k)‖]² = (2/n)(Γ((n+1)/2)/Γ(n/2))², appendix B.4."""
    ratio = math.lgamma((EXAMPLES + 1) / 2) - math.lgamma(EXAMPLES / 2)
    return 2 / EXAMPLES * math.exp(2 * ratio)


def test_algorithm_1_is_unbiased(generator: torch.Generator) -> None:
    """Lemma B.1: E[Xᵀ(w⋆⊙m)] = Xᵀw⋆, whatever w⋆."""
    x = torch.randn(DIMENSION, EXAMPLES, generator=generator, dtype=FLOAT)
    w0, w = vector(generator), vector(generator)
    m = sketch(optimal(x, w0).expand(DRAWS, -1).contiguous(), SIZE, generator)
    assert_mean((w * m) @ x, x.T @ w)


def test_lemma_b2_gives_the_variance_of_each_output(generator: torch.Generator) -> None:
    x = torch.randn(DIMENSION, EXAMPLES, generator=generator, dtype=FLOAT)
    w0, w = vector(generator), vector(generator)
    p = optimal(x, w0)
    outputs = (w * sketch(p.expand(DRAWS, -1).contiguous(), SIZE, generator)) @ x
    squares = (x.T.square() * w.square() / p).sum(dim=1)
    assert_mean((outputs - x.T @ w).square(), (squares - (x.T @ w).square()) / SIZE)


def test_lemma_4_1_holds_with_the_last_norm_squared(generator: torch.Generator) -> None:
    """(Σ‖X_(k)‖|w_k|)²/s − ‖Xᵀw‖²/s. The paper prints ‖Xᵀw‖ without its square, which is off."""
    x = torch.randn(DIMENSION, EXAMPLES, generator=generator, dtype=FLOAT)
    w = vector(generator)
    p = optimal(x, w)
    samples = errors(x, w, p, generator)
    first, norm = (x.norm(dim=1) * w.abs()).sum().square(), (x.T @ w).norm()
    assert_mean(samples, (first - norm.square()) / SIZE)
    with pytest.raises(AssertionError):
        assert_mean(samples, (first - norm) / SIZE)


def test_lemma_4_3_holds_with_equality(generator: torch.Generator) -> None:
    """The mask is found with other data and weights than it is used with."""
    found, x = torch.randn(2, DIMENSION, EXAMPLES, generator=generator, dtype=FLOAT)
    w0, w = vector(generator), vector(generator)
    p = optimal(found, w0)
    samples = errors(x, w, p, generator)
    bound = (x.norm(dim=1).square() * w.square() / p).sum() / SIZE
    assert_mean(samples, bound - (x.T @ w).square().sum() / SIZE)
    assert_mean_below(samples, bound)


def test_no_other_distribution_beats_the_optimal_one(generator: torch.Generator) -> None:
    x = torch.randn(DIMENSION, EXAMPLES, generator=generator, dtype=FLOAT)
    w = vector(generator)
    best = errors(x, w, optimal(x, w), generator).mean()
    for _ in range(5):
        p = torch.rand(DIMENSION, generator=generator, dtype=FLOAT)
        assert_mean_above(errors(x, w, p / p.sum(), generator), best)


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_lemma_4_2_holds_with_the_l1_norm_only(spread: float, generator: torch.Generator) -> None:
    """The lemma states ‖w‖²/s. Its proof takes (Σ‖X_(k)‖|w_k|)² ≤ Σ‖X_(k)‖²w_k², which runs the
    wrong way. The expectation is c(‖w‖₁² − ‖w‖²)/s with c = E[‖X_(k)‖]² ≤ 1, below ‖w‖₁²/s, and
    above what the lemma states for any w with several entries of similar size."""
    w = 1 + spread * torch.rand(DIMENSION, generator=generator, dtype=FLOAT)
    x = normal_data(generator)
    samples = errors(x, w, optimal(x, w), generator)
    l1, l2 = w.norm(p=1).square(), w.square().sum()
    assert_mean(samples, squared_mean_norm() * (l1 - l2) / SIZE)
    assert_mean_below(samples, l1 / SIZE)
    assert_mean_above(samples, l2 / SIZE)


def test_lemma_4_2_holds_as_stated_where_one_weight_dominates(generator: torch.Generator) -> None:
    w = torch.full((DIMENSION,), 0.01, dtype=FLOAT)
    w[0] = 1.0
    x = normal_data(generator)
    assert_mean_below(errors(x, w, optimal(x, w), generator), w.square().sum() / SIZE)


def theorem_4_4(w0: Tensor, w: Tensor, divisor: Tensor) -> Tensor:
    """The bound of Theorem 4.4, with ‖w⋆−w⁰‖² divided by `divisor`."""
    moved = (w - w0).square().sum() / divisor + 2 * (w - w0).norm(p=1)
    return w0.norm(p=1) * (moved + w0.norm(p=1)) / SIZE


@pytest.mark.parametrize("distance", [0.0, 0.1, 1.0, 10.0])
def test_theorem_4_4_holds_with_the_smallest_weight_as_divisor(
    distance: float, generator: torch.Generator
) -> None:
    """Σ(w⋆_k − w⁰_k)²/|w⁰_k| is at most ‖w⋆−w⁰‖² over the smallest |w⁰_k|. The expectation is
    c/s·Σ w⋆_k²(‖w⁰‖₁ − |w⁰_k|)/|w⁰_k|."""
    w0 = vector(generator)
    w = w0 + distance * vector(generator)
    x = normal_data(generator)
    samples = errors(x, w, optimal(x, w0), generator)
    shares = w.square() * (w0.norm(p=1) - w0.abs()) / w0.abs()
    assert_mean(samples, squared_mean_norm() * shares.sum() / SIZE)
    assert_mean_below(samples, theorem_4_4(w0, w, w0.abs().min()))


@pytest.mark.parametrize("distance", [0.0, 0.1, 1.0, 10.0])
def test_theorem_4_4_holds_as_stated_for_weights_of_one_magnitude(
    distance: float, generator: torch.Generator
) -> None:
    w0 = vector(generator).sign()
    w = w0 + distance * vector(generator)
    x = normal_data(generator)
    samples = errors(x, w, optimal(x, w0), generator)
    assert_mean_below(samples, theorem_4_4(w0, w, w0.abs().max()))


def test_theorem_4_4_as_stated_is_exceeded_where_a_small_weight_grows(
    generator: torch.Generator,
) -> None:
    """The paper divides by ‖w⁰‖_∞, the largest |w⁰_k|: 1/|w⁰_k| ≤ 1/‖w⁰‖_∞ runs the wrong way. A
    weight that is small at initialization is seldom drawn, and costs much once it has grown."""
    w0 = torch.ones(DIMENSION, dtype=FLOAT)
    w0[0] = 0.01
    w = torch.ones(DIMENSION, dtype=FLOAT)
    x = normal_data(generator)
    samples = errors(x, w, optimal(x, w0), generator)
    assert_mean_above(samples, theorem_4_4(w0, w, w0.abs().max()))
    assert_mean_below(samples, theorem_4_4(w0, w, w0.abs().min()))


def test_lemma_4_5_bounds_the_uniform_mask(generator: torch.Generator) -> None:
    """E = (d − 1)‖w⋆‖²/s ≤ d‖w⋆‖²/s, the latter also as the paper's sum of three terms."""
    w0, w = vector(generator), vector(generator)
    uniform = torch.full((DIMENSION,), 1 / DIMENSION, dtype=FLOAT)
    samples = errors(normal_data(generator), w, uniform, generator)
    assert_mean(samples, (DIMENSION - 1) * w.square().sum() / SIZE)
    bound = DIMENSION * w.square().sum() / SIZE
    assert_mean_below(samples, bound)
    terms = (w - w0).square().sum() + 2 * w @ w0 - w0.square().sum()
    torch.testing.assert_close(DIMENSION * terms / SIZE, bound)


def test_the_error_falls_with_the_mask_size(generator: torch.Generator) -> None:
    x = torch.randn(DIMENSION, EXAMPLES, generator=generator, dtype=FLOAT)
    w = vector(generator)
    p = optimal(x, w).expand(DRAWS, -1).contiguous()
    means = [
        float(((w - w * sketch(p, s, generator)) @ x).square().sum(dim=1).mean()) for s in (2, 8)
    ]
    assert means[0] / means[1] == pytest.approx(4, rel=0.05)
