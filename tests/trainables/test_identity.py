"""Identity: what changes a key and what does not."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from trainables import own_code
from trainables.config import canonical, canonical_json
from trainables.data import DatasetConfig, describe_dataset, identity
from trainables.data.roots import DataRoots
from trainables.lineage.identity import next_key, sha256, snapshot_key, trunk_key
from trainables.lineage.keys import Cell, Lineage, make_lineage, trunk_config
from trainables.models import ModelConfig
from trainables.plugins.entry import built_in
from trainables.pruning import METHOD, MethodConfig, Pruning, Step
from trainables.training.recipe import Recipe


def parsed(kind: Any, name: str, **options: Any) -> Any:
    return TypeAdapter(kind).validate_python({"name": name, **options})


def lineage(**changed: Any) -> Lineage:
    values = {
        "dataset": parsed(DatasetConfig, "digits"),
        "model": parsed(ModelConfig, "mlp", hidden=(16, 8)),
        "train": Recipe(epochs=2, batch_size=100),
        "prune": Pruning(iterations=3),
        "method": parsed(MethodConfig, "lottery_ticket"),
        "seed": 0,
    }
    identity = changed.pop("identity", {"name": "digits", "holdout": 0})
    return make_lineage(Cell(**(values | changed)), identity)


# Canonical JSON

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


def reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return [reordered(item) for item in value] if isinstance(value, list) else value


@given(json_values)
def test_canonical_json_does_not_depend_on_the_order_of_keys(value: Any) -> None:
    assert canonical_json(reordered(value)) == canonical_json(value)


def test_canonical_json_keeps_the_order_of_lists_and_the_kind_of_numbers() -> None:
    texts = [canonical_json(value) for value in ([1, 2], [2, 1], [1.0, 2], ["1", 2], [True, 2])]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_without_a_json_form_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"x": value})


def test_options_that_are_none_are_no_part_of_an_identity() -> None:
    assert "clip_grad_norm" not in canonical(Recipe())
    assert canonical(Recipe(clip_grad_norm=1.0))["clip_grad_norm"] == 1.0


# Golden values: when one of these changes, results stored by earlier versions are not found again.


def test_the_canonical_json_of_a_trunk_is_pinned() -> None:
    config = lineage()
    text = canonical_json(trunk_config(config.cell, config.dataset))
    assert text == (
        '{"dataset":{"holdout":0,"name":"digits"},"model":{"hidden":[16,8],"name":"mlp"},'
        '"recipe":{"augment":{"crop_padding":0,"horizontal_flip":false,"padding_mode":"reflect"},'
        '"batch_size":100,"epochs":2,"keep":"last","lr_schedule":{"name":"cosine"},'
        '"optimizer":{"lr":0.1,"momentum":0.9,"name":"sgd","nesterov":true,"weight_decay":0.0005}},'
        '"seed":0}'
    )


def test_keys_are_pinned() -> None:
    keys = lineage().keys
    pinned = {
        "40c76286992435b6b4e4124888c60fcae240370934eb4d614211094d7c2f9faa": trunk_key({"seed": 0}),
        "6a0c30a4cddd871f2af5bebc7aa0dafe7604404baa4e84f3a225079ee951e13d": next_key(
            "a" * 64, "{}"
        ),
        "94375b7c610db7421e54a50f986bd619177c6fce60f79f30b94a43e7d806a21a": snapshot_key(
            "a" * 64, 7
        ),
        "5131a24396bd7eb0167bdf740bf19ec5919b8f6bac949e7f76ceaaca40549d62": keys[0],
        "71bdeaf4e7f3da0e70d463cec010e4b9628a36fc253ace8a3a48fcd77aafeec6": keys[3],
    }
    assert list(pinned.values()) == list(pinned)


def test_keys_are_made_as_documented() -> None:
    config = lineage()
    trunk = trunk_config(config.cell, config.dataset)
    step = (
        '{"method":{"name":"lottery_ticket","ratio":0.2,"rewind":{"step":0}},'
        '"prune":{"rewind_batchnorm":true,"scope":"global"}}'
    )
    assert config.keys[0] == sha256(canonical_json({"schema": 1, **trunk}))
    for parent, key in zip(config.keys, config.keys[1:], strict=False):
        assert key == sha256(f"{parent}\n{step}\n1")


# What changes a key


@pytest.mark.parametrize(
    "change",
    [
        {"identity": {"name": "digits", "holdout": 1}},
        {"identity": {"name": "digits", "holdout": 0, "fingerprint": "0" * 64}},
        {"model": parsed(ModelConfig, "mlp", hidden=(16, 9))},
        {"model": parsed(ModelConfig, "linear")},
        {"seed": 1},
    ],
    ids=str,
)
def test_what_is_trained_is_part_of_every_key(change: dict[str, Any]) -> None:
    assert not set(lineage(**change).keys) & set(lineage().keys)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 3},
        {"batch_size": 101},
        {"optimizer": {"name": "sgd", "lr": 0.2}},
        {"optimizer": {"name": "sgd", "momentum": 0.8}},
        {"optimizer": {"name": "sgd", "nesterov": False}},
        {"optimizer": {"name": "sgd", "weight_decay": 0.0}},
        {"optimizer": {"name": "adam"}},
        {"optimizer": {"name": "adam", "beta1": 0.8}},
        {"optimizer": {"name": "adam", "beta2": 0.99}},
        {"optimizer": {"name": "adamw"}},
        {"lr_interval": "step"},
        {"warmup_epochs": 1},
        {"warmup_steps": 1},
        {"accumulate": 2},
        {"cutout": 1},
        {"mixup": 0.1},
        {"ema": 0.9},
        {"lr_schedule": {"name": "constant"}},
        {"lr_schedule": {"name": "step", "milestones": [1]}},
        {"lr_schedule": {"name": "step", "milestones": [1], "factor": 0.5}},
        {"clip_grad_norm": 1.0},
        {"augment": {"horizontal_flip": True}},
        {"augment": {"crop_padding": 1}},
        {"augment": {"padding_mode": "zeros"}},
        {"keep": "best_test"},
    ],
    ids=str,
)
def test_every_field_of_the_recipe_is_part_of_every_key(change: dict[str, Any]) -> None:
    recipe = Recipe.model_validate({"epochs": 2, "batch_size": 100, **change})
    assert not set(lineage(train=recipe).keys) & set(lineage().keys)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("method", {"name": "one_shot"}),
        ("method", {"name": "lottery_ticket", "ratio": 0.3}),
        ("method", {"name": "lottery_ticket", "rewind": {"step": 5}}),
        ("method", {"name": "sap"}),
        ("prune", {"scope": "layer"}),
        ("prune", {"rewind_batchnorm": False}),
    ],
    ids=str,
)
def test_what_pruning_does_changes_all_keys_but_the_trunks(kind: str, change: dict) -> None:
    make: Callable[[Any], Any] = (
        TypeAdapter(MethodConfig).validate_python
        if kind == "method"
        else lambda values: Pruning(iterations=3, **values)
    )
    changed, unchanged = lineage(**{kind: make(change)}).keys, lineage().keys
    assert changed[0] == unchanged[0]
    assert not set(changed[1:]) & set(unchanged)


@pytest.mark.parametrize(
    "change", [{"p": 0.4}, {"q": 1.1}, {"eta": 0.1}, {"gamma": 2.0}, {"beta": 0.8}], ids=str
)
def test_every_field_of_sap_is_part_of_its_keys(change: dict[str, float]) -> None:
    changed = lineage(method=parsed(MethodConfig, "sap", **change)).keys
    assert changed[1] != lineage(method=parsed(MethodConfig, "sap")).keys[1]


# What does not


def test_writing_out_a_default_changes_no_key() -> None:
    written = parsed(MethodConfig, "lottery_ticket", rewind={"step": 0}, ratio=0.2)
    assert lineage(method=written).keys == lineage().keys
    came_later = {
        "lr_interval": "epoch", "warmup_epochs": 0, "warmup_steps": 0, "accumulate": 1, "cutout": 0,
        "mixup": 0, "ema": 0,
    }  # fmt: skip
    said = Recipe.model_validate({"epochs": 2, "batch_size": 100, **came_later})
    assert lineage(train=said).keys == lineage().keys


@given(st.integers(0, 20), st.integers(0, 20))
def test_a_longer_lineage_begins_with_the_keys_and_the_id_of_a_shorter_one(
    one: int, other: int
) -> None:
    short, long = sorted((one, other))
    shorter, longer = (lineage(prune=Pruning(iterations=n)) for n in (short, long))
    assert len(longer.keys) == len(set(longer.keys)) == long + 1
    assert longer.keys[: short + 1] == shorter.keys
    assert longer.id == shorter.id


@pytest.mark.parametrize("method", sorted(built_in(METHOD)))
def test_an_iteration_of_one_key_is_made_in_one_way_however_many_there_are(method: str) -> None:
    aims = "density" in built_in(METHOD)[method].model_fields
    made: dict[str, Step] = {}
    for count, density in product(range(5), (0.5, 0.2) if aims else (None,)):
        options = {"density": density} if aims else {}
        config = parsed(MethodConfig, method, **options)
        one = lineage(method=config, prune=Pruning(iterations=count))
        for key, step in zip(one.keys, one.steps, strict=True):
            assert made.setdefault(key, step) == step


def test_the_key_of_a_snapshot_is_that_of_its_trunk_and_step() -> None:
    trunk, other = lineage().keys[0], lineage(seed=1).keys[0]
    keys = {snapshot_key(trunk, 0), snapshot_key(trunk, 1), snapshot_key(other, 0)}
    assert len(keys) == 3
    assert not keys & set(lineage().keys)


def test_the_code_of_a_row_is_that_of_every_source_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_code, "__file__", str(tmp_path / "here/own_code.py"))
    (tmp_path / "here/deep").mkdir(parents=True)
    found = set()
    for path, text in (("a.py", "1"), ("a.py", "2"), ("deep/a.py", "2"), ("deep/a.py", "1")):
        (tmp_path / "here" / path).write_text(text)
        found.add(own_code.own_code.__wrapped__())
    (tmp_path / "here/a.pyc").write_text("no source")
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.setattr(own_code, "__file__", str(tmp_path / "there/own_code.py"))
    assert own_code.own_code.__wrapped__() in found
    assert len(found) == 4


def test_the_place_of_a_dataset_is_no_part_of_its_identity(tmp_path: Path) -> None:
    from PIL import Image

    def identity_in(root: Path, color: int) -> dict[str, Any]:
        for index, place in enumerate(("train/a", "train/b", "test/a", "test/b")):
            (root / place).mkdir(parents=True)
            Image.new("L", (4, 4), color + index).save(root / place / "0.png")
        config = parsed(DatasetConfig, "image_folder", path=str(root))
        return identity(config, describe_dataset(config, DataRoots((tmp_path,), tmp_path)))

    here, there, different = (
        identity_in(tmp_path / name, color) for name, color in (("x", 9), ("y", 9), ("z", 8))
    )
    assert here == there
    assert here != different
    assert str(tmp_path) not in canonical_json(here)
