"""Pruning: amounts, scopes, selection and the methods put together from them."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from trainables.pruning import MethodConfig
from trainables.pruning.amount import kept_count, pq_amount, ratio_amount
from trainables.pruning.iterative import Iterative
from trainables.pruning.methods.lottery_ticket import LotteryTicket
from trainables.pruning.methods.one_shot import OneShot
from trainables.pruning.methods.sap import SAP
from trainables.pruning.parts import ToDensity
from trainables.pruning.scope import Scope, grouped, ungrouped
from trainables.pruning.selection import drop_lowest

SCOPES: list[Scope] = ["global", "layer", "neuron"]


def method(name: str, **options: object) -> Iterative:
    found = TypeAdapter(MethodConfig).validate_python({"name": name, **options})
    assert isinstance(found, Iterative)
    return found


def keep_all(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()}


def pruned(
    config: Iterative,
    scope: Scope,
    weights: dict[str, Tensor],
    masks: dict[str, Tensor],
) -> dict[str, Tensor]:
    """The masks after one pruning step."""
    scores = {name: weight.abs() for name, weight in weights.items()}
    return config.without_lowest(scores, weights, masks, scope)


def sap_amount(vector: list[float], kept: list[bool] | None = None, **options: float) -> int:
    settings = {"p": 0.5, "q": 1.0, "eta": 0.0, "gamma": 1.0, "beta": 0.9} | options
    values = torch.tensor([vector])
    mask = torch.tensor([kept or [True] * len(vector)])
    return int(pq_amount(values, mask, **settings))


# Amounts


@pytest.mark.parametrize(
    ("ratio", "d", "amount"),
    [(0.29, 100, 29), (0.57, 100, 57), (0.2, 4, 0), (0.2, 5, 1), (0.5, 3, 1), (0.9, 0, 0)],
)
def test_a_ratio_takes_exactly_the_floor_of_its_decimal_share(
    ratio: float, d: int, amount: int
) -> None:
    assert ratio_amount(torch.ones(1, d, dtype=torch.bool), ratio).tolist() == [amount]


def test_a_ratio_counts_kept_entries_only_and_each_row_by_itself() -> None:
    kept = torch.tensor([[True] * 10, [True] * 5 + [False] * 5, [False] * 10])
    assert ratio_amount(kept, 0.3).tolist() == [3, 1, 0]


def test_sap_amount_of_a_vector_worked_out_by_hand() -> None:
    # d = 2, I = 1 − 9/(2·5) = 0.1, and q/(q−p) = 2, qp/(q−p) = 1: r = 2·0.9 = 1.8, up to 2.
    assert sap_amount([1, -4]) == 0
    # Eight of them: r = 16·0.9 = 14.4, up to 15; c = ⌊16·(1 − 15/16)⌋.
    assert sap_amount([1, -4] * 8) == 1
    # γ = 3 takes three times the share, and β the largest part of it that may go.
    assert sap_amount([1, -4] * 8, gamma=3.0) == 3
    assert sap_amount([1, -4] * 8, gamma=3.0, beta=0.15) == 2
    # η = 0.25: (1 + η)^−2 = 0.64, r = 14.4·0.64 = 9.2, up to 10.
    assert sap_amount([1, -4] * 8, eta=0.25) == 6


def test_sap_amount_with_a_mask_is_that_of_the_kept_weights() -> None:
    kept = [True, True, False] * 8
    assert sap_amount([1, -4, 100] * 8, kept, gamma=3.0) == 3


def test_sap_takes_nothing_from_equal_weights() -> None:
    assert sap_amount([0.3] * 50, gamma=9.0) == 0


def test_a_large_gamma_meets_the_cap() -> None:
    assert sap_amount([1, -4] * 8, gamma=1e30) == 14  # ⌊16·0.9⌋
    assert sap_amount([1, -4] * 8, gamma=1e300, beta=0.5) == 8
    assert sap_amount([0.3] * 50, gamma=1e300) == 0


def test_sap_takes_nothing_where_the_index_is_undefined_or_no_weight_is_kept() -> None:
    values = torch.tensor([[0.0, 0.0, 0.0, 5.0], [1.0, 2.0, 3.0, 4.0], [1.0, 0.0, 0.0, 0.0]])
    kept = torch.tensor([[True, True, True, False], [False] * 4, [True] * 4])
    amounts = pq_amount(values, kept, p=0.5, q=1.0, eta=0.0, gamma=1.0, beta=0.9)
    # One of four: I = 1 − 1/4, r = 1, c = ⌊4·min(3/4, 0.9)⌋.
    assert amounts.tolist() == [0, 0, 3]


def test_sap_never_empties_a_group_however_close_to_one_beta_is() -> None:
    for beta in (0.9999999, 1 - 1e-9, 1 - 2**-53):
        assert sap_amount([1, -4] * 8, gamma=1e6, beta=beta) == 15
        assert sap_amount([1.0], gamma=1e6, beta=beta) == 0


def test_groups_too_large_for_float32_are_counted_exactly() -> None:
    # One of d is not zero: r = 1, and β = 1/2 of d go. float32 would count one d more.
    d = 2**24 + 3
    values = torch.zeros(1, d)
    values[0, 0] = 1.0
    kept = torch.ones(1, 1, dtype=torch.bool).expand(1, d)
    amounts = pq_amount(values, kept, p=1.0, q=2.0, eta=0.0, gamma=1.0, beta=0.5)
    assert amounts.tolist() == [2**23 + 1]


# Selection


def test_the_lowest_kept_scores_go_in_each_row() -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0, 0.0], [0.0, 5.0, 4.0, 6.0]])
    kept = torch.tensor([[True, True, True, False], [True, True, True, True]])
    left = drop_lowest(scores, kept, torch.tensor([2, 1]))
    assert left.tolist() == [[True, False, False, False], [False, True, True, True]]


def test_equal_scores_go_by_index() -> None:
    left = drop_lowest(
        torch.tensor([[1.0, 1.0, 0.5, 1.0]]), torch.ones(1, 4, dtype=torch.bool), torch.tensor([2])
    )
    assert left.tolist() == [[False, True, False, True]]


# Scopes

WEIGHTS = {
    "a": torch.tensor([[1.0, 8.0], [2.0, 7.0]]),
    "b": torch.tensor([[3.0, 4.0, 5.0, 6.0]]),
}


@pytest.mark.parametrize(
    ("scope", "a", "b"),
    [
        # Of 8: six, wherever they are. Of 4: three of each. Of 2: one, of 4: three.
        ("global", [[0, 1], [0, 1]], [[0, 0, 0, 0]]),
        ("layer", [[0, 1], [0, 0]], [[0, 0, 0, 1]]),
        ("neuron", [[0, 1], [0, 1]], [[0, 0, 0, 1]]),
    ],
)
def test_a_scope_says_which_weights_compete(scope: Scope, a: list, b: list) -> None:
    masks = pruned(method("one_shot", ratio=0.75), scope, WEIGHTS, keep_all(WEIGHTS))
    assert {name: mask.int().tolist() for name, mask in masks.items()} == {"a": a, "b": b}


def test_a_neuron_of_a_convolution_is_one_output_channel_with_all_its_inputs() -> None:
    # Two filters [2 inputs, 1, 2]: each loses its own smallest two, whichever input they belong to.
    weight = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]], [[[9.0, 6.0]], [[7.0, 5.0]]]])
    masks = pruned(method("one_shot", ratio=0.5), "neuron", {"c": weight}, keep_all({"c": weight}))
    assert masks["c"].shape == weight.shape
    assert masks["c"].int().tolist() == [[[[0, 0]], [[1, 1]]], [[[1, 0]], [[1, 0]]]]


@pytest.mark.parametrize("scope", SCOPES)
def test_grouping_is_undone_exactly(scope: Scope) -> None:
    tensors = {"x": torch.randn(3, 2, 2, 2), "y": torch.randn(4, 3), "z": torch.randn(1, 5)}
    back = ungrouped(grouped(tensors, scope), tensors, scope)
    assert list(back) == list(tensors)
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


def test_signs_do_not_matter() -> None:
    flipped = {name: -w for name, w in WEIGHTS.items()}
    for config in (method("one_shot"), method("sap", gamma=2.0)):
        ours, theirs = (pruned(config, "global", w, keep_all(w)) for w in (WEIGHTS, flipped))
        assert all(torch.equal(ours[name], theirs[name]) for name in WEIGHTS)


@pytest.mark.parametrize("name", ["lottery_ticket", "one_shot", "sap"])
def test_a_method_rewinds_to_the_initialization_or_to_a_later_step(name: str) -> None:
    assert (method(name).rewind_step, method(name).rewinds) == (0, "weights")
    assert method(name, rewind={"step": 7}).rewind_step == 7
    assert method(name, rewind={"rewound": "nothing"}).rewinds == "nothing"


@pytest.mark.parametrize("p_q", [(1.0, 1.0), (0.0, 1.0), (1.1, 2.0), (0.5, 0.9)])
def test_exponents_outside_the_definition_are_refused(p_q: tuple[float, float]) -> None:
    with pytest.raises(ValidationError):
        method("sap", p=p_q[0], q=p_q[1])


# Properties

ratios = st.integers(1, 99).map(lambda percent: percent / 100)
betas = st.one_of(ratios, st.sampled_from([0.999, 0.9999999, 1 - 1e-9, 1 - 2**-53]))
saps = st.builds(
    lambda pq, eta, gamma, beta: SAP(name="sap", p=pq[0], q=pq[1], eta=eta, gamma=gamma, beta=beta),
    st.sampled_from([(0.5, 1.0), (1.0, 2.0), (0.2, 1.0), (1.0, 1.4)]),
    st.sampled_from([0.0, 0.1, 10.0]),
    st.sampled_from([0.01, 1.0, 9.0, 1e6, 1e300]),
    betas,
)
magnitude_methods = st.one_of(
    ratios.map(lambda ratio: OneShot(name="one_shot", ratio=ratio)),
    ratios.map(lambda ratio: LotteryTicket(name="lottery_ticket", ratio=ratio)),
)


@st.composite
def nets(draw: st.DrawFn) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights with ties and zeros, and masks; some groups have nothing left."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    shapes = draw(
        st.lists(
            st.one_of(
                st.tuples(st.integers(1, 4), st.integers(1, 30)),
                st.tuples(*[st.integers(1, 3)] * 4),
            ),
            min_size=1,
            max_size=3,
        )
    )
    decimals, kept = draw(st.sampled_from([0, 1, 6])), draw(st.sampled_from([0.05, 0.6, 1.0]))
    weights = {
        f"w{i}": torch.randn(shape, generator=generator).round(decimals=decimals)
        for i, shape in enumerate(shapes)
    }
    masks = {name: torch.rand(w.shape, generator=generator) < kept for name, w in weights.items()}
    return weights, masks


@given(nets(), st.sampled_from(SCOPES), st.one_of(saps, magnitude_methods))
def test_masks_are_nested_and_the_pruned_are_the_smallest_kept(net, scope, config) -> None:
    weights, masks = net
    after = pruned(config, scope, weights, masks)
    assert {name: mask.shape for name, mask in after.items()} == {
        name: w.shape for name, w in weights.items()
    }
    rows = [grouped(tensors, scope) for tensors in (weights, masks, after)]
    for values, before, left in zip(*rows, strict=True):
        assert not (left & ~before).any()
        for value, was, still in zip(values.abs(), before, left, strict=True):
            gone = was & ~still
            if gone.any():
                assert still.any()
                assert value[gone].max() <= value[still].min()


@given(nets(), st.sampled_from(SCOPES), magnitude_methods)
def test_a_ratio_takes_exactly_its_floor_from_every_group(net, scope, config) -> None:
    weights, masks = net
    after = grouped(pruned(config, scope, weights, masks), scope)
    for before, left in zip(grouped(masks, scope), after, strict=True):
        d = before.sum(1)
        expected = [int(Fraction(repr(config.ratio)) * int(n)) for n in d]
        assert (d - left.sum(1)).tolist() == expected


@given(nets(), st.sampled_from(SCOPES), saps)
def test_sap_takes_the_amount_of_every_group_and_empties_none(net, scope, config) -> None:
    weights, masks = net
    after = grouped(pruned(config, scope, weights, masks), scope)
    options = config.model_dump(exclude={"name", "criterion", "rewind"})
    groups = zip(grouped(weights, scope), grouped(masks, scope), after, strict=True)
    for values, before, left in groups:
        d = before.sum(1)
        assert torch.equal(d - left.sum(1), pq_amount(values, before, **options))
        assert ((left.sum(1) > 0) == (d > 0)).all()
        cap = [int(Fraction(repr(config.beta)) * int(n)) for n in d]
        assert (d - left.sum(1) <= torch.tensor(cap)).all()


@given(nets(), st.sampled_from(SCOPES), st.one_of(saps, magnitude_methods))
def test_pruning_again_and_again_empties_no_group(net, scope, config) -> None:
    weights, masks = net
    after = masks
    for _ in range(5):
        after = pruned(config, scope, weights, after)
    for before, left in zip(grouped(masks, scope), grouped(after, scope), strict=True):
        assert torch.equal(before.any(1), left.any(1))


class ByRatioToDensity(ToDensity, LotteryTicket):
    """As a plug-in may have it: nobody knows in how many iterations it gets there."""


@given(nets(), st.sampled_from(SCOPES), ratios, ratios, st.integers(0, 6))
def test_a_density_is_met_exactly_however_many_iterations_there_are(
    net, scope, ratio, density, earlier
) -> None:
    weights, masks = net[0], keep_all(net[0])
    config = ByRatioToDensity(name="lottery_ticket", ratio=ratio, density=density)
    for _ in range(earlier):
        masks = pruned(config, scope, weights, masks)
    last = config.without_lowest(weights, weights, masks, scope, config.target)
    for left in grouped(last, scope):
        assert (left.sum(1) == kept_count(density, left.shape[1])).all()


# Published arrays


@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_sap_masks_are_those_of_the_published_code_bit_for_bit(name: str, oracles: Path) -> None:
    with np.load(oracles / f"sap_{name}_seed0.npz") as file:
        arrays = dict(file)
    names = [key.removeprefix("mask/") for key in arrays if key.startswith("mask/")]
    weights = {layer: torch.from_numpy(arrays[f"state/{layer}"]) for layer in names}
    masks = {layer: torch.from_numpy(arrays[f"mask/{layer}"]) for layer in names}
    compared = 0
    for key in arrays:
        # One step a time: those of its other layers are looked up with the first one's.
        if not (key.startswith("sap/") and key.endswith(f"/{names[0]}")):
            continue
        _, scope, settings, _ = key.split("/", 3)
        p, q, eta, gamma = (
            float(part.lstrip("petagm")) for part in settings.replace("-q", "-").split("-")
        )
        config = method("sap", p=p, q=q, eta=eta, gamma=gamma, beta=0.9)
        after = pruned(config, scope, weights, masks)
        for layer in names:
            published = arrays[f"sap/{scope}/{settings}/{layer}"]
            assert np.array_equal(after[layer].numpy(), published), (settings, scope, layer)
            compared += 1
    assert compared == sum(key.startswith("sap/") for key in arrays) == 45
