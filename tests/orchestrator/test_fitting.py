"""What a sweep puts together and cannot be trained is found by `plan`, with its place."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from PIL import Image

from orchestrator.commands import cli
from orchestrator.run import planning

SWEEP = """\
name: fitted
{plugins}
dataset: {dataset}
model: {model}
train: {train}
methods: {methods}
"""

PLUGIN = """\
import torch
from prunesweep import augmentation, loss, lr_schedule, model, optimizer

@augmentation
def shrunk(images, generator):
    return images[:, :, ::2]

@augmentation
def broken(images, generator):
    return images.permute(7, 0)

@loss
def averaged(logits, labels):
    return logits.sum()

@optimizer
def none_at_all(parameters, *, lr: float = 0.1):
    return None

@optimizer
def of_words(parameters, *, lr: float = 0.1):
    return torch.optim.SGD(parameters, lr="much")

@lr_schedule
def below_zero(lr, epoch, epochs):
    return lr - epoch

@augmentation
def same(images, generator):
    return images

@loss
def squared(logits, labels):
    return (logits ** 2).sum(dim=1)

@optimizer
def plain(parameters, *, lr: float = 0.1):
    return torch.optim.SGD(parameters, lr=lr)

@lr_schedule
def falling(lr, epoch, epochs):
    return lr / (1 + epoch)
"""

Planned: TypeAlias = Callable[..., tuple[int, str]]


@pytest.fixture
def planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Planned:
    """Plans a sweep in this process: the exit code, and what is said where it is not 0."""
    monkeypatch.chdir(tmp_path)
    Path("lab.py").write_text(PLUGIN)

    def planned(**parts: str) -> tuple[int, str]:
        given: dict[str, Any] = {
            "dataset": "digits",
            "model": "{name: mlp, hidden: [8]}",
            "train": "{epochs: 2, batch_size: 50}",
            "methods": "[one_shot]",
            "plugins": "",
        }
        Path("s.yaml").write_text(SWEEP.format(**given | parts))
        monkeypatch.setattr(sys, "argv", ["prunesweep", "plan", "s.yaml"])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        assert not Path("prunesweep-store").exists()
        said = capsys.readouterr().err.removeprefix("prunesweep: ")
        return (2, said) if exit.value.code == 2 else (int(exit.value.code or 0), "")

    return planned


class TestCrops:
    def test_of_more_than_an_image_can_reflect(self, planned: Planned) -> None:
        code, said = planned(train="{augment: {crop_padding: [0, 7, 8]}}")
        assert code == 2
        assert said == (
            "s.yaml:5:40: train.augment.crop_padding.2: digits: 8x8 images have no 8 pixels beside "
            "a border to reflect; choose at most 7, or padding_mode: zeros\n"
        )

    def test_the_shorter_side_of_an_image_counts(self, planned: Planned) -> None:
        for shade, place in enumerate(("train/a", "train/b", "test/a", "test/b")):
            folder = Path("wide", place)
            folder.mkdir(parents=True)
            Image.fromarray(np.full((4, 9), shade, np.uint8)).save(folder / "x.png")
        wide = {"dataset": "{name: image_folder, path: wide}\ndata_root: ."}
        assert planned(**wide, train="{augment: {crop_padding: 3}}")[0] == 0
        code, said = planned(**wide, train="{augment: {crop_padding: 4}}")
        assert code == 2
        assert "4x9 images have no 4 pixels" in said

    def test_a_milestone_that_is_never_reached(self, planned: Planned) -> None:
        schedule = "{lr_schedule: {name: step, milestones: [[1, 2], [2, 5, 9]]}, epochs: 3}"
        code, said = planned(train=schedule)
        assert code == 2
        assert said == (
            "s.yaml:5:56: train.lr_schedule.milestones.1: 5, 9 would never be reached: there are 3 "
            "epochs; leave it out, or train longer\n"
        )

    def test_milestones_in_steps_are_before_the_last_one(self, planned: Planned) -> None:
        schedule = "lr_schedule: {name: step, milestones: [%s]}"
        train = "{lr_interval: step, batch_size: 100, epochs: 3, " + schedule + "}"
        subset = "{name: digits, subset: 200}"
        assert planned(dataset=subset, train=train % "4, 5") == (0, "")
        code, said = planned(dataset=subset, train=train % "4, 6")
        assert code == 2
        assert said.endswith(
            "train.lr_schedule.milestones: 6 would never be reached: there are 6 steps; leave it "
            "out, or train longer\n"
        )

    @pytest.mark.parametrize(
        ("train", "at", "field", "reason"),
        [
            ("{epochs: 3, warmup_epochs: [0, 2, 3]}", "3]", "warmup_epochs.2",
             "the training is 3 epochs, all of which would be warmup; choose at most 2, or train "
             "longer"),
            ("{epochs: 3, batch_size: 100, warmup_steps: 6}", "6", "warmup_steps",
             "the training is 6 steps on digits, all of which would be warmup; choose at most 5, "
             "or train longer"),
            ("{warmup_epochs: 2, warmup_steps: 6}", "{", "",
             "warmup_epochs and warmup_steps say the same; set one of them"),
            ("{optimizer: {name: adamw, weight_decay: -0.1}}", "-0.1", "optimizer.weight_decay",
             "-0.1 is out of range: it must be at least 0.0"),
            ("{cutout: [8, 9]}", "9", "cutout.1",
             "digits: a square of 9 pixels is larger than 8x8 images; choose at most 8"),
            ("{mixup: -0.1}", "-0.1", "mixup", "-0.1 is out of range: it must be at least 0.0"),
            ("{ema: 1}", "1", "ema", "1 is out of range: it must be less than 1.0"),
            ("{accumulate: 0}", "0", "accumulate", "0 is out of range: it must be greater than 0"),
            ("{lr_interval: batch}", "batch", "lr_interval",
             'unknown value "batch"; known: epoch, step'),
        ],
    )  # fmt: skip
    def test_what_a_recipe_cannot_be(
        self, planned: Planned, train: str, at: str, field: str, reason: str
    ) -> None:
        code, said = planned(dataset="{name: digits, subset: 200}", train=train)
        place = f"s.yaml:5:{len('train: ') + 1 + train.index(at)}: train"
        assert (code, said) == (2, f"{place}{field and '.'}{field}: {reason}\n")

    def test_a_rewinding_step_is_one_of_the_optimizer(self, planned: Planned) -> None:
        parts = {
            "dataset": "{name: digits, subset: 200}",
            "train": "{epochs: 3, batch_size: 50, accumulate: 3}",  # two steps an epoch
        }
        methods = "[{name: lottery_ticket, rewind: {step: %d}}]"
        assert planned(**parts, methods=methods % 5) == (0, "")
        code, said = planned(**parts, methods=methods % 6)
        assert code == 2
        assert "step 6 is past the end of training: 3 epochs of digits are 6 steps" in said

    def test_zeros_can_be_as_many_as_wanted(self, planned: Planned) -> None:
        train = "{augment: {crop_padding: 64, padding_mode: zeros}}"
        assert planned(train=train) == (0, "")


class TestBatchesOfOne:
    def test_where_images_have_become_one_pixel(self, planned: Planned) -> None:
        code, said = planned(model="[linear, cnn]", train="{batch_size: [2, 1]}")
        assert code == 2
        assert said.startswith("s.yaml:5:25: train.batch_size.1: cnn cannot be trained on a batch")
        assert said.endswith("; choose a larger batch_size\n")

    def test_of_one_training_example(self, planned: Planned) -> None:
        code, said = planned(model="resnet18", dataset="{name: digits, subset: 1}")
        assert code == 2
        assert said.startswith("s.yaml:3:33: dataset.subset: resnet18 cannot be trained on a batch")
        assert said.endswith("; choose a larger subset\n")

    @pytest.mark.parametrize("model", ["mlp", "{name: cnn, hidden: [4, 4]}", "resnet20"])
    def test_that_a_network_can_take(self, planned: Planned, model: str) -> None:
        assert planned(model=model, train="{batch_size: 1}") == (0, "")

    def test_a_last_batch_of_one_is_left_out(self, planned: Planned) -> None:
        assert planned(model="cnn", dataset="{name: digits, subset: 51}") == (0, "")


class TestMethods:
    def test_a_last_layer_that_would_take_all_weights(self, planned: Planned) -> None:
        random = "[{name: random, density: [0.1, 0.01], layer_densities: [erk, smart_ratio]}]"
        code, said = planned(model="[linear, {name: mlp, hidden: [64]}]", methods=random)
        assert code == 2
        assert said == (
            "s.yaml:6:41: methods.0.density.1: mlp: density 0.01 keeps 48 of 4,736 weights, and "
            "smart_ratio keeps 192 of the last layer alone; choose a density of 0.041 or more, or "
            "another layer_densities\n"
        )

    def test_no_layer_that_n_of_m_can_prune(self, planned: Planned) -> None:
        assert planned(methods="[{name: nm, n: 1, m: 8}]") == (0, "")
        assert planned(methods="[{name: nm, m: [4, 6]}]") == (
            2,
            "s.yaml:6:29: methods.0.m.1: mlp: no layer has a number of inputs that 6 divides; "
            "choose another m\n",
        )


class TestPluggedIn:
    @pytest.mark.parametrize(
        ("train", "field", "reason"),
        [
            ("{augment: shrunk}", "augment", "gives torch.uint8 (2, 1, 4, 8) for images"),
            ("{augment: broken}", "augment", "the augmentation broken cannot be used: RuntimeE"),
            ("{loss: averaged}", "loss", "the loss averaged gives torch.float32 ()"),
            ("{optimizer: none_at_all}", "optimizer", "gives NoneType, no torch.optim.Optimizer"),
            ("{optimizer: of_words}", "optimizer", "the optimizer of_words cannot be used: TypeE"),
            ("{lr_schedule: below_zero}", "lr_schedule", "gives -198.9 in epoch 199 of 200"),
        ],
    )
    def test_what_cannot_be_used(
        self, planned: Planned, train: str, field: str, reason: str
    ) -> None:
        code, said = planned(plugins="plugins: [lab.py]", train=train)
        assert code == 2
        assert said.startswith(f"s.yaml:5:{11 + len(field)}: train.{field}: lab.py:")
        assert reason in said
        assert len(said.splitlines()) == 1

    def test_what_can(self, planned: Planned) -> None:
        train = "{augment: same, loss: squared, optimizer: plain, lr_schedule: falling}"
        assert planned(plugins="plugins: [lab.py]", train=train) == (0, "")


class TestTooMuch:
    """Found at once, and not by counting up to it or by taking the memory."""

    @pytest.mark.parametrize(
        ("parts", "said"),
        [
            (
                {"methods": "[{name: imp, density: 0.1, ratio: [0.2, 1e-7]}]"},
                "6:50: methods.0.ratio.1: a ratio of 1e-07 takes 23,025,850 iterations to the "
                "density 0.1, and at most 1,000 are allowed; choose a ratio of 0.0023 or more",
            ),
            (
                {"methods": "[{name: imp, density: 1e-3, ratio: 1e-300}]"},
                "6:45: methods.0.ratio: a ratio of 1e-300 takes 7e+300 iterations to the density "
                "0.001, and at most 1,000 are allowed; choose a ratio of 0.0069 or more",
            ),
            (
                {"methods": "[{name: synflow, density: 0.1, rounds: 1000000000}]"},
                "6:49: methods.0.rounds: 1000000000 is out of range: it must be at most 10000",
            ),
            (
                {"methods": "[{name: snip, density: 0.1, data: normal, examples: 10000000000}]"},
                "6:62: methods.0.examples: 10000000000 is out of range: it must be at most 1000000",
            ),
            (
                {"model": "{name: mlp, hidden: [16, 1000000000]}"},
                "4:33: model.hidden.1: 1000000000 is out of range: it must be at most 1000000",
            ),
            (
                {"model": "[linear, {name: mlp, hidden: [100000, 100000]}]"},
                "4:17: model.1: mlp has 10,007,600,010 weights for 1x8x8 images, and at most "
                "2,147,483,648 are allowed; choose a smaller one",
            ),
            (
                {"train": "{epochs: 1000000000000}"},
                "5:17: train.epochs: 1000000000000 is out of range: it must be at most 100000",
            ),
            (
                {"train": f"{{epochs: {[*range(1, 1001)]}}}\nseeds: {[*range(1000)]}"},
                "7:11: methods.0: the lineages have more than 10,000,000 iterations together; "
                "shorten prune.iterations or axes, or divide the sweep",
            ),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_is_refused(self, planned: Planned, parts: dict[str, str], said: str) -> None:
        assert planned(**parts) == (2, f"s.yaml:{said}\n")

    @pytest.mark.parametrize(("density", "ratio"), [("0.1", "0.0023"), ("1", "1e-17")])
    def test_what_is_just_not_too_much(self, planned: Planned, density: str, ratio: str) -> None:
        imp = f"[{{name: imp, density: {density}, ratio: {ratio}}}]"
        assert planned(methods=imp) == (0, "")

    def test_the_largest_grid_there_can_be_is_refused_early(
        self, planned: Planned, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # What each iteration takes is what must not happen ten million times.
        monkeypatch.setattr(planning, "lineage_keys", None)
        code, said = planned(
            train="{epochs: 2}\nprune: {iterations: 1000}\nseeds: " + str([*range(9_991)])
        )
        assert code == 2
        assert "more than 10,000,000 iterations" in said


class TestTheSameTwice:
    def folders(self) -> None:
        random = np.random.RandomState(0)
        for split in ("train", "test"):
            for label in ("a", "b"):
                pixels = random.randint(0, 256, (8, 8), np.uint8)
                for name in ("one", "copy"):
                    folder = Path(name, split, label)
                    folder.mkdir(parents=True)
                    Image.fromarray(pixels).save(folder / "x.png")

    def test_datasets_of_equal_content(self, planned: Planned) -> None:
        self.folders()
        datasets = "\n  - {name: image_folder, path: one}\n  - {name: image_folder, path: copy}"
        assert planned(dataset=f"{datasets}\ndata_root: .") == (
            2,
            "s.yaml:5:5: dataset.1: the same as dataset.0 at s.yaml:4:5: the content of its files "
            "is equal; remove one\n",
        )

    def test_datasets_along_an_axis(self, planned: Planned) -> None:
        self.folders()
        dataset = "{name: image_folder, holdout: [0, 1], path: [one, ./one, copy]}\ndata_root: ."
        code, said = planned(dataset=dataset)
        assert code == 2
        place = "s.yaml:3:60: dataset.path.1: the same as dataset.path.0 at s.yaml:3:55: "
        assert said.startswith(place)

    def test_other_parts_of_equal_content_are_not_the_same(self, planned: Planned) -> None:
        self.folders()
        both = "[{name: image_folder, path: one}, {name: image_folder, path: copy, holdout: 1}]"
        assert planned(dataset=f"{both}\ndata_root: .") == (0, "")

    @pytest.mark.parametrize(
        ("parts", "said"),
        [
            (
                {"model": "[mlp, {name: mlp, hidden: [128, 256]}]"},
                "4:14: model.1: means the same as model.0 at s.yaml:4:9; remove one",
            ),
            (
                {"model": "[mlp, mlp]"},
                '4:14: model.1: "mlp" is listed twice, first at s.yaml:4:9; remove one',
            ),
            (
                {"methods": "[{name: snip, density: [0.1, 0.2]}, {name: snip, density: 0.2}]"},
                "6:46: methods.1: means the same as methods.0 at s.yaml:6:11; remove one",
            ),
            (
                {"train": "{optimizer: {name: sgd, lr: [1, 0.5, 1.0]}}"},
                "5:45: train.optimizer.lr.2: means the same as train.optimizer.lr.0 at s.yaml:5:37;"
                " remove one",
            ),
        ],
    )
    def test_two_spellings_of_one_value(
        self, planned: Planned, parts: dict[str, str], said: str
    ) -> None:
        assert planned(**parts) == (2, f"s.yaml:{said}\n")
