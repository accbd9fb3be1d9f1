"""Pruning at initialization: score, select, and again, until the density is met."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from trainables.batches import DeviceData
from trainables.masks import Masks, apply_masks, dense_masks
from trainables.models import prunable
from trainables.pruning.amount import kept_count
from trainables.pruning.configs import SNIP, GraSP, PruningAtInit, SynFlow
from trainables.pruning.criteria import CRITERIA, Batch, Scoring
from trainables.pruning.scoring_data import flow_input, scoring_batches
from trainables.pruning.selection import keep_highest, sampled
from trainables.randomness import stream


def prune_at_init(config: PruningAtInit, model: nn.Module, data: DeviceData, seed: int) -> Masks:
    """The masks that `config` finds for `model`, which is left as it is.

    The network is scored as a float64 copy in eval mode. After the last round exactly
    N − ⌊(1−ρ)N⌋ weights are kept.
    """
    scored = copy.deepcopy(model).to(torch.float64).eval()
    masks = dense_masks(prunable(scored))
    inputs = _inputs(config, data, seed)
    selection = stream(seed, "selection", config.name)
    noise = stream(seed, "scores", config.name)
    for round_ in range(1, config.rounds + 1):
        apply_masks(scored, masks)
        temperature = config.temperature if isinstance(config, GraSP) else 1.0
        scoring = Scoring(scored, masks, inputs(), noise, temperature)
        scores = CRITERIA[config.name](scoring)
        masks = _selected(config, round_, scores, masks, selection)
    return masks


def round_density(config: PruningAtInit, round_: int) -> float:
    """The density after `round_` (from 1) of the config's rounds."""
    done = round_ / config.rounds
    if config.schedule == "exponential":
        return config.density**done
    return 1 - (1 - config.density) * done


def _selected(
    config: PruningAtInit,
    round_: int,
    scores: dict[str, Tensor],
    masks: Masks,
    generator: torch.Generator,
) -> Masks:
    total = sum(mask.numel() for mask in masks.values())
    last = round_ == config.rounds
    count = kept_count(config.density if last else round_density(config, round_), total)
    if config.selection == "sampled" and (last or config.sampled_rounds == "every"):
        return sampled(scores, masks, count, generator)
    return keep_highest(scores, masks, count)


def _inputs(config: PruningAtInit, data: DeviceData, seed: int) -> Callable[[], tuple[Batch, ...]]:
    """What each round is scored with: the same examples, or a new draw."""
    generator = stream(seed, "scoring data", config.name)
    if isinstance(config, SynFlow):
        return lambda: flow_input(data, config.data, generator)
    if isinstance(config, SNIP | GraSP):
        batches = scoring_batches(data, config.data, config.examples, generator)
        return lambda: batches
    return lambda: ()
