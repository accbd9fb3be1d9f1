"""Models: parameter counts of the papers, initialization, cost."""

import math
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from trainables.config import canonical
from trainables.models import (
    MODEL,
    Model,
    ModelConfig,
    Shape,
    build_model,
    prunable,
)
from trainables.plugins.entry import built_in
from trainables.sparsity.multiply_adds import multiply_adds

MODELS = [*built_in(MODEL)]
FASHION: Shape = (1, 28, 28)
CIFAR: Shape = (3, 32, 32)
DIGITS: Shape = (1, 8, 8)
TINY: Shape = (3, 64, 64)


def config(name: str, **options: object) -> Model:
    return TypeAdapter(ModelConfig).validate_python({"name": name, **options})


def build(name: str, shape: Shape, classes: int = 10, seed: int = 0, **options: object):
    return build_model(config(name, **options), shape, classes, seed)


@pytest.mark.parametrize(
    ("name", "options", "shape", "classes", "parameters", "weights"),
    [
        ("linear", {}, FASHION, 10, 7_850, 7_840),
        ("linear", {}, CIFAR, 10, 30_730, 30_720),
        ("mlp", {}, FASHION, 10, 136_074, 135_680),
        ("mlp", {}, CIFAR, 10, 428_938, 428_544),
        ("cnn", {}, FASHION, 10, 1_556_874, 1_553_984),
        ("cnn", {}, CIFAR, 10, 1_558_026, 1_555_136),
        ("resnet18", {}, FASHION, 10, 11_171_018, 11_163_200),
        ("resnet18", {}, CIFAR, 10, 11_172_170, 11_164_352),
        ("lenet_300_100", {}, FASHION, 10, 266_610, 266_200),
        ("resnet20", {}, CIFAR, 10, 272_474, 270_896),
        ("resnet20", {}, CIFAR, 100, 278_324, 276_656),
        ("resnet20", {"width": 2}, CIFAR, 10, 1_084_586, 1_081_440),
        ("wide_resnet20", {}, CIFAR, 10, 1_084_586, 1_081_440),
        ("wide_resnet_28x8", {}, CIFAR, 10, 23_354_842, 23_340_464),
        ("wide_resnet_28x8", {}, CIFAR, 100, 23_401_012, 23_386_544),
        ("resnet50", {}, TINY, 200, 23_902_472, 23_856_832),
        ("imagenet_resnet50", {}, TINY, 200, 23_917_832, 23_864_512),
        ("tiny_resnet18", {}, TINY, 200, 11_271_432, 11_261_632),
        ("tiny_wide_resnet18", {}, TINY, 200, 44_857_672, 44_838_272),
        ("vgg19", {}, CIFAR, 10, 20_040_522, 20_024_000),
        ("vgg16", {}, CIFAR, 10, 14_728_266, 14_715_584),
        ("vgg11", {}, CIFAR, 10, 9_231_114, 9_222_848),
    ],
)
def test_parameter_counts_are_those_of_the_papers(
    name: str, options: dict, shape: Shape, classes: int, parameters: int, weights: int
) -> None:
    model = build(name, shape, classes, **options)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(p.numel() for p in prunable(model).values()) == weights


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [FASHION, CIFAR])
def test_logits_have_one_column_per_class(name: str, shape: Shape) -> None:
    logits = build(name, shape, classes=7)(torch.zeros(2, *shape))
    assert logits.shape == (2, 7)


@pytest.mark.parametrize("name", ["resnet50", "tiny_resnet18", "tiny_wide_resnet18"])
def test_networks_of_tiny_imagenet_halve_the_image_three_times(name: str) -> None:
    model = build(name, TINY, classes=200)
    sizes = []
    model.get_submodule("stage1").register_forward_hook(lambda *a: sizes.append(a[2].shape[2:]))
    model.get_submodule("stage4").register_forward_hook(lambda *a: sizes.append(a[2].shape[2:]))
    assert model(torch.zeros(2, *TINY)).shape == (2, 200)
    assert sizes == [(64, 64), (8, 8)]


PERCEPTRONS = ["linear", "mlp", "lenet_300_100"]
RESNETS = [name for name in MODELS if "resnet" in name]


@pytest.mark.parametrize("name", [*PERCEPTRONS, "cnn", *RESNETS])
def test_small_images_suit_models_without_deep_pooling(name: str) -> None:
    assert build(name, DIGITS)(torch.zeros(2, *DIGITS)).shape == (2, 10)


@pytest.mark.parametrize(("name", "minimum"), [("vgg11", 16), ("vgg19", 16), ("cnn", 8)])
def test_an_image_too_small_is_refused_with_what_to_do(name: str, minimum: int) -> None:
    assert build(name, (1, minimum, minimum))(torch.zeros(2, 1, minimum, minimum)).shape == (2, 10)
    size = minimum - 1
    with pytest.raises(ValueError, match=rf"{name} .*1x{size}x{size}.*{minimum}x{minimum}.*choose"):
        build(name, (1, size, size))


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet20", "wide_resnet_28x8"])
def test_initial_weights_come_from_the_seed_alone(name: str) -> None:
    first = build(name, CIFAR, seed=3).state_dict()
    torch.rand(5)
    again = build(name, CIFAR, seed=3).state_dict()
    other = build(name, CIFAR, seed=4)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], weight) for key, weight in prunable(other).items())


def test_building_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    build("cnn", FASHION, seed=1)
    assert torch.equal(before, torch.get_rng_state())


def drawn(name: str, init: str) -> dict[type, list[Any]]:
    """The layers of such a model by their type."""
    layers: dict[type, list[Any]] = {nn.Conv2d: [], nn.Linear: [], nn.BatchNorm2d: []}
    for module in build(name, CIFAR, init=init).modules():
        layers.get(type(module), []).append(module)
    return layers


@pytest.mark.parametrize("name", ["vgg11", "resnet20"])
@pytest.mark.parametrize("init", ["kaiming_fan_out_conv", "kaiming_fan_in", "openlth"])
def test_initial_weights_have_the_spread_that_their_name_says(name: str, init: str) -> None:
    layers = drawn(name, init)
    for conv in layers[nn.Conv2d]:
        fan = conv.out_channels if init == "kaiming_fan_out_conv" else conv.in_channels
        expected = (2 / (fan * math.prod(conv.kernel_size))) ** 0.5
        error = 5 / (2 * conv.weight.numel()) ** 0.5
        assert conv.weight.std().item() == pytest.approx(expected, rel=error)
    (classifier,) = layers[nn.Linear]
    if init == "kaiming_fan_out_conv":
        assert classifier.weight.abs().max().item() <= classifier.in_features**-0.5
    else:
        expected = (2 / classifier.in_features) ** 0.5
        error = 5 / (2 * classifier.weight.numel()) ** 0.5
        assert classifier.weight.std().item() == pytest.approx(expected, rel=error)
    norms = torch.cat([norm.weight for norm in layers[nn.BatchNorm2d]])
    if init == "openlth":
        assert 0 <= norms.min().item() < norms.max().item() <= 1
        assert norms.mean().item() == pytest.approx(0.5, abs=5 * (12 * len(norms)) ** -0.5)
    else:
        assert bool((norms == 1).all())
    biases = [m.bias for kind in layers.values() for m in kind if m.bias is not None]
    assert all(bool((bias == 0).all()) for bias in biases)


def test_pytorch_draws_what_pytorch_draws() -> None:
    model = build("mlp", DIGITS, seed=3, hidden=[5], init="pytorch")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        hidden = nn.Linear(64, 5)
    assert torch.equal(model.get_parameter("hidden1.weight"), hidden.weight)
    assert torch.equal(model.get_parameter("hidden1.bias"), hidden.bias)


def test_the_networks_of_each_paper_have_its_initial_weights() -> None:
    fan_in = {"vgg11", "vgg16", "vgg19", "resnet20", "wide_resnet20"}
    found = {name: config(name).init for name in MODELS}  # type: ignore[attr-defined]
    assert {name for name, init in found.items() if init == "kaiming_fan_in"} == fan_in
    assert {name for name, init in found.items() if init == "pytorch"} == {"imagenet_resnet50"}
    assert set(found.values()) == {"kaiming_fan_in", "pytorch", "kaiming_fan_out_conv"}


def test_weights_drawn_otherwise_have_another_identity_and_old_ones_theirs() -> None:
    """Before there was a choice, all were drawn as SAP's are, and had no word for it."""
    assert canonical(config("vgg19")) == {"name": "vgg19", "init": "kaiming_fan_in"}
    assert canonical(config("vgg19", init="kaiming_fan_out_conv")) == {"name": "vgg19"}
    assert canonical(config("mlp")) == {"name": "mlp", "hidden": [128, 256]}
    assert canonical(config("mlp", init="openlth"))["init"] == "openlth"


def test_prunable_names_are_those_of_the_state_dict_in_module_order() -> None:
    model = build("resnet20", CIFAR)
    names = list(prunable(model))
    state = model.state_dict()
    assert names == [name for name in state if name.endswith("weight") and state[name].ndim > 1]
    assert names[0] == "conv.weight"
    assert "stage2.block1.shortcut.conv.weight" in names
    assert names[-1] == "classifier.weight"


def test_multiply_adds_of_a_perceptron_are_its_weights() -> None:
    model = build("mlp", DIGITS, hidden=[3, 5])
    assert multiply_adds(model, DIGITS) == 64 * 3 + 3 * 5 + 5 * 10
    kept = {"hidden1.weight": 7, "hidden2.weight": 0, "classifier.weight": 2}
    assert multiply_adds(model, DIGITS, kept) == 9


def test_multiply_adds_of_a_convolution_count_positions() -> None:
    model = build("cnn", (2, 6, 4), hidden=[3, 5])
    dense = 6 * 4 * (2 * 3 * 9) + 3 * 2 * (3 * 5 * 9) + 5 * 10
    assert multiply_adds(model, (2, 6, 4)) == dense
    kept = {"conv1.weight": 4, "conv2.weight": 3, "classifier.weight": 1}
    assert multiply_adds(model, (2, 6, 4), kept) == 24 * 4 + 6 * 3 + 1


def test_the_wide_network_for_cifar_is_the_double_width_one() -> None:
    wide, double = build("wide_resnet20", CIFAR), build("resnet20", CIFAR, width=2)
    expected = double.state_dict()
    assert list(wide.state_dict()) == list(expected)
    assert all(torch.equal(value, expected[key]) for key, value in wide.state_dict().items())


def test_a_bottleneck_has_a_quarter_of_the_channels_and_strides_inside() -> None:
    conv = {name: list(weight.shape) for name, weight in prunable(build("resnet50", TINY)).items()}
    block = {key.removeprefix("stage3.block1."): s for key, s in conv.items() if "3.block1." in key}
    assert block == {
        "conv1.weight": [256, 512, 1, 1],
        "conv2.weight": [256, 256, 3, 3],
        "conv3.weight": [1024, 256, 1, 1],
        "shortcut.weight": [1024, 512, 1, 1],
    }
    assert sum(name.endswith("conv3.weight") for name in conv) == 3 + 4 + 6 + 3


def test_multiply_adds_follow_strides_and_shortcuts() -> None:
    stem = 32 * 32 * (3 * 16 * 9)
    stage1 = 32 * 32 * 6 * (16 * 16 * 9)
    stage2 = 16 * 16 * (16 * 32 * 9 + 5 * 32 * 32 * 9 + 16 * 32)
    stage3 = 8 * 8 * (32 * 64 * 9 + 5 * 64 * 64 * 9 + 32 * 64)
    expected = stem + stage1 + stage2 + stage3 + 64 * 10
    assert multiply_adds(build("resnet20", CIFAR), CIFAR) == expected


def test_counting_leaves_the_model_as_it_was() -> None:
    model = build("cnn", FASHION)
    model.get_submodule("norm1").eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    multiply_adds(model, FASHION)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())


def test_configs_are_strict_and_carry_defaults() -> None:
    assert canonical(config("mlp")) == {"name": "mlp", "hidden": [128, 256]}
    with pytest.raises(ValidationError):
        config("resnet20", width=0)
    with pytest.raises(ValidationError):
        config("linear", hidden=[3])
    with pytest.raises(ValidationError):
        config("alexnet")
