"""What is measured of a masked model: density, PQ Index and Gini per scope, multiply-adds."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from trainables.sparsity.indices import gini, pq_index_of_sums
from trainables.sparsity.masks import Masks

GRID_P = tuple(round(0.1 * i, 1) for i in range(1, 11))
GRID_Q = tuple(round(1.0 + 0.1 * i, 1) for i in range(11))
"""The p–q grid that SAP's figures 7–10 show."""

CACHED_WEIGHTS = 2**16

REPORTED_P, REPORTED_Q = 0.5, 1.0
"""The PQ Index of every table but `sparsity` (SAP §4.1)."""


@dataclass(frozen=True)
class LayerSparsity:
    layer: str
    kept: int
    total: int
    pq_index: float
    gini: float


@dataclass(frozen=True)
class Sparsity:
    """The sparsity of one masked model; `grid` has columns scope, layer, p, q, pq_index."""

    pq_index: float
    gini: float
    layers: tuple[LayerSparsity, ...]
    grid: pa.Table


@torch.no_grad()
def measure_sparsity(weights: dict[str, Tensor], masks: Masks) -> Sparsity:
    """The PQ Index on the paper's grid for all scopes, and the Gini index, of the kept weights.

    In the grid, scope *neuron* is the mean over a layer's neurons; neurons whose index is
    undefined (all kept weights zero) are left out of it.
    """
    exponents = sorted({*GRID_P, *GRID_Q})
    sums = {name: _power_sums(w, masks[name], len(exponents)) for name, w in weights.items()}
    counts = {name: masks[name].reshape(w.shape[0], -1).sum(1) for name, w in weights.items()}

    neuron = {n: _grid(counts[n], sums[n], exponents).nanmean(dim=2) for n in weights}
    layer = {n: _grid(*_total(counts[n], sums[n]), exponents)[..., 0] for n in weights}
    everything = _total(
        torch.cat([counts[n] for n in weights]), torch.cat([sums[n] for n in weights], dim=1)
    )
    overall = _grid(*everything, exponents)[..., 0]

    reported = (GRID_P.index(REPORTED_P), GRID_Q.index(REPORTED_Q))
    return Sparsity(
        pq_index=overall[reported].item(),
        gini=_gini(torch.cat([w.flatten() for w in weights.values()]), _flat(masks, weights)),
        layers=tuple(
            LayerSparsity(
                layer=name,
                kept=int(counts[name].sum()),
                total=weight.numel(),
                pq_index=layer[name][reported].item(),
                gini=_gini(weight.flatten(), masks[name].flatten()),
            )
            for name, weight in weights.items()
        ),
        grid=_table(
            [
                ("global", None, overall),
                *(("layer", name, values) for name, values in layer.items()),
                *(("neuron", name, values) for name, values in neuron.items()),
            ]
        ),
    )


@dataclass(frozen=True)
class KeptMagnitude:
    """How large at initialization the weights are that a mask keeps (sketching paper, Fig. 1, 2).

    `init_magnitude_share` is the kept share of Σ|w_init|, `uniform_share` what a uniformly random
    mask of the same size keeps on average, and `init_norm_kept` is ‖w_init ⊙ m‖.
    """

    init_magnitude_share: float
    uniform_share: float
    init_norm_kept: float


def kept_magnitude(initial: Tensor, mask: Tensor) -> KeptMagnitude:
    """Of one layer's initial weights and its mask."""
    magnitudes = initial.abs().to(torch.float64)
    kept = magnitudes[mask]
    return KeptMagnitude(
        init_magnitude_share=(kept.sum() / magnitudes.sum()).item(),
        uniform_share=mask.sum().item() / mask.numel(),
        init_norm_kept=kept.norm().item(),
    )


def _power_sums(weight: Tensor, mask: Tensor, exponents: int) -> Tensor:
    """Σ|w|^r of each neuron for r = 0.1, 0.2, …; float64 [exponents, neurons].

    Every exponent is a multiple of 0.1, so one root and a product for each stand in for as many
    powers.
    """
    rows, kept = (each.detach().reshape(weight.shape[0], -1) for each in (weight, mask))
    # Of so many neurons at a time as a core's cache has room for; a GPU is busy with all.
    few = max(1, CACHED_WEIGHTS // rows.shape[1]) if rows.device.type == "cpu" else len(rows)
    blocks = zip(rows.split(few), kept.split(few), strict=True)
    return torch.cat([_power_sums_of_rows(*block, exponents) for block in blocks], dim=1)


def _power_sums_of_rows(rows: Tensor, kept: Tensor, exponents: int) -> Tensor:
    # All powers of what is left out are 0.
    root = torch.where(kept, rows.abs().to(torch.float64).pow(0.1), 0.0)
    power = torch.ones_like(root)
    return torch.stack([power.mul_(root).sum(dim=1) for _ in range(exponents)])


def _total(counts: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    return counts.sum(0, keepdim=True), sums.sum(1, keepdim=True)


def _grid(counts: Tensor, sums: Tensor, exponents: list[float]) -> Tensor:
    """The PQ Index for every (p, q) of the grid; [p, q, groups]."""
    by_exponent = dict(zip(exponents, sums, strict=True))
    sum_p = torch.stack([by_exponent[p] for p in GRID_P]).unsqueeze(1)
    sum_q = torch.stack([by_exponent[q] for q in GRID_Q]).unsqueeze(0)
    p = sums.new_tensor(GRID_P).view(-1, 1, 1)
    q = sums.new_tensor(GRID_Q).view(1, -1, 1)
    return pq_index_of_sums(counts, sum_p, sum_q, p, q)


def _gini(values: Tensor, kept: Tensor) -> float:
    return gini(values.unsqueeze(0), kept.unsqueeze(0)).item()


def _flat(masks: Masks, weights: dict[str, Tensor]) -> Tensor:
    return torch.cat([masks[name].flatten() for name in weights])


def _table(blocks: list[tuple[str, str | None, Tensor]]) -> pa.Table:
    size = len(GRID_P) * len(GRID_Q)
    return pa.table(
        {
            "scope": pa.array([scope for scope, _, _ in blocks for _ in range(size)], pa.string()),
            "layer": pa.array([layer for _, layer, _ in blocks for _ in range(size)], pa.string()),
            "p": np.tile(np.repeat(GRID_P, len(GRID_Q)), len(blocks)),
            "q": np.tile(np.tile(GRID_Q, len(GRID_P)), len(blocks)),
            "pq_index": np.concatenate([values.cpu().numpy().ravel() for _, _, values in blocks]),
        }
    )
