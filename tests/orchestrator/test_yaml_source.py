"""A sweep file either becomes the SweepSpec it says, or one message that says what to change."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from math import inf
from pathlib import Path
from typing import Annotated, Any, TypeAlias, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.sweepfile import yaml_document
from orchestrator.sweepfile.axes import members
from orchestrator.sweepfile.spec import SweepSpec, cells, parameter, swept_parameters
from orchestrator.sweepfile.yaml_document import Place, SweepFileError
from orchestrator.sweepfile.yaml_source import NAMED, load_sweep, locate
from trainables.config import Config
from trainables.plugins.entry import BUILT_IN, Named
from trainables.pruning.methods.one_shot import OneShot
from trainables.pruning.methods.sap import SAP
from trainables.training.schedules import StepDecay

SMALLEST = "name: a\ndataset: fashion_mnist\nmodel: mlp\nmethods: [one_shot]\n"

EXAMPLE = """\
name: sap-fashion-mlp
dataset: fashion_mnist
model: mlp
seeds: [0, 1, 2, 3]
train:
  epochs: 200
  batch_size: 250
  optimizer: {name: sgd, lr: 0.1, momentum: 0.9, nesterov: true, weight_decay: 5.0e-4}
  lr_schedule: {name: cosine}
  clip_grad_norm: 1.0
prune:
  iterations: 30
  scope: [global, layer, neuron]
methods:
  - {name: one_shot, ratio: 0.2}
  - {name: lottery_ticket, ratio: 0.2, rewind: {step: 0}}
  - {name: sap, p: 0.5, q: 1.0}
  - {name: sap, p: 1.0, q: 2.0, eta: 0, gamma: 1.0, beta: 0.9}
resources: {gpus_per_lineage: auto, cpus_per_lineage: 1}
wandb: {project: pruning, mode: offline}
"""

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)

Load: TypeAlias = Callable[..., SweepSpec]
Refused: TypeAlias = Callable[..., str]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads text or bytes as `s.yaml`, from the folder that holds nothing else."""
    monkeypatch.chdir(tmp_path)

    def load(content: str | bytes, *overrides: str) -> SweepSpec:
        data = content.encode() if isinstance(content, str) else content
        Path("s.yaml").write_bytes(data)
        try:
            return load_sweep("s.yaml", overrides)
        finally:
            assert os.listdir() == ["s.yaml"]

    return load


@pytest.fixture
def refused(load: Load) -> Refused:
    def refused(content: str | bytes, *overrides: str) -> str:
        with pytest.raises(SweepFileError) as caught:
            load(content, *overrides)
        message = str(caught.value)
        assert all(line.isprintable() for line in message.split("\n"))
        assert all(len(line) < 1000 for line in message.split("\n"))
        return message

    return refused


# --- files that are wrong


@pytest.mark.parametrize(
    ("content", "place", "phrases"),
    [
        (b"", "1:1", ["nothing here"]),
        (b"# only a comment\n", "1:1", ["nothing here"]),
        (b"- a\n- b\n", "1:1", ["mapping", "a list"]),
        (b"just text", "1:1", ["mapping", "text"]),
        (b"null", "1:1", ["mapping", "null"]),
        (b"train:\n\tepochs: 3\n", "2:1", ["tab", "use spaces"]),
        (b"train:\n  epochs: 3\n\tbatch_size: 1\n", "3:1", ["tab", "use spaces"]),
        (b"\xef\xbb\xbfname: a\n", "1:1", ["BOM", "save it as UTF-8 without"]),
        ("name: a\n".encode("utf-16"), "1:1", ["BOM", "UTF-8"]),
        (b"name: a\nmodel: caf\xe9\n", "2:11", ["byte 18 (0xe9)", "UTF-8"]),
        (b"name: a\nmodel: \0\n", "2:8", ["NUL"]),
        (b"name: a\nmodel: \x07\n", "2:8", ["\\x07", "not allowed"]),
        (b"name: [a\n", "2:1", ["not valid YAML"]),
        (b"name: 'a\n", "2:1", ["not valid YAML"]),
        (b"name: a: b\n", "1:8", ["not valid YAML"]),
        (b"name: *nowhere\n", "1:7", ["undefined alias"]),
        (b'name: "\\U99999999"\n', "1:1", ["cannot be read as YAML"]),
        (b'name: "\\ud800"\n', "1:7", ['"\\ud800" cannot be read as Unicode text']),
        (b'"\\ud800": a\n', "1:1", ["a key must be Unicode text"]),
        (b'name: a\non_finish: "b\\0"\n', "2:12", ['"b\\u0000" cannot be read as Unicode text']),
        (b'"a\\0": a\n', "1:1", ["a key must be Unicode text"]),
        (b"name: a\n---\nname: b\n", "2:1", ["second YAML document"]),
        (b"name: a\nmodel: mlp\nname: b\n", "3:1", ["name", "already at s.yaml:1:1"]),
        (b"name: a\ntrain: {epochs: 1, epochs: 2}\n", "2:20", ["train.epochs", "already at"]),
        (b"name: a\n1: b\n", "2:1", ["key must be text"]),
        (b"name: a\n<<: {model: mlp}\n", "2:1", ["merge keys"]),
        (b"name: !!python/object:os.system ls\n", "1:7", ["tag !!python/object:os.system"]),
        (b"name: !mine x\n", "1:7", ["tag !mine"]),
        (b"name: !!int x\n", "1:7", ['"x" cannot be read as a whole number']),
        (b"# a\n%YAML 1.1\n---\nname: no\n", "2:1", ["YAML 1.2", "remove this line"]),
        (b"name: !!bool yes\n", "1:7", ['"yes" cannot be read as true or false']),
        (b"name: !!null x\n", "1:7", ['"x" cannot be read as null']),
        (b"name: " + b"9" * 5000, "1:7", ["whole number"]),
        (b"name: &a [*a]\n", "1:7", ["alias to itself"]),
        (BOMB.encode(), "1:1", ["100,000"]),
        (b"name: " + b"[" * 60 + b"]" * 60, "1:56", ["nested"]),
        (b"[" * 5000, "1:51", ["nested"]),
    ],
)
def test_text_that_is_no_sweep(
    refused: Refused, content: bytes, place: str, phrases: list[str]
) -> None:
    message = refused(content)
    assert message.startswith(f"s.yaml:{place}: ")
    assert all(phrase in message for phrase in phrases), message


@pytest.mark.parametrize(
    ("yaml", "place", "phrases"),
    [
        # keys and names
        ("epochs: 3", "5:1", ['epochs: unknown key "epochs"', "known: name, dataset"]),
        ("sedes: [1]", "5:1", ['did you mean "seeds"?']),
        ("train: {epoch: 3}", "5:9", ["train.epoch", 'did you mean "epochs"?']),
        (
            "train:\n  optimizer: {name: sgd, learning_rate: 1}",
            "6:26",
            ["train.optimizer.learning_rate"],
        ),
        ("train: {optimizer: sdg}", "5:20", ['unknown optimizer "sdg"', '"sgd"?']),
        ("train: {optimizer: {name: lion}}", "5:20", ['optimizer "lion"', "known: sgd, adam"]),
        (
            "train: {optimizer: {beta1: 0.1}}",
            "5:21",
            ["train.optimizer.beta1", "known: name, lr", "(without a name, this is sgd)"],
        ),
        (
            "train: {lr_schedule: {factor: 0.1}}",
            "5:23",
            ['unknown key "factor"', "(without a name, this is cosine)"],
        ),
        ("seeds: {count: 0}", "5:16", ["seeds.count: say how many seeds", "{count: 3} for 0, 1"]),
        ("seeds: {first: 1}", "5:8", ["seeds.count: say how many"]),
        ("seeds: {count: 3, from: 1}", "5:19", ['seeds.from: unknown key "from"', "count, first"]),
        ("seeds: {count: 3, first: 4294967294}", "5:26", ["seeds.first: the seeds are from 0 to"]),
        ("train: {optimizer: 3}", "5:20", ["3 is a number, not a name or a mapping"]),
        ("prune: {scope: globl}", "5:16", ['prune.scope: unknown value "globl"', '"global"?']),
        ("prune: {scope: [global, layers]}", "5:25", ["prune.scope.1", '"layer"?']),
        # types
        (
            'train: {optimizer: {name: sgd, lr: "1e-3"}}',
            "5:36",
            ['train.optimizer.lr: "1e-3" is text, not a number; write 1e-3 without quotes'],
        ),
        (
            "train: {optimizer: {name: sgd, lr: no}}",
            "5:36",
            ['train.optimizer.lr: "no" is text, not a number'],
        ),
        (
            "train: {optimizer: {name: sgd, nesterov: no}}",
            "5:42",
            ['"no" is text, not true or false'],
        ),
        ("train: {epochs: true}", "5:17", ["train.epochs: true is a truth value, not a whole"]),
        ("train: {epochs: 2.0}", "5:17", ["2.0 is a number, not a whole number; write 2"]),
        ("train: {epochs: 2.5}", "5:17", ["2.5 is a number, not a whole number"]),
        ('train: {epochs: "2"}', "5:17", ["write 2 without quotes"]),
        ("train: {epochs: [1, [2]]}", "5:21", ["train.epochs.1", "a list, not a whole number"]),
        ("train: {clip_grad_norm: false}", "5:25", ["not a number"]),
        ("train: 3", "5:8", ["train: 3 is a number, not a mapping"]),
        ("resources: [1]", "5:12", ["a list, not a mapping"]),
        ("resources: {gpus_per_lineage: a}", "5:31", ["auto, or a share of one GPU"]),
        ("resources: {gpus_per_lineage: -1}", "5:31", ["auto, or a share of one GPU"]),
        ("resources: {gpus_per_lineage: 1.5}", "5:31", ["auto, or a share of one GPU"]),
        ("resources: {gpus_per_lineage: .nan}", "5:31", ["auto, or a share of one GPU"]),
        ("resources: {cpus_per_lineage: 0}", "5:31", ["at least 1"]),
        ("resources: {retries: [1, 2]}", "5:22", ["cannot be an axis"]),
        ("store: {keep_weights: lst}", "5:23", ['did you mean "last"?']),
        ("store: {checkpoint_minutes: 0}", "5:29", ["greater than 0"]),
        ("wandb: {mode: on}", "5:15", ['wandb.mode: unknown value "on"']),
        ("wandb: {tags: [1]}", "5:16", ["wandb.tags.0", "put it in quotes"]),
        ("wandb: {tags: a}", "5:15", ["not a list"]),
        ("data_root: 3", "5:12", ["put it in quotes"]),
        # nothing where a value is needed
        ("train:", "5:1", ["train: a value is needed"]),
        ("train: {epochs: null}", "5:17", ["train.epochs: a value is needed"]),
        ("train: {epochs: [1, ~]}", "5:21", ["train.epochs.1: a value is needed"]),
        ("resources: {gpus_per_lineage: ~}", "5:31", ["a value is needed"]),
        ("seeds:", "5:1", ["a value is needed"]),
        ("exclude:", "5:1", ["a value is needed"]),
        # numbers
        ("train: {optimizer: {name: sgd, lr: .nan}}", "5:36", ["nan is not finite"]),
        ("train: {optimizer: {name: sgd, lr: .inf}}", "5:36", ["inf is not finite"]),
        ("train: {optimizer: {name: sgd, lr: 1e999}}", "5:36", ["not finite"]),
        ("train: {optimizer: {name: sgd, lr: " + "9" * 400 + "}}", "5:36", ["is too large"]),
        ("train: {epochs: 0}", "5:17", ["train.epochs: 0 is out of range", "greater than 0"]),
        ("train: {epochs: -3}", "5:17", ["-3 is out of range", "greater than 0"]),
        ("train: {epochs: 1e3}", "5:17", ["write 1000"]),
        ("prune: {iterations: -1}", "5:21", ["at least 0"]),
        ("prune: {iterations: 1001}", "5:21", ["at most 1000"]),
        ("seeds: [-1]", "5:9", ["seeds.0: -1 is out of range", "at least 0"]),
        ("seeds: -1", "5:8", ["seeds: -1 is out of range"]),
        ("seeds: [0, 4294967296]", "5:12", ["less than 4294967296"]),
        ("seeds: [0, 99999999999999999999999]", "5:12", ["less than 4294967296"]),
        # axes
        ("seeds: []", "5:8", ["seeds: ", "empty"]),
        ("prune: {scope: []}", "5:16", ["prune.scope: ", "empty"]),
        ("train: []", "5:8", ["train: ", "empty"]),
        ("seeds: [3, 1, 3]", "5:15", ["seeds.2: 3 is listed twice"]),
        ("prune: {scope: [layer, global, layer]}", "5:32", ['"layer" is listed twice']),
        (
            "train: {optimizer: [sgd, {name: adam, lr: [0.1, 0.1]}]}",
            "5:49",
            ["train.optimizer.1.lr.1: 0.1 is listed twice"],
        ),
        (
            "train: {optimizer: [sgd, {name: sgd}]}",
            "5:26",
            ["train.optimizer.1: means the same as train.optimizer.0"],
        ),
        (
            "train: {optimizer: {name: sgd, lr: [1, 1.0]}}",
            "5:40",
            ["train.optimizer.lr.1: means the same as train.optimizer.lr.0"],
        ),
        ("prune: {iterations: [3, 5]}", "5:25", ["iterations cannot be an axis", "iterations: 5"]),
        (
            "prune: [{iterations: 3}, {scope: layer}]",
            "5:26",
            ["iterations cannot be an axis", "iterations: 30"],
        ),
        ("train: {optimizer: {name: [sgd, adam]}}", "5:27", ["list whole entries"]),
        (
            f"seeds: {[*range(1100)]}\ntrain: {{epochs: {[*range(1, 1001)]}}}",
            "5:8",
            ["1,100,000 cells", "1,000,000"],
        ),
        (
            "measures: [{name: intrinsic_dimension, dimensions: []}]",
            "5:52",
            ["[] is too short", "1"],
        ),
        ("wandb: {tags: ['']}", "5:16", ['"" is too short: it must not be empty']),
        ("train: {ema: 99}", "5:14", ["less than 1.0; it is a share of 1: 99 % is ema: 0.99"]),
        ("prune: {stop: {when: accuracy_below, value: 80}}", "5:45", ["80 % is value: 0.8"]),
        (
            "prune: {stop: {name: density_below, value: 0.1}}",
            "5:15",
            ['prune.stop.0: say which stop rule by when: "density_below", not by name'],
        ),
        (
            "measures: [lmc, lmc_consecutive]\nstore: {keep_weights: last}",
            "5:17",
            ["measures.1: lmc_consecutive reads the trained weights"],
        ),
        # exclude
        ("exclude: {scope: layer}", "5:10", ["a mapping, not a list"]),
        ("exclude: [layer]", "5:11", ["text, not a mapping"]),
        ("exclude: [{}]", "5:11", ["needs a condition"]),
        ("exclude: [{scop: layer}]", "5:12", ['did you mean "scope"?']),
        ("exclude: [{train.optimizer.rl: 1}]", "5:12", ['did you mean "train.optimizer.lr"?']),
        (
            "exclude: [{scope: layer}]",
            "5:19",
            ["exclude.0.scope: no cell", 'they have "global"; correct or remove it'],
        ),
        (
            f"seeds: {[*range(9)]}\nexclude: [{{seed: 9}}]",
            "6:18",
            ["have 0, 1, 2, 3, 4, 5, 6, 7, …;"],
        ),
        ("exclude: [{scope: {a: 1}}]", "5:19", ["no cell"]),
        ("exclude: [{train.optimizer.nesterov: 1}]", "5:38", ["no cell"]),
        ("exclude: [{train.epochs: 200, train.batch_size: 1}]", "5:49", ["no cell"]),
        (
            f"seeds: {[*range(1000)]}\ntrain: {{epochs: {[*range(1, 1001)]}}}\n"
            f"exclude: {[{'seed': i} for i in range(101)]}",
            "7:10",
            ["exclude: 101 entries for 1,000,000 cells are too many", "as in {seed: [0, 1]}"],
        ),
        (
            "seeds: [0, 1]\nexclude: [{seed: 0}, {seed: [1, 7]}]",
            "6:10",
            ["every cell is excluded"],
        ),
    ],
)
def test_a_mistake_has_one_clear_message(
    refused: Refused, yaml: str, place: str, phrases: list[str]
) -> None:
    message = refused(SMALLEST + yaml + "\n")
    assert message.startswith(f"s.yaml:{place}: ")
    assert all(phrase in message for phrase in phrases), message


@pytest.mark.parametrize(
    ("section", "place", "phrases"),
    [
        ("name: ../a", "1:7", ["name: ", "letters, digits"]),
        ("name: a..b", "1:7", ["name: ", "single '.'"]),
        ('name: "a\\nb"', "1:7", ["name: ", "letters, digits"]),
        (f"name: {'a' * 300}", "1:7", ["1 to 100 characters, this one 300"]),
        ('name: ""', "1:7", ["1 to 100 characters"]),
        ("name: 2026", "1:7", ["2026 is a number, not text; put it in quotes"]),
        ("name: ~", "1:7", ["a value is needed"]),
        ("dataset: fashion_mnits", "2:10", ['dataset "fashion_mnits"', '"fashion_mnist"?']),
        ("dataset: {name: fashon_mnist}", "2:10", ['unknown dataset "fashon_mnist"']),
        ("dataset: ~", "2:10", ["dataset: a value is needed"]),
        ("dataset: []", "2:10", ["empty"]),
        ("model: mpl", "3:8", ['unknown model "mpl"', '"mlp"?']),
        ("model: [mlp, zzz]", "3:14", ["model.1", 'unknown model "zzz"; known: ', "mlp"]),
        ("model: [mlp, mlp]", "3:14", ['"mlp" is listed twice']),
        ("model: [mlp, {name: mlp}]", "3:14", ["model.1: means the same as model.0"]),
        ("methods: [sapp]", "4:11", ["methods.0", 'unknown method "sapp"; did you mean "sap"?']),
        ("methods: [SAP]", "4:11", ['did you mean "sap"?']),
        ("methods: []", "4:10", ["empty"]),
        ("methods: [sap, {name: sap, p: 0.5}]", "4:16", ["methods.1: means the same as methods.0"]),
        ("methods: [{name: sap, p: 0.5, q: 1, p: 1}]", "4:37", ["already at"]),
        ("methods: [{name: sap, p: 1.0, q: 1.0}]", "4:11", ["methods.0: p = 1 must be below"]),
        ("methods: [{name: snip, density: -0.1}]", "4:33", ["methods.0.density", "greater than 0"]),
        ("methods: [{name: snip, density: 0}]", "4:33", ["greater than 0"]),
        ("methods: [{name: snip, density: 1.7}]", "4:33", ["at most 1"]),
        (
            "methods: [{name: snip, density: 10}]",
            "4:33",
            ["at most 1.0; it is a share of 1: 10 % is density: 0.1"],
        ),
        ("methods: [{name: snip, density: [5, 0.1]}]", "4:34", ["5 % is density: 0.05"]),
        ("methods: [{name: sap}, {name: one_shot, ratio: 20}]", "4:48", ["20 % is ratio: 0.2"]),
        (
            "methods: [{name: snip, density: 0.1, sparsity: 0.95}]",
            "4:38",
            ["methods.0.sparsity", "say what remains: a sparsity of 0.95 is density: 0.05"],
        ),
        ('methods: [{name: snip, density: "90"}]', "4:33", ['"90" is text, not a number']),
        ("methods: [snip]", "4:11", ["density"]),
        ("methods: [{name: one_shot, ratio: 1}]", "4:35", ["methods.0.ratio", "less than 1"]),
        ("methods: [{name: one_shot, ratio: 0}]", "4:35", ["greater than 0"]),
        ("methods: [{name: one_shot, ratio: -0.1}]", "4:35", ["greater than 0"]),
        (
            "methods: [{name: one_shot, ratio: 20%}]",
            "4:35",
            ['"20%" is text, not a number; write 0.2'],
        ),
        ("methods: [{name: one_shot, ratio: [0.1, 3.0]}]", "4:41", ["methods.0.ratio.1: 3.0"]),
        ("methods: [{name: one_shot, density: 0.1}]", "4:28", ['unknown key "density"']),
        (
            "methods: [{name: lottery_ticket, rewind: {step: -1}}]",
            "4:49",
            ["methods.0.rewind.step", "at least 0"],
        ),
    ],
)
def test_a_mistake_in_a_required_section(
    refused: Refused, section: str, place: str, phrases: list[str]
) -> None:
    key = section.partition(":")[0]
    lines = [section if line.startswith(f"{key}:") else line for line in SMALLEST.splitlines()]
    message = refused("\n".join(lines))
    assert message.startswith(f"s.yaml:{place}: ")
    assert all(phrase in message for phrase in phrases), message


@pytest.mark.parametrize("key", ["name", "dataset", "model", "methods"])
def test_a_missing_section(refused: Refused, key: str) -> None:
    lines = [line for line in SMALLEST.splitlines() if not line.startswith(key)]
    assert refused("\n".join(lines)) == f"s.yaml:1:1: {key}: is missing; add {key}: …"


def test_all_mistakes_are_told_a_line_for_each(refused: Refused) -> None:
    yaml = "train: {epochs: 0, batch_size: [1, -2, -3]}\nseeds: 1.5\n"
    lines = refused(SMALLEST + yaml).splitlines()
    assert [line.split(" is ")[0] for line in lines] == [
        "s.yaml:5:17: train.epochs: 0",
        "s.yaml:5:36: train.batch_size.1: -2",
        "s.yaml:5:40: train.batch_size.2: -3",
        "s.yaml:6:8: seeds: 1.5",
    ]


def test_a_wrong_axis_hides_no_other_mistake(refused: Refused) -> None:
    yaml = (
        "seeds: []\ntrain: {epochs: [0, 1], batch_size: []}\nprune: {scop: layer, iterations: -1}\n"
    )
    lines = refused(SMALLEST + yaml + "exclude: [{scope: layer}]\na: 1\n").splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "seeds", "train.epochs.0", "train.batch_size", "prune.scop", "prune.iterations", "a",
    ]  # fmt: skip
    lines = refused(SMALLEST.replace("[one_shot]", "[]") + "train: {epoch: 1}").splitlines()
    assert [line.split(": ")[1] for line in lines] == ["methods", "train.epoch"]


def test_of_very_many_mistakes_some_are_counted(refused: Refused) -> None:
    methods = ", ".join(f"{{name: sap, p: {-n}}}" for n in range(1, 26))
    lines = refused(SMALLEST.replace("[one_shot]", f"[{methods}]") + "a: 1").splitlines()
    assert len(lines) == 21
    assert lines[-1] == "and 6 more"  # with the key


def test_options_of_a_default_are_set_without_its_name(load: Load) -> None:
    yaml = SMALLEST + "train: {optimizer: {lr: [0.1, 0.2]}, loss: {label_smoothing: 0.1}}\n"
    spec = load(yaml)
    assert [recipe.optimizer.lr for recipe in spec.train] == [0.1, 0.2]
    assert {recipe.loss.model_dump()["label_smoothing"] for recipe in spec.train} == {0.1}
    named = load(SMALLEST + "train: {optimizer: {name: sgd, lr: 0.01}}")
    assert load(SMALLEST, "train.optimizer.lr=0.01") == named
    adam = load(SMALLEST + "train: {optimizer: {name: adam, lr: 0.01}}")
    assert load(SMALLEST + "train: {optimizer: adam}", "train.optimizer.lr=0.01") == adam
    named = SMALLEST.replace("one_shot", "{name: one_shot, ratio: 0.5}")
    named = named.replace("model: mlp", "model: {name: mlp, hidden: [3]}")
    assert load(SMALLEST, "methods.0.ratio=0.5", "model.hidden=[3]") == load(named)


def test_options_of_whatever_is_named_are_set_where_its_name_stands_alone(load: Load) -> None:
    """Of all that a sweep file names; whoever adds a field of names adds it to NAMED."""
    assert dict(_named_fields(SweepSpec, set())) == NAMED
    alone = SMALLEST + "ablations: [reinit]\nprune: {stop: pq_index_rises}\n"
    options = ("ablations.0.at=2", "prune.stop.times=3")
    named = "ablations: [{name: reinit, at: 2}]\nprune: {stop: {when: pq_index_rises, times: 3}}\n"
    assert load(alone, *options) == load(SMALLEST + named)
    listed = alone.replace("stop: pq_index_rises", "stop: [pq_index_rises]")
    assert load(listed, "ablations.0.at=2", "prune.stop.0.times=3") == load(SMALLEST + named)


def _named_fields(config: type[Config], seen: set[Any]) -> Iterator[tuple[str, str]]:
    """The fields of entries in a config, at any depth, with the key that has their names."""
    if config in seen:
        return
    seen.add(config)
    for name, field in config.model_fields.items():
        for member in _members(Annotated[field.annotation, *field.metadata, None]):
            if isinstance(member, Named):
                yield name, member.kind.key
                for entry in BUILT_IN.of(member.kind).values():
                    yield from _named_fields(entry, seen)
            elif isinstance(member, type) and issubclass(member, Config):
                yield from _named_fields(member, seen)


def _members(kind: Any) -> Iterator[Any]:
    for member in members(kind):
        if get_origin(member) is tuple:
            yield from _members(get_args(member)[0])
        else:
            yield member


@pytest.mark.parametrize("section", ["stop: {when: density_below, value: 5}",
                                     "stop: [{when: density_below, value: 5}]"])  # fmt: skip
def test_a_mistake_of_what_alone_stands_for_a_list_has_its_own_place(
    refused: Refused, section: str
) -> None:
    lines = ["prune:", f"  {section}"]
    column = lines[1].index("5") + 1
    told = refused(SMALLEST + "\n".join(lines))
    assert told.startswith(f"s.yaml:6:{column}: prune.stop.0.value: 5 is out of range")
    unknown = refused(SMALLEST + "\n".join(lines).replace("value", "valeu"))
    assert f"s.yaml:6:{lines[1].index('value') + 1}: prune.stop.0.valeu: unknown key" in unknown


def test_seeds_can_be_counted(load: Load) -> None:
    assert load(SMALLEST + "seeds: {count: 3}").seeds == (0, 1, 2)
    assert load(SMALLEST + "seeds: {count: 2, first: 7}").seeds == (7, 8)
    assert load(SMALLEST, "seeds.count=4").seeds == (0, 1, 2, 3)
    assert load(SMALLEST + "seeds: 3").seeds == (3,)


def test_paths_that_are_no_readable_file(tmp_path: Path) -> None:
    def refusal(path: Path | str) -> str:
        with pytest.raises(SweepFileError) as caught:
            load_sweep(path)
        return str(caught.value)

    assert "no such file" in refusal(tmp_path / "missing.yaml")
    assert "is a folder" in refusal(tmp_path)
    assert "not a regular file" in refusal("/dev/zero")
    assert "cannot be read" in refusal(f"{tmp_path}/{'a' * 400}")
    refusal("nul\0byte")
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (yaml_document.MAX_BYTES + 1))
    assert "larger than 1 MB" in refusal(large)
    if os.geteuid() != 0:  # root reads everything
        large.chmod(0)
        assert "cannot be read" in refusal(large)


# --- sweeps


def test_the_smallest_sweep_has_defaults(load: Load) -> None:
    spec = load(SMALLEST)
    assert spec.seeds == (0,)
    assert [config.epochs for config in spec.train] == [200]
    assert [(config.iterations, config.scope) for config in spec.prune] == [(30, "global")]
    assert spec.resources.gpus_per_lineage == "auto"
    assert (spec.store.keep_weights, spec.wandb.mode) == ("all", None)
    assert len(list(cells(spec))) == 1
    assert swept_parameters(spec) == ()


def test_the_example(load: Load) -> None:
    spec = load(EXAMPLE)
    assert len(list(cells(spec))) == 4 * 3 * 4
    assert [method.name for method in spec.methods] == ["one_shot", "lottery_ticket", "sap", "sap"]
    assert isinstance(spec.methods[3], SAP)
    assert isinstance(spec.methods[3].eta, float)  # written as 0
    assert swept_parameters(spec) == ("prune.scope", "method.p", "method.q")


def test_numbers_as_yaml_1_2_reads_them(load: Load) -> None:
    spec = load(SMALLEST + "train: {optimizer: {name: sgd, lr: 1e-3}, batch_size: 0x10}\n")
    assert spec.train[0].optimizer.lr == 1e-3
    assert spec.train[0].batch_size == 16
    assert load(SMALLEST + "seeds: 010").seeds == (10,)
    assert load(SMALLEST.replace("name: a", "name: 2026-01-31")).name == "2026-01-31"
    assert load(SMALLEST, "train.clip_grad_norm=.1e1").train[0].clip_grad_norm == 1.0


@pytest.mark.parametrize(
    ("written", "value"),
    [
        *((text, None) for text in ("", "~", "null", "Null", "NULL")),
        *((text, True) for text in ("true", "True", "TRUE")),
        *((text, False) for text in ("false", "False", "FALSE")),
        *(("0o17", 15), ("0x1F", 31), ("010", 10), ("08", 8), ("+1", 1), ("-010", -10), ("-0", 0)),
        *((".1e1", 1.0), ("-.5E-3", -5e-4), ("+.5", 0.5), ("1.", 1.0), ("5.e3", 5e3)),
        *(("1e-3", 1e-3), ("1E3", 1e3), ("12e03", 12e3), ("00.5", 0.5), ("0e-999", 0.0)),
        *((".inf", inf), ("-.Inf", -inf), ("+.INF", inf)),
        *(("!!float 1", 1.0), ("!!str 010", "010"), ("'1'", "1"), ("!!int 0x10", 16)),
        # numbers and truth values of YAML 1.1 and of Python, and what is nearly one of YAML 1.2
        *((text, text) for text in ("yes", "No", "ON", "off", "y", "tRue", "nUll", "none")),
        *((text, text) for text in ("1_000", "1_0.5", "0b11", "1:30", "1:30.5", "-0x1f", "+0o17")),
        *((text, text) for text in ("0O17", "0X1F", "0o8", "0x", "1e", ".e1", ".", "+", "++1")),
        *((text, text) for text in (".iNf", "-.nan", "inf", "2026-01-31", "1.0.0", "=")),
    ],
)
def test_scalars_are_those_of_the_core_schema(written: str, value: Any) -> None:
    found = yaml_document.parsed(
        f"[a: {written}]", lambda line, column: Place(line, column, "")
    ).data
    assert [(type(each), each) for each in found[0].values()] == [(type(value), value)]


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("1_000", "write 1000"),
        ("0b11", "write 3"),
        ("-0x1f", "write -31"),
        ("1_0.5", "write 10.5"),
        ("'.1e1'", "write .1e1 without quotes"),
        ("1:30", "not a number"),
        ("inf", "not a number"),
    ],
)
def test_a_number_of_another_language_is_told_how_to_be_one(
    refused: Refused, written: str, hint: str
) -> None:
    message = refused(SMALLEST + f"train: {{optimizer: {{name: sgd, lr: {written}}}}}\n")
    assert message.startswith("s.yaml:5:36: train.optimizer.lr: ")
    assert message.endswith(hint)


def test_a_number_that_would_become_zero_is_refused(refused: Refused) -> None:
    message = refused(SMALLEST + "train: {optimizer: {name: sgd, weight_decay: 1e-400}}\n")
    assert message == 's.yaml:5:46: "1e-400" cannot be read as a number'


def test_axes_multiply_and_cells_come_in_order(load: Load) -> None:
    spec = load(
        SMALLEST.replace("[one_shot]", "[one_shot, {name: sap, p: [0.5, 1], q: [2, 3]}]")
        + "train:\n"
        "  epochs: [1, 2]\n"
        "  optimizer: [{name: sgd, lr: [0.1, 0.01]}, adam]\n"
        "prune: {scope: [global, layer]}\n"
        "seeds: [5, 4]\n"
    )
    assert (len(spec.train), len(spec.methods)) == (6, 5)
    grid = list(cells(spec))
    assert len(grid) == len(set(grid)) == 6 * 2 * 5 * 2
    order = [
        (
            spec.train.index(cell.train),
            spec.prune.index(cell.prune),
            spec.methods.index(cell.method),
            spec.seeds.index(cell.seed),
        )
        for cell in grid
    ]
    assert order == sorted(order)
    lrs = [(config.epochs, config.optimizer.name, config.optimizer.lr) for config in spec.train]
    assert lrs[:3] == [(1, "sgd", 0.1), (1, "sgd", 0.01), (1, "adam", 0.001)]
    swept = swept_parameters(spec)
    assert swept == (
        "train.epochs",
        "train.optimizer.name",
        "train.optimizer.lr",
        "prune.scope",
        "method.p",
        "method.q",
    )
    assert [parameter(grid[0], name) for name in swept] == [1, "sgd", 0.1, "global", None, None]
    assert parameter(grid[-1], "method.q") == 3.0


def test_an_axis_can_hold_whole_sections_and_mistakes_in_it_are_found(
    load: Load, refused: Refused
) -> None:
    yaml = "train:\n- {epochs: [1, 2], batch_size: [3, 4]}\n- {epochs: [5, 6], batch_size: [7, 8]}"
    assert [config.epochs for config in load(SMALLEST + yaml).train] == [1, 1, 2, 2, 5, 5, 6, 6]
    message = refused(SMALLEST + yaml.replace("6", "x"))
    assert message == 's.yaml:7:16: train.1.epochs.1: "x" is text, not a whole number'


def step_decay(*milestones: int) -> StepDecay:
    return StepDecay(name="step", milestones=milestones)


def test_where_the_schema_has_a_list_an_axis_is_a_list_of_lists(load: Load) -> None:
    one = load(SMALLEST + "train: {lr_schedule: {name: step, milestones: [80, 120]}}")
    assert [config.lr_schedule for config in one.train] == [step_decay(80, 120)]
    two = load(SMALLEST + "train: {lr_schedule: {name: step, milestones: [[80, 120], []]}}")
    assert [config.lr_schedule for config in two.train] == [step_decay(80, 120), step_decay()]
    assert swept_parameters(two) == ("train.lr_schedule.milestones",)


def test_an_element_of_a_list_value_is_located(refused: Refused) -> None:
    message = refused(SMALLEST + "train: {lr_schedule: {name: step, milestones: [80, x]}}")
    assert message.startswith('s.yaml:5:52: train.lr_schedule.milestones.1: "x" is text')


def test_anchors_are_values_of_their_own(load: Load) -> None:
    yaml = (
        SMALLEST.replace("[one_shot]", "[{name: one_shot, ratio: &r 0.3}, &s {name: sap}]")
        + "train: {optimizer: {name: sgd, lr: *r}}\n"
    )
    assert load(yaml).train[0].optimizer.lr == 0.3
    assert load(yaml, "methods.0.ratio=0.4").train[0].optimizer.lr == 0.3


def test_exclude_drops_cells(load: Load) -> None:
    spec = load(
        EXAMPLE + "exclude:\n"
        "  - {method: sap, method.p: 1.0, scope: [layer, neuron]}\n"
        "  - {seed: 3, dataset: fashion_mnist, model: mlp, train.optimizer.lr: 0.1}\n"
    )
    left = list(cells(spec))
    assert len(left) == 3 * (12 - 2)
    assert not any(cell.seed == 3 for cell in left)
    assert {cell.prune.scope for cell in left if parameter(cell, "method.p") == 1} == {"global"}


def test_exclude_compares_list_values(load: Load) -> None:
    yaml = SMALLEST + "train: {lr_schedule: {name: step, milestones: [[80, 120], [9], []]}}\n"
    for wanted, left in [("[9]", 2), ("[[9], []]", 1), ("[80, 120]", 2)]:
        spec = load(yaml + f"exclude: [{{train.lr_schedule.milestones: {wanted}}}]")
        assert len(list(cells(spec))) == left


def test_ten_thousand_cells(load: Load) -> None:
    spec = load(
        SMALLEST.replace("[one_shot]", "[one_shot, sap]")
        + f"seeds: {[*range(1000)]}\ntrain: {{epochs: [1, 2, 3, 4, 5, 6]}}\n"
        "exclude: [{method: sap, train.epochs: 6}]\n"
    )
    assert sum(1 for _ in cells(spec)) == 11_000


# --- overrides


def test_overrides_replace_and_create(load: Load) -> None:
    spec = load(
        EXAMPLE,
        "train.epochs=2",
        "methods.0.ratio=0.4",
        "prune.scope=[layer, neuron]",
        "store.keep_weights=last",
        "train.optimizer={name: adam, lr: 1e-3}",
        "name=b-c",
        "seeds=[7]",
    )
    assert (spec.name, spec.seeds) == ("b-c", (7,))
    assert (spec.train[0].epochs, spec.train[0].optimizer.name) == (2, "adam")
    assert isinstance(spec.methods[0], OneShot)
    assert spec.methods[0].ratio == 0.4
    assert [config.scope for config in spec.prune] == ["layer", "neuron"]
    assert spec.store.keep_weights == "last"


def test_an_override_can_supply_what_the_file_lacks(load: Load) -> None:
    assert load(SMALLEST.replace("name: a\n", "") + "train:\n", "name=b", "train.epochs=3")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs", "--set train.epochs: write --set KEY=VALUE"),
        ("=3", "write --set KEY=VALUE"),
        ("train..epochs=3", "write --set KEY=VALUE"),
        ("train.epochs=", "--set train.epochs: there is nothing here"),
        ("train.epochs=[1", "--set train.epochs: not valid YAML"),
        ("train.epochs=0", "--set train.epochs: train.epochs: 0 is out of range"),
        ("train.epochs=[1, x]", '--set train.epochs: train.epochs.1: "x" is text'),
        ("train.epoch=1", '--set train.epoch: train.epoch: unknown key "epoch"; did you mean'),
        ("train={epoch: 1}", '--set train: train.epoch: unknown key "epoch"'),
        ("methods.ratio=0.1", "methods is a list of 4; address an entry by its number"),
        ("methods.4.ratio=0.1", "methods is a list of 4"),
        ("methods.-1.ratio=0.1", "methods is a list of 4"),
        ("methods.0.ratio=2", "--set methods.0.ratio: methods.0.ratio: 2 is out of range"),
        ("train.epochs.more=3", "--set train.epochs.more: train.epochs is 200, which has no keys"),
        ("name.first=b", '--set name.first: name is "sap-fashion-mlp", which has no keys'),
    ],
)
def test_wrong_overrides(refused: Refused, override: str, message: str) -> None:
    assert message in refused(EXAMPLE, override)


# --- anything at all


TOKENS = "[]{},'|>%~?#\\\""
WORDS = ("sap", "mlp", "&a", "*a", "!!", "1e9", ".nan", "0x", "no", "---", "<<", "one_shot")
SNIPPETS = st.lists(
    st.sampled_from([*TOKENS, *WORDS, "\n", "\n  ", "\t", " ", ": ", "- "])
    | st.sampled_from(list(SweepSpec.model_fields)).map("{}: ".format)
).map("".join)
KEYS = st.sampled_from(["name", "lr", "epochs", "optimizer", "scope", "p", "q", "ratio", "seed"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=10,
)
SECTIONS = st.dictionaries(st.sampled_from(list(SweepSpec.model_fields)), VALUES)


@given(
    st.binary()
    | st.text().map(lambda text: text.encode("utf-8", "surrogatepass"))
    | SNIPPETS.map(str.encode)
    | SNIPPETS.map(lambda text: (SMALLEST + text).encode())
    | SECTIONS.map(lambda data: _as_flow(data).encode("utf-8", "surrogatepass"))
)
@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@pytest.mark.filterwarnings("ignore::ruamel.yaml.error.YAMLWarning")
def test_any_bytes_load_or_raise_a_sweep_file_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(content)
    with contextlib.suppress(SweepFileError):
        assert isinstance(load_sweep(path), SweepSpec)


def _as_flow(data: Mapping[str, object]) -> str:
    text = {"name": "a", "dataset": "fashion_mnist", "model": "mlp", "methods": ["sap"], **data}
    return json.dumps(text).replace("NaN", ".nan").replace("Infinity", ".inf")


@pytest.mark.parametrize(
    ("field", "overrides", "where"),
    [
        (("name",), (), "s.yaml:1:7: name"),
        (("methods", 0), (), "s.yaml:15:5: methods.0"),
        (("methods", 2, "p"), (), "s.yaml:17:20: methods.2.p"),
        (("methods", 2, "q"), ("methods.2.q=[1, 2]",), "--set methods.2.q: methods.2.q.0"),
        (("methods", 3, "q"), ("methods.2.q=[1, 2]",), "--set methods.2.q: methods.2.q.1"),
        # an axis before it moves its number in the spec, not in the file
        (("methods", 4, "p"), ("methods.2.q=[1, 2]",), "s.yaml:18:20: methods.3.p"),
        (("prune", 1, "scope"), (), "s.yaml:13:19: prune.scope.1"),
        (("resources",), (), "s.yaml:1:1: resources"),
    ],
)
def test_a_field_of_the_spec_is_found_where_it_was_written(
    load: Load, field: tuple[str | int, ...], overrides: tuple[str, ...], where: str
) -> None:
    load(EXAMPLE.replace("resources", "# resources"), *overrides)
    assert locate("s.yaml", overrides, field) == where


def test_a_section_that_only_an_override_writes_is_found_there(refused: Refused) -> None:
    message = refused(SMALLEST, "trian.epochs=2")
    assert message == '--set trian.epochs: trian: unknown key "trian"; did you mean "train"?'
