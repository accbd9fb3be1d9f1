"""The NTK view: scores of the linearized network, and Theorem 7.2's error over masks."""

import math

import pytest
import torch
from torch import Tensor, nn

from trainables.models import prunable
from trainables.pruning.criteria.ntk import ntk
from trainables.pruning.criteria.synflow import synflow
from trainables.pruning.linearized import jacobian, linearized_errors
from trainables.pruning.scoring import Scoring
from trainables.sparsity.masks import dense_masks

FLOAT = torch.float64
DRAWS = 4000


def scores(model: nn.Module, criterion, inputs: Tensor) -> dict[str, Tensor]:
    labels = torch.zeros(len(inputs), dtype=torch.int64)
    batches = tuple(zip(inputs.split(3), labels.split(3), strict=True))
    return criterion(Scoring(model, dense_masks(prunable(model)), batches))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=FLOAT, generator=torch.Generator().manual_seed(seed))


def two_layers(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(6, width, bias=False), nn.Tanh(), nn.Linear(width, 2, bias=False)
    ).to(FLOAT)


def test_of_a_linear_model_it_is_synflow_with_the_norms_of_the_data() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).to(FLOAT).eval()
    x = drawn(8, 3, 2, 2)
    (found,) = scores(model, ntk, x).values()
    norms = x.norm(dim=0, keepdim=True)
    (flow,) = synflow(Scoring(model, {}, ((norms, torch.zeros(1, dtype=torch.int64)),))).values()
    assert torch.allclose(found, flow, rtol=1e-12)


@pytest.mark.parametrize("chunk", [1, 10**6])
def test_it_is_the_norm_of_differences_of_the_logits(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.pruning.linearized.NUMBERS", chunk)
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)
    ).to(FLOAT).eval()  # fmt: skip
    x, step = drawn(4, 1, 3, 3), 1e-6
    found = scores(model, ntk, x)
    for name, weight in prunable(model).items():
        for index in range(0, weight.numel(), 3):
            flat = weight.detach().view(-1)
            kept = flat[index].clone()
            with torch.no_grad():
                flat[index] = kept + step
                above = model(x)
                flat[index] = kept - step
                below = model(x)
                flat[index] = kept
            expected = ((above - below) / (2 * step)).norm() * kept.abs()
            assert found[name].view(-1)[index].item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_wide_networks_error_falls_as_theorem_7_2_says() -> None:
    """E‖f_lin(X) − ∇f(X)(θ⊙m)‖² = (Σ‖J^(k)‖²θ_k²/p_k − ‖Jθ‖²)/s, so in proportion to 1/s."""
    model = two_layers(width=256)
    j = jacobian(model, drawn(5, 1, 2, 3))
    theta = torch.cat([w.detach().flatten() for w in prunable(model).values()])
    assert j.shape == (10, len(theta))
    weight = j.norm(dim=0) * theta.abs()
    p = weight / weight.sum()
    generator = torch.Generator().manual_seed(0)
    whole = weight.sum().square() - (j @ theta).square().sum()
    for size in (20, 80, 320):
        found = linearized_errors(j, theta, p, size, DRAWS, generator)
        error = found.std() / math.sqrt(DRAWS)
        assert abs(found.mean() - whole / size) < 5 * error
    uniform = torch.full_like(p, 1 / len(p))
    assert linearized_errors(j, theta, uniform, 80, DRAWS, generator).mean() > whole / 80
