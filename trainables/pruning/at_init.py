"""Pruning at initialization: score, select, and again, until the density is met."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from trainables.measures.masks import Masks, apply_masks, dense_masks
from trainables.models import prunable
from trainables.pruning.amount import kept_count
from trainables.pruning.configs import SNIP, GraSP, PruningAtInit, SynFlow
from trainables.pruning.criteria import CRITERIA, Batch, Scoring
from trainables.pruning.scoring_data import flow_input, scoring_batches
from trainables.pruning.selection import keep_highest, sampled
from trainables.training.batches import DeviceData
from trainables.training.randomness import stream


def prune_at_init(config: PruningAtInit, model: nn.Module, data: DeviceData, seed: int) -> Masks:
    """The masks that `config` finds for `model`, which is left as it is.

    The network is scored as a float64 copy in eval mode. After the last round exactly
    N − ⌊(1−ρ)N⌋ weights are kept, and a weight that a round prunes never comes back.

    Raises ValueError when the training data has fewer than `config.examples` examples, or when a
    score is not a finite number.
    """
    scored = copy.deepcopy(model).to(torch.float64).eval()
    masks = dense_masks(prunable(scored))
    counts = kept_after_rounds(config, sum(mask.numel() for mask in masks.values()))
    inputs = _inputs(config, data, seed)
    temperature = config.temperature if isinstance(config, GraSP) else 1.0
    selection = stream(seed, "selection", config.name)
    noise = stream(seed, "scores", config.name)
    for round_, count in enumerate(counts, start=1):
        apply_masks(scored, masks)
        scoring = Scoring(scored, masks, inputs(), noise, temperature)
        scores = _finite(config.name, CRITERIA[config.name](scoring))
        if _samples(config, round_):
            masks = sampled(scores, masks, count, selection)
        else:
            masks = keep_highest(scores, masks, count)
    return masks


def kept_after_rounds(config: PruningAtInit, total: int) -> list[int]:
    """How many of `total` weights are kept after each round: exact at the last one, and in the
    floats of SynFlow's published code on the way."""
    last = kept_count(config.density, total)
    on_the_way = [round_density(config, round_) for round_ in range(1, config.rounds)]
    # In floats a tiny density leaves nothing, and the last round keeps at least one weight.
    return [max(last, total - int((1.0 - density) * total)) for density in on_the_way] + [last]


def round_density(config: PruningAtInit, round_: int) -> float:
    """The density after `round_` (from 1) of the config's rounds."""
    done = round_ / config.rounds
    if config.schedule == "exponential":
        return config.density**done
    return 1 - (1 - config.density) * done


def _samples(config: PruningAtInit, round_: int) -> bool:
    every = config.sampled_rounds == "every"
    return config.selection == "sampled" and (every or round_ == config.rounds)


def _finite(name: str, scores: dict[str, Tensor]) -> dict[str, Tensor]:
    for layer, score in scores.items():
        if not bool(score.isfinite().all()):
            raise ValueError(f"{name}: not all scores of {layer} are finite numbers")
    return scores


def _inputs(config: PruningAtInit, data: DeviceData, seed: int) -> Callable[[], tuple[Batch, ...]]:
    """What each round is scored with: the same examples, or a new draw."""
    generator = stream(seed, "scoring data", config.name)
    if isinstance(config, SynFlow):
        return lambda: flow_input(data, config.data, generator)
    if isinstance(config, SNIP | GraSP):
        batches = scoring_batches(data, config.data, config.examples, generator)
        return lambda: batches
    return lambda: ()
