"""Plug-ins: what identifies their code, how they are loaded, and what each kind of them does."""

import ast
import json
import pickle
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from ray.cloudpickle import cloudpickle

from orchestrator.records.plugins import changed_default, record_plugins
from orchestrator.run.planning import wanted_snapshots
from orchestrator.sweepfile.spec import SweepSpec, cells
from orchestrator.sweepfile.yaml_document import SweepFileError
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.config import canonical, ledger
from trainables.data import DATASET, DataRoots, describe_dataset, identity, load_dataset
from trainables.errors import UnfitNode
from trainables.lineage.bench import Bench, StoreOptions
from trainables.lineage.cause import Cause
from trainables.lineage.keys import Lineage, make_lineage
from trainables.lineage.loop import run_lineage
from trainables.lineage.trainable import LineageTrainable, OtherCode, Work
from trainables.models import MODEL, Model, build_model, check_model
from trainables.own_code import own_code
from trainables.plugins.entry import BUILT_IN, Catalogue, Kind, PluginError
from trainables.plugins.loading import Luggage, load_plugins, plugged_in
from trainables.plugins.source import Module, Plugin, read_plugin
from trainables.pruning import METHOD, Pruning
from trainables.pruning.ablation import ABLATION
from trainables.pruning.criterion import CRITERION
from trainables.pruning.methods.lottery_ticket import LotteryTicket
from trainables.store import Store, iteration_path
from trainables.store.artifacts import MASK, WEIGHTS, decode_masks, read_tensors
from trainables.training.augmentation import AUGMENTATION
from trainables.training.batches import DeviceData
from trainables.training.losses import LOSS, CrossEntropy
from trainables.training.optimizers import OPTIMIZER
from trainables.training.recipe import Recipe
from trainables.training.schedules import SCHEDULE

ROOTS = DataRoots((), Path())
CPU = torch.device("cpu")


def written(place: Path, source: str) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(dedent(source).lstrip(), encoding="utf-8")
    return place


def code(folder: Path, given: str = "mine.py") -> str:
    plugin = read_plugin(given, folder)
    return plugin.code(plugin.name)


def loaded(folder: Path, source: str, given: str = "mine.py") -> Catalogue:
    written(folder / given, source)
    return load_plugins([read_plugin(given, folder)])


def lineage(catalogue: Catalogue = BUILT_IN, **sections: Any) -> Lineage:
    """The only lineage of a sweep that is small, but for what `sections` say."""
    small = {
        "name": "small",
        "dataset": {"name": "digits", "subset": 100},
        "model": {"name": "mlp", "hidden": [8]},
        "prune": {"iterations": 1},
        "methods": ["one_shot"],
    }
    train = {"epochs": 1, "batch_size": 50} | sections.pop("train", {})
    spec = SweepSpec.model_validate({**small, **sections, "train": train}, context=catalogue)
    *_, cell = cells(spec)  # of an ablation, what it is of comes first
    return make_lineage(cell, identity(cell.dataset, describe_dataset(cell.dataset, ROOTS)))


def run(one: Lineage, store: Store) -> list[dict[str, Any]]:
    data = DeviceData.of(load_dataset(one.cell.dataset, ROOTS), CPU)
    committed = run_lineage(one, Bench(store=store, data=data, device=CPU))
    return [metrics for metrics in committed if metrics is not None]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


# What identifies code

SOURCE = '''
"""What the module is about."""

import math

SCALE = 2


class Net:
    """What the class is about."""

    width = 3
    """What the field is about."""


class Empty:
    """Nothing."""


def f(x):
    """What the function is about."""
    return x * SCALE + math.sqrt(1)  # as in the paper
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  # as in the paper", ""),
        ("x * SCALE + math.sqrt(1)", "((x*SCALE)\n        + math.sqrt(1,))"),
        ("What the module is about.", "Something else."),
        ("What the class is about.", "Something else."),
        ("What the field is about.", "Something else."),
        ('    """What the function is about."""\n', ""),
        ('"""Nothing."""', "pass"),
        ("SCALE = 2", "SCALE = 0x2"),
        ("\n", "\r\n"),
        ('"""What the module', '\ufeff"""What the module'),
    ],
)
def test_what_computes_nothing_is_no_code(tmp_path: Path, old: str, new: str) -> None:
    before = code(written(tmp_path / "a/mine.py", SOURCE).parent)
    changed = SOURCE.lstrip().replace(old, new)
    assert changed != SOURCE.lstrip()
    (tmp_path / "b").mkdir()
    (tmp_path / "b/renamed.py").write_text(changed, encoding="utf-8", newline="")
    assert code(tmp_path / "b", "renamed.py") == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SCALE = 2", "SCALE = 3"),
        ("SCALE = 2", "SCALE = 2.0"),
        ("SCALE = 2", "SCALE = None"),
        ("SCALE = 2", "SCALE = '2'"),
        ("SCALE = 2", "SCALE = b'2'"),
        ("x * SCALE +", "x * SCALE -"),
        ("x * SCALE", "SCALE * x"),
        ("def f(x)", "def f(x=1)"),
        ("def f(x)", "def f(*, x)"),
        ("def f(x)", "async def f(x)"),
        ("    return x", "    yield x"),
        ("class Net:", "class Net(Exception):"),
    ],
)
def test_what_computes_something_else_is_other_code(tmp_path: Path, old: str, new: str) -> None:
    before = code(written(tmp_path / "mine.py", SOURCE).parent)
    assert old in SOURCE
    assert code(written(tmp_path / "mine.py", SOURCE.replace(old, new)).parent) != before


CONSTANTS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
    st.text(), st.binary(),
)  # fmt: skip


@settings(max_examples=50)
@given(CONSTANTS, CONSTANTS)
def test_constants_are_the_same_code_when_they_are_the_same_constants(one: Any, other: Any) -> None:
    digests = {Module("m", "m.py", f"x = {each!r}").digest for each in (one, other)}
    assert (len(digests) == 1) == (repr(one) == repr(other))


NOISE = st.sampled_from(["", "   ", "# a comment", "        # at any column"])


@settings(max_examples=30)
@given(st.lists(NOISE, min_size=40, max_size=40))
def test_comments_and_blank_lines_are_no_code(noise: list[str]) -> None:
    lines = SOURCE.splitlines()
    noisy = [each for pair in zip(noise, lines, strict=False) for each in pair]
    digests = {Module("m", "m.py", "\n".join(each)).digest for each in (lines, noisy)}
    assert len(digests) == 1


def test_real_modules_written_anew_are_the_same_code_and_differ_from_each_other() -> None:
    digests = set()
    paths = [*(Path(__file__).parents[2] / "trainables/training").glob("*.py")]
    for path in paths:
        source = path.read_text(encoding="utf-8")
        digest = Module("m", "m.py", source).digest
        assert Module("m", "m.py", ast.unparse(ast.parse(source))).digest == digest
        digests.add(digest)
    assert len(digests) == len(paths)


def test_code_is_the_same_in_all_versions_of_python() -> None:
    source = '''
        """Docs."""
        from __future__ import annotations
        import os.path as p, sys
        from . import *
        @(lambda f: f)
        async def f(a, /, b: int = 1, *c, d=None, **e) -> str:
            """Docs."""
            global g
            async with a as x, b: pass
            async for _ in a: await b
            return f"{a!r:>{b}} \\N{BULLET} {c}" "é\U0001fae8" rf"{d}\\d"
        class C(Base, metaclass=M):
            x: int
            y = z, *w = 1_000, 2.5e-300, 3j, b"\\xff", ..., -7
        match x:
            case [1, *_] | {"a": C(y=None), **r} if not r: del x[1:2, ::3], y.z
        try: assert (n := 1) < 2 <= 3, "no"
        except* (ValueError, OSError) as e: raise e from None
        finally: w @= [i for i in {**a, "k": 1} if i and j or k]
    '''
    digest = Module("m", "m.py", dedent(source)).digest
    assert digest == "60b488ed7346efeaf5c75e000d8da80670b38a1889b07a3fae562dd68858e04d"


def test_a_sibling_that_is_imported_is_code(tmp_path: Path) -> None:
    written(tmp_path / "mine.py", "def f():\n    import near\n    return near.VALUE\n")
    written(tmp_path / "near.py", "from other import VALUE\n")
    written(tmp_path / "other.py", "VALUE = 1\n")
    written(tmp_path / "apart.py", "VALUE = 1\n")
    plugin = read_plugin("mine.py", tmp_path)
    assert [module.name for module in plugin.modules] == ["mine", "near", "other"]
    before = code(tmp_path)
    written(tmp_path / "apart.py", "VALUE = 2\n")
    assert code(tmp_path) == before
    written(tmp_path / "other.py", "VALUE = 2\n")
    assert code(tmp_path) != before


def test_which_sibling_is_which_is_code(tmp_path: Path) -> None:
    written(tmp_path / "mine.py", "from one import X as a\nfrom two import X as b\nc = a - b\n")
    codes = set()
    for one, two in ((1, 2), (2, 1)):
        written(tmp_path / "one.py", f"X = {one}\n")
        written(tmp_path / "two.py", f"X = {two}\n")
        codes.add(code(tmp_path))
    assert len(codes) == 2


@pytest.mark.parametrize(
    "statement",
    ["from . import x", "from .x import V", "import pack.x", "from pack import x",
     "from .x import *", "def f():\n    from . import x"],
)  # fmt: skip
def test_a_part_of_a_package_that_is_imported_is_code(tmp_path: Path, statement: str) -> None:
    written(tmp_path / "pack/__init__.py", "from .part import thing\n")
    written(tmp_path / "pack/part.py", f"{statement}\nthing = 1\n")
    written(tmp_path / "pack/x.py", "V = 1\n")
    written(tmp_path / "pack/apart.py", "V = 1\n")
    before = code(tmp_path, "pack")
    assert written(tmp_path / "pack/apart.py", "V = 2\n")
    assert code(tmp_path, "pack") == before
    assert written(tmp_path / "pack/x.py", "V = 2\n")
    assert code(tmp_path, "pack") != before


def test_the_packages_around_a_module_are_code(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    written(tmp_path / "upper/__init__.py", "X = 1\n")
    written(tmp_path / "upper/lower/__init__.py", "")
    written(tmp_path / "upper/lower/leaf.py", "from ... import nothing\nY = 1\n")
    codes = {code(tmp_path, "upper.lower.leaf")}
    written(tmp_path / "upper/lower/__init__.py", "X = 2\n")
    codes.add(code(tmp_path, "upper.lower.leaf"))
    written(tmp_path / "upper/__init__.py", "X = 2\n")
    codes.add(code(tmp_path, "upper.lower.leaf"))
    assert len(codes) == 3


@pytest.mark.parametrize("version", ['__version__ = "3"', '__version__: str = "3"'])
def test_a_version_stands_for_the_code_of_a_module_or_a_package(
    tmp_path: Path, version: str
) -> None:
    written(tmp_path / "mine.py", f"{version}\nX = 1\n")
    assert code(tmp_path) == "mine==3"
    written(tmp_path / "pack/__init__.py", f"from . import part\n{version}\n")
    written(tmp_path / "pack/part.py", "X = 1\n")
    assert read_plugin("pack", tmp_path).code("pack.part") == "pack.part==3"
    written(tmp_path / "pack/part.py", "X = 1\n__version__ = '4'\n")
    assert read_plugin("pack", tmp_path).code("pack.part") == "pack.part==4"


def test_what_is_computed_is_no_version(tmp_path: Path) -> None:
    written(tmp_path / "mine.py", "__version__ = str(3)\n")
    assert "==" not in code(tmp_path)


def test_installed_packages_do_not_belong_together(tmp_path: Path, monkeypatch: Any) -> None:
    site = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(str(site))
    written(site / "big.py", "X = 1\n")
    written(site / "small/__init__.py", "import big\nfrom . import part\n")
    written(site / "small/part.py", "")
    names = [module.name for module in read_plugin("small", tmp_path).modules]
    assert names == ["small", "small.part"]


# Loading

TINY = """
    from prunesweep import Shape, model
    from torch import nn

    @model
    def tiny(shape: Shape, classes: int, *, width: int = 4) -> nn.Module:
        inputs = shape[0] * shape[1] * shape[2]
        return nn.Sequential(
            nn.Flatten(), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, classes)
        )
"""


def models(catalogue: Catalogue) -> set[str]:
    return catalogue.of(MODEL).keys() - BUILT_IN.of(MODEL).keys()


def test_a_file_a_package_and_a_module_are_loaded(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    written(tmp_path / "a/mine.py", TINY)
    written(tmp_path / "pack/__init__.py", "from .inner import second as again\n")
    written(tmp_path / "pack/inner.py", TINY.replace("tiny", "second"))
    written(tmp_path / "lib/over/__init__.py", "")
    written(tmp_path / "lib/over/nets.py", TINY.replace("tiny", "third"))
    given = ("a/mine.py", "pack", "over.nets")
    catalogue = load_plugins([read_plugin(each, tmp_path) for each in given])
    assert models(catalogue) == {"tiny", "second", "third"}
    assert models(BUILT_IN) == set()
    for name, place in (("tiny", "a/mine.py"), ("second", "pack/inner.py")):
        assert catalogue.of(MODEL)[name].where() == f"{tmp_path / place}:4"


def test_the_same_plug_in_is_the_same_classes(tmp_path: Path) -> None:
    first, again = (loaded(tmp_path, TINY).of(MODEL)["tiny"] for _ in range(2))
    assert first is again


def test_a_changed_source_replaces_what_was_loaded(tmp_path: Path) -> None:
    written(tmp_path / "near.py", "WIDTH = 4\n")
    source = "from near import WIDTH\n" + dedent(TINY).replace("= 4", "= WIDTH")
    first = loaded(tmp_path, source).of(MODEL)["tiny"]
    written(tmp_path / "near.py", "WIDTH = 6\n")
    second = loaded(tmp_path, source).of(MODEL)["tiny"]
    assert [each(name="tiny").width for each in (first, second)] == [4, 6]  # type: ignore
    assert first.plugged_code != second.plugged_code


def test_several_of_the_same_place_share_their_siblings(tmp_path: Path) -> None:
    written(tmp_path / "near.py", TINY)
    written(tmp_path / "a.py", "import near\n")
    written(tmp_path / "b.py", "import near\n")
    plugins = [read_plugin(each, tmp_path) for each in ("a.py", "b.py", "near.py", "a.py")]
    assert models(load_plugins(plugins)) == {"tiny"}


def refusal(folder: Path, *given: str) -> str:
    with pytest.raises(PluginError) as error:
        load_plugins([read_plugin(each, folder) for each in given])
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("given", ["none.py", "folder", "deep/er.py", "/none/at/all.py"])
def test_no_such_file(tmp_path: Path, given: str) -> None:
    (tmp_path / "folder").mkdir()
    assert refusal(tmp_path, given).startswith(
        f"plug-in {given}: there is no file {tmp_path / given}"
    )


@pytest.mark.parametrize("given", ["nowhere", "json.nowhere.x", "a..b", "", "torch.none"])
def test_no_such_module(tmp_path: Path, given: str) -> None:
    if given:
        assert refusal(tmp_path, given).startswith(f"plug-in {given}: ")
    else:
        assert "__init__.py" in refusal(tmp_path, given)


def test_no_name_of_a_module(tmp_path: Path) -> None:
    written(tmp_path / "my-net.py", TINY)
    assert "my-net is no name of a Python module" in refusal(tmp_path, "my-net.py")


MODEL_CLASS = """
    from typing import Literal
    from prunesweep import *
    from trainables.models import Model

    @model
    class Mine(Model):
"""


@pytest.mark.parametrize(
    ("line", "reason", "source"),
    [
        (2, "this is not Python: ", "x = 1\ndef f(:\n"),
        (1, "this is not Python: ", "x = '\0'\n"),
        (2, "importing this plug-in failed: ZeroDivisionError: ", "x = 1\ny = x / 0\n"),
        (1, "importing this plug-in failed: ValueError: no reason given", "raise ValueError\n"),
        (1, "importing this plug-in failed: ModuleNotFoundError: ", "import nowhere\n"),
        (1, "importing this plug-in failed: ImportError: ", "from . import near\n"),
        (2, "importing this plug-in failed: SystemExit: 0", "import sys\nsys.exit(0)\n"),
        (3, "importing this plug-in failed: KeyError: ",
         "import json\ndef f(d):\n    return d['a']\nf({})\n"),
        (1, "it has nothing to offer", "x = 1\n"),
        (1, "it has nothing to offer", "from prunesweep import model, Method\n"),
        (4, "there is a model mlp already", TINY.replace("tiny", "mlp")),
        (2, "a criterion magnitude already, at trainables/pruning/criteria/magnitude.py:",
         "from prunesweep import *\n@criterion\ndef magnitude(scoring): ...\n"),
        (2, "there is a method sap already",
         "from prunesweep import *\n@criterion\ndef sap(scoring): ...\n"),
        (2, "Mine has no name",
         "from trainables.models import *\n@model\nclass Mine(Model): pass\n"),
        (5, "Mine has no name", MODEL_CLASS + "        name: str = 'mine'\n"),
        (3, "a model derives from trainables.models.entry.Model",
         "from prunesweep import *\nfrom torch import nn\n@model\nclass Net(nn.Module): pass\n"),
        (2, "a method derives from trainables.pruning.method.Method",
         "from prunesweep import *\n@method\nclass Mine(Config): x: int = 1\n"),
        (2, "f is called with (shape, classes), and takes (shape)",
         "from prunesweep import *\n@model\ndef f(shape): ...\n"),
        (2, "takes (shape, classes, width=3); its options are keyword-only",
         "from prunesweep import *\n@model\ndef f(shape, classes, width=3): ...\n"),
        (2, "takes (*args)", "from prunesweep import *\n@loss\ndef f(*args): ...\n"),
        (2, "takes (logits, labels, **rest)",
         "from prunesweep import *\n@loss\ndef f(logits, labels, **rest): ...\n"),
        (2, "f: the option width has no type; write width: float",
         "from prunesweep import *\n@model\ndef f(shape, classes, *, width=3): ...\n"),
        (2, "f: name 'Nowhere' is not defined",
         "from prunesweep import *\n@model\ndef f(shape: 'Nowhere', classes): ...\n"),
        (2, "the optimizer f has no option lr",
         "from prunesweep import *\n@optimizer\ndef f(parameters, *, size: float = 0.0): ...\n"),
        *(
            (2, f"an option cannot be called {name}; rename it",
             f"from prunesweep import *\n@{kind}, *, {name}: int = 1): ...\n")
            for kind, name in (
                ("model\ndef f(shape, classes", "code"),
                ("model\ndef f(shape, classes", "name"),
                ("model\ndef f(shape, classes", "kind"),
                ("model\ndef f(shape, classes", "call"),
                ("dataset\ndef f(roots", "subset"),
                ("method\ndef f(network", "samples"),
                ("criterion\ndef f(scoring", "rounds"),
            )
        ),
        (5, "an option cannot be called code",
         MODEL_CLASS + "        name: Literal['mine']\n        code: int = 1\n"),
        (3, "importing this plug-in failed: AttributeError: ",
         "from prunesweep import *\n@model\ndef f(shape, classes, *, x: Masks.nothing = 1): ...\n"),
        (2, "there is no option none to have a default",
         "from prunesweep import *\n@criterion(none=1)\ndef f(scoring): ...\n"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_one_message_with_its_line(
    tmp_path: Path, line: int, reason: str, source: str
) -> None:
    path = written(tmp_path / "mine.py", source)
    message = refusal(tmp_path, "mine.py")
    assert message.startswith(f"{path}:{line}: ")
    assert reason in message


def test_the_line_is_in_the_sibling_where_it_happens(tmp_path: Path) -> None:
    written(tmp_path / "mine.py", "import near\n")
    path = written(tmp_path / "near.py", "x = 1\n\n{}['a']\n")
    assert refusal(tmp_path, "mine.py").startswith(f"{path}:3: importing this plug-in failed: KeyE")
    written(path, "x = (\n")
    assert refusal(tmp_path, "mine.py").startswith(f"{path}:1: this is not Python")


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_bytes(b"x = '\xff'\n")
    assert refusal(tmp_path, "mine.py").startswith(f"{tmp_path / 'mine.py'}:1: cannot be read")


def test_a_name_of_another_plug_in_is_taken(tmp_path: Path) -> None:
    written(tmp_path / "a.py", TINY)
    path = written(tmp_path / "b.py", TINY)
    there = f"there is a model tiny already, at {tmp_path / 'a.py'}:4"
    assert refusal(tmp_path, "a.py", "b.py").startswith(f"{path}:4: {there}")


def test_one_name_of_a_module_is_one_module(tmp_path: Path) -> None:
    for name in ("one", "two"):
        written(
            tmp_path / f"{name}/{name}.py", f"import near\n{dedent(TINY).replace('tiny', name)}"
        )
        written(tmp_path / f"{name}/near.py", f"WIDTH = '{name}'\n")
    message = refusal(tmp_path, "one/one.py", "two/two.py")
    assert message.startswith(
        f"{tmp_path / 'two/near.py'}:1: another plug-in has a module near too"
    )


@pytest.mark.parametrize("name", ["random.py", "torch.py", "pydantic.py"])
def test_a_module_that_is_another_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, TINY.replace("from torch", "from torch "))
    assert refusal(tmp_path, name).startswith(f"{path}:1: there is another module {path.stem}, ")
    if name != "random.py":
        written(tmp_path / "mine.py", f"import {path.stem}\n")
        assert refusal(tmp_path, "mine.py").startswith(f"{path}:1: there is another module")


def test_a_module_above_where_others_are_installed_is_refused(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path / "venv/site-packages"))
    written(tmp_path / "venv/site-packages/there.py", "")
    path = written(tmp_path / "there.py", TINY)
    assert refusal(tmp_path, "there.py").startswith(f"{path}:1: there is another module there, ")


def test_what_is_built_in_is_no_plug_in(tmp_path: Path) -> None:
    before = canonical(LotteryTicket(name="lottery_ticket"))
    given = "trainables.pruning.methods.lottery_ticket"
    assert refusal(tmp_path, given) == f"plug-in {given}: it is built in already; remove it"
    assert canonical(LotteryTicket(name="lottery_ticket")) == before


def test_what_prunesweep_ships_says_its_version(tmp_path: Path) -> None:
    plugin = read_plugin("prunesweep.saved_datasets", tmp_path)
    [entry] = load_plugins([plugin]).plugged["dataset"].values()
    assert (plugin.modules, entry.plugged_code) == ((), "prunesweep.saved_datasets==1")


# Every kind

FUNCTIONS: dict[str, tuple[Kind, dict[str, Any], str]] = {
    "model": (MODEL, {"model": {"name": "mine", "size": 6}}, """
        @model
        def mine(shape: Shape, classes: int, *, size: int = 4) -> nn.Module:
            inputs = shape[0] * shape[1] * shape[2]
            return nn.Sequential(nn.Flatten(), nn.Linear(inputs, size), nn.Linear(size, classes))
    """),
    "dataset": (DATASET, {"dataset": {"name": "mine", "size": 6, "subset": 100}}, """
        @dataset
        def mine(roots: DataRoots, *, size: int = 4) -> Dataset:
            labels = np.arange(120) % 3
            images = np.zeros((120, 2, size, size), np.uint8) + labels[:, None, None, None]
            images[:, 0, 0, 0] = np.arange(120)
            split = Split(images.astype(np.uint8), labels.astype(np.int64))
            test = Split(split.images + np.uint8(120), split.labels)
            return Dataset("mine", split, None, test, 3, *channel_statistics(split.images))
    """),
    "described dataset": (DATASET, {"dataset": {"name": "mine", "size": 6, "subset": 100}}, """
        def known(roots, *, size: int):
            return DatasetInfo((1, size, size), 2, 120, 120)

        @described_by(known)
        def mine(roots: DataRoots, *, size: int = 4) -> Dataset:
            split = Split(np.ones((120, 1, size, size), np.uint8), np.arange(120) % 2)
            return Dataset("mine", split, None, split, 2, (0.5,), (1.0,))
    """),
    "criterion": (CRITERION, {"methods": [{"name": "mine", "density": 0.5, "size": 6}]}, """
        @criterion
        def mine(scoring: Scoring, *, size: int = 4) -> dict[str, Tensor]:
            return {name: w.abs() ** size for name, w in scoring.weights.items()}
    """),
    "criterion of lottery tickets": (
        CRITERION,
        {"methods": [{"name": "lottery_ticket", "criterion": {"name": "mine", "size": 6}}]},
        """
        @criterion(data=Examples, examples=64)
        def mine(scoring: Scoring, *, size: int = 4) -> dict[str, Tensor]:
            parts = (gradient(scoring_loss(scoring, leaves, batch), leaves)
                     for leaves in [scoring.leaves] for batch in scoring.batches)
            return {name: size * g.abs() for name, g in summed(parts).items()}
    """),
    "criterion of one shot": (
        CRITERION,
        {"methods": [{"name": "one_shot", "criterion": {"name": "mine", "size": 6}}]},
        """
        @criterion
        def mine(scoring: Scoring, *, size: int = 4) -> dict[str, Tensor]:
            draw = lambda w: torch.rand(w.shape, generator=scoring.generator)
            return {name: size * draw(w) for name, w in scoring.weights.items()}
    """),
    "method": (METHOD, {"methods": [{"name": "mine", "size": 6}]}, """
        @method
        def mine(network: Network, *, size: int = 4) -> Masks:
            return {name: w.abs() > w.abs().mean() / size for name, w in network.weights.items()}
    """),
    "ablation": (ABLATION, {"ablations": [{"name": "mine", "size": 6}]}, """
        @ablation
        def mine(branch: Branch, *, size: int = 4) -> Masks:
            return {name: mask.roll(size) for name, mask in branch.masks.items()}
    """),
    "optimizer": (OPTIMIZER, {"train": {"optimizer": {"name": "mine", "size": 6}}}, """
        @optimizer
        def mine(parameters, *, lr: float = 0.1, size: int = 4):
            few = [p for p in parameters if p.ndim > 1]
            rest = [p for p in parameters if p.ndim <= 1]
            assert few and rest
            return torch.optim.RMSprop([{"params": few}, {"params": rest}], lr, eps=size)
    """),
    "lr_schedule": (SCHEDULE, {"train": {"lr_schedule": {"name": "mine", "size": 6}}}, """
        @lr_schedule
        def mine(lr: float, epoch: int, epochs: int, *, size: int = 4) -> float:
            return lr / size
    """),
    "loss": (LOSS, {"train": {"loss": {"name": "mine", "size": 6}}}, """
        @loss
        def mine(logits: Tensor, labels: Tensor, *, size: int = 4) -> Tensor:
            return (logits - nn.functional.one_hot(labels, logits.shape[1])).pow(size).sum(1)
    """),
    "augmentation": (AUGMENTATION, {"train": {"augment": {"name": "mine", "size": 6}}}, """
        @augmentation
        def mine(images: Tensor, generator: torch.Generator, *, size: int = 4) -> Tensor:
            return images.roll(int(torch.randint(size, (), generator=generator)), 3)
    """),
}  # fmt: skip

CLASSES: dict[str, tuple[Kind, dict[str, Any], str]] = {
    "model class": (*FUNCTIONS["model"][:2], """
        @model
        class Mine(Model):
            name: Literal["mine"]
            size: int = 4

            def __call__(self, shape, classes):
                inputs = shape[0] * shape[1] * shape[2]
                return nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes))
    """),
    "dataset class": (*FUNCTIONS["dataset"][:2], """
        @dataset
        class Mine(DatasetOptions):
            name: Literal["mine"]
            size: int = 4

            def __call__(self, roots):
                images = np.arange(120 * self.size * 3).astype(np.uint8)
                split = Split(images.reshape(120, 1, self.size, 3), np.arange(120) % 2)
                test = Split(split.images // 2, split.labels)
                return Dataset("mine", split, None, test, 2, (0.5,), (1.0,))
    """),
    "criterion class": (*FUNCTIONS["criterion of one shot"][:2], """
        @CRITERION.register
        class Mine(Examples, Criterion):
            name: Literal["mine"]
            size: int = 4
            examples: int = 20

            def __call__(self, scoring):
                assert sum(len(labels) for _, labels in scoring.batches) == 20
                return {name: w * self.size for name, w in scoring.weights.items()}
    """),
    "method class": (METHOD, {"methods": [
        {"name": "mine", "size": 6, "criterion": "random", "rewind": {"step": 1}, "density": 0.3}
    ]}, """
        @method
        class Mine(Rewinds, ToDensity, Selects, Iterative):
            name: Literal["mine"]
            size: int = 4

            def amount(self, weights: Tensor, kept: Tensor) -> Tensor:
                return ratio_amount(kept, 1 / self.size)
    """),
    "ablation class": (*FUNCTIONS["ablation"][:2], """
        @ablation
        class Mine(Ablation):
            name: Literal["mine"]
            size: int = 4

            def __call__(self, branch):
                return {name: mask.roll(self.size) for name, mask in branch.masks.items()}
    """),
    "optimizer class": (*FUNCTIONS["optimizer"][:2], """
        @optimizer
        class Mine(Optimizer):
            name: Literal["mine"]
            lr: float = 0.01
            size: int = 4

            def __call__(self, parameters):
                return torch.optim.Adagrad(parameters, self.lr, eps=self.size)
    """),
    "lr_schedule class": (*FUNCTIONS["lr_schedule"][:2], """
        @lr_schedule
        class Mine(Schedule):
            name: Literal["mine"]
            size: int = 4

            def __call__(self, lr, epoch, epochs):
                return lr / self.size
    """),
    "loss class": (*FUNCTIONS["loss"][:2], """
        @loss
        class Mine(Loss):
            name: Literal["mine"]
            size: int = 4

            def __call__(self, logits, labels):
                return nn.functional.cross_entropy(logits / self.size, labels, reduction="none")
    """),
    "augmentation class": (*FUNCTIONS["augmentation"][:2], """
        @augmentation
        class Mine(Augmentation):
            name: Literal["mine"]
            size: int = 4

            def epoch(self, examples, generator, device):
                by = torch.randint(self.size, (examples,), generator=generator)
                return lambda images, chosen, step: images.roll(int(by[chosen[0]]), 3)
    """),
}  # fmt: skip

HEADER = dedent("""
    from typing import Literal
    import numpy as np
    import torch
    from torch import Tensor, nn
    from prunesweep import (
        Ablation, Branch, DataRoots, Dataset, DatasetInfo, Density, Examples, Iterative, Masks,
        Network, Pruning, Rewinds, Scoring, Selects, Shape, Split, ToDensity, ablation,
        augmentation, channel_statistics, criterion, dataset, described_by, gradient, loss,
        lr_schedule, method, model, optimizer, ratio_amount, scoring_loss, summed,
    )
    from trainables.data import DatasetOptions
    from trainables.models import Model
    from trainables.pruning.criterion import CRITERION, Criterion
    from trainables.training.augmentation import Augmentation
    from trainables.training.losses import CrossEntropy, Loss
    from trainables.training.optimizers import SGD, Optimizer
    from trainables.training.schedules import Schedule
""").lstrip()
LINE = HEADER.count("\n") + 1


def mine(folder: Path, source: str) -> Catalogue:
    return loaded(folder, HEADER + dedent(source).lstrip("\n"))


@pytest.mark.parametrize("which", [*FUNCTIONS, *CLASSES])
def test_every_kind_has_its_options_and_trains(tmp_path: Path, store: Store, which: str) -> None:
    kind, sections, source = (FUNCTIONS | CLASSES)[which]
    catalogue = mine(tmp_path, source)
    entry = catalogue.of(kind)["mine"]
    field = entry.model_fields["size"]
    assert (field.annotation, field.default) == (int, 4)

    def with_size(text: str) -> Lineage:
        return lineage(catalogue, **json.loads(json.dumps(sections).replace(', "size": 6', text)))

    for size in ('"6"', "6.5", "null"):
        with pytest.raises(ValidationError):
            with_size(f', "size": {size}')
    one, default = lineage(catalogue, **sections), with_size(', "size": 4')
    unsaid = with_size("")
    assert one.keys[-1] != default.keys[-1] == unsaid.keys[-1]
    [used] = plugged_in(one.cell.configs)
    assert used.plugged_code is not None
    assert used.plugged_code in json.dumps(one.config())
    metrics = run(one, store)
    assert [each["key"] for each in metrics] == [*one.keys]
    assert store.committed("iterations").keys() == {*one.keys}
    assert run(one, store) == []


def test_a_plugged_model_keeps_the_weights_that_it_was_made_with(tmp_path: Path) -> None:
    source = FUNCTIONS["model"][2].replace("return nn.Seq", "return constant(nn.Seq")
    source = source.replace("classes))", "classes)))") + """
        def constant(net):
            for parameter in net.parameters():
                nn.init.constant_(parameter, 0.25)
            return net
    """  # fmt: skip
    config = mine(tmp_path, source).of(MODEL)["mine"](name="mine")
    assert isinstance(config, Model)
    built = build_model(config, (1, 2, 2), 3, 0)
    assert {value for p in built.parameters() for value in p.unique().tolist()} == {0.25}


def test_the_default_description_tells_content_apart(tmp_path: Path) -> None:
    source = FUNCTIONS["dataset"][2]
    found = []
    for each in (source, source.replace("astype(np.uint8)", "astype(np.uint8) + np.uint8(1)")):
        config = mine(tmp_path, each).of(DATASET)["mine"](name="mine")  # type: ignore
        found.append(describe_dataset(config, ROOTS))  # type: ignore
    assert [(each.shape, each.classes, each.train_examples) for each in found] == [
        ((2, 4, 4), 3, 120)
    ] * 2
    assert len({each.fingerprint for each in found}) == 2


def test_a_validation_split_of_a_plug_in_is_told_of_as_unused(tmp_path: Path) -> None:
    source = FUNCTIONS["dataset"][2].replace("split, None, test", "split, test, test")
    config: Any = mine(tmp_path, source).of(DATASET)["mine"](name="mine")
    contents = describe_dataset(config, ROOTS).contents
    assert contents is not None
    (note,) = contents.notes
    assert "validation" in note
    assert load_dataset(config, ROOTS).validation is None


def test_a_described_dataset_is_not_loaded_to_be_known(tmp_path: Path) -> None:
    _, sections, source = FUNCTIONS["described dataset"]
    catalogue = mine(
        tmp_path, source.replace("split = ", "raise OSError('loaded')\n            split = ")
    )
    one = lineage(catalogue, **sections)
    assert "fingerprint" not in one.dataset
    with pytest.raises(OSError, match="loaded"):
        load_dataset(one.cell.dataset, ROOTS)


def planned_and_run(one: Lineage, store: Store) -> None:
    model, shape = one.cell.model, (1, 8, 8)
    if model.plugin is not None:
        check_model(model, build_model(model, shape, 10, 0), shape, 10)
    run(one, store)


def wrong(old: str, new: str, which: str) -> tuple[str, str]:
    source = (FUNCTIONS | CLASSES)[which][2]
    assert old in source
    return which, source.replace(old, new)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (wrong("return nn.Sequential(", "return (", "model"), "no torch module"),
        (wrong(", nn.Linear(inputs, size), nn.Linear(size, classes))", ")", "model"),
         "no weight that can be pruned"),
        (wrong("size, classes)", "size, 2)", "model"),
         "maps 2 images to (2, 2); it must give logits of the shape (2, 10)"),
        (wrong("nn.Linear(size, ", "nn.Linear(9, ", "model"), "cannot take images of 1x8x8"),
        (wrong("return Dataset(", "return tuple, (", "dataset"), "gives tuple, no Dataset"),
        (wrong(", np.uint8", "", "described dataset"),
         "its train images are float64 (120, 1, 6, 6); they must be uint8"),
        (wrong("images.astype(np.uint8)", "images[:, 0].astype(np.uint8)", "dataset"),
         "its train images are uint8 (120, 6, 6)"),
        (wrong("labels.astype(np.int64)", "labels.astype(np.int32)", "dataset"),
         "its train labels are int32 (120,); they must be int64 [120]"),
        (wrong("labels.astype(np.int64)", "labels[1:].astype(np.int64)", "dataset"),
         "its train labels are int64 (119,)"),
        (wrong("labels.astype(np.int64)", "labels.astype(np.int64) + 1", "dataset"),
         "its train labels go from 1 to 3; there are 3 classes, from 0"),
        (wrong("np.ones((120, 1, size, size), np.uint8)", "[1, 2]", "described dataset"),
         "its train images are list"),
        (wrong("labels.astype(np.int64)", "torch.tensor(labels)", "dataset"),
         "its train labels are torch.int64"),
        (wrong("(0.5,), (1.0,)", "(0.5,), (1.0, 1.0)", "described dataset"),
         "mean and std one number for each of the 1 channels"),
        (wrong("name: w.abs()", "name + 'x': w.abs()", "criterion"),
         "mine scores hidden1.weightx, classifier.weightx, not hidden1.weight, classifier.weight"),
        (wrong("return {", "return [] and {", "criterion"), "scores list, not"),
        (wrong("w.abs()", "w.sum()", "criterion"), "the scores of hidden1.weight are torch.float"),
        (wrong("w.abs() ** size", "1.0", "criterion"), "the scores of hidden1.weight are float"),
        (wrong("w.abs() ** size", "w.numpy()", "criterion"),
         "the scores of hidden1.weight are float64 (8, 64); they must be a tensor"),
        (wrong("size * g.abs()", "g[0]", "criterion of lottery tickets"),
         "the scores of hidden1.weight are torch.float"),
        (wrong("size * draw(w)", "w.T", "criterion of one shot"),
         "must be a tensor of the weight's shape, (8, 64)"),
        (wrong("w.abs() >", "w *", "method"), "must give a mask for each weight"),
        (wrong("w.abs() >", "w[0] >", "method"), "must give a mask for each weight"),
        (wrong("{name: w", "{name[1:]: w", "method"), "must give a mask for each weight"),
        (wrong("w.abs() >", "1 >", "method"), "must give a mask for each weight"),
        (wrong("return {", "return [] and {", "method"), "must give a mask for each weight"),
        (wrong("ToDensity, ", "", "method class"), "the amount of mine is int"),
        (wrong("return torch.optim.RMSprop", "return tuple", "optimizer"),
         "the optimizer mine gives NoneType, no torch.optim.Optimizer"),
        (wrong("return lr / size", "return None", "lr_schedule"), "gives None in epoch 0 of 1"),
        (wrong("return lr / size", "return lr * np.nan", "lr_schedule"), "gives nan in epoch"),
        (wrong("return lr / size", "return -lr", "lr_schedule"), "gives -0.1 in epoch 0"),
        (wrong(".sum(1)", ".mean()", "loss"),
         "the loss mine gives torch.float32 () for 50 examples; it must give floats (50,)"),
        (wrong(".sum(1)", ".sum(1).long()", "loss"), "gives torch.int64 (50,) for 50 examples"),
        (wrong(".sum(1)", ".sum().item()", "loss"), "gives float for 50 examples"),
        (wrong("return images.roll", "return images.float().roll", "augmentation"),
         "gives torch.float32 (50, 1, 8, 8) for images torch.uint8 (50, 1, 8, 8); both must"),
        (wrong(", 3)", ", 3)[1:]", "augmentation"), "gives torch.uint8 (49, 1, 8, 8) for images"),
        (wrong("return images.roll(", "return 3 or (", "augmentation"),
         "gives int for images"),
    ],
)  # fmt: skip
def test_a_wrong_result_is_one_message_with_the_line(
    tmp_path: Path, store: Store, changed: tuple[str, str], reason: str
) -> None:
    which, source = changed
    sections = (FUNCTIONS | CLASSES)[which][1]
    if which == "method class":
        source = source.replace("ratio_amount(kept, 1 / self.size)", "3")
        sections = {"methods": [{"name": "mine"}]}
    if which == "optimizer":
        source = source.replace("tuple([", "print([").replace(", lr, eps=size)", ")")
    catalogue = mine(tmp_path, source)
    with pytest.raises(PluginError) as error:
        planned_and_run(lineage(catalogue, **sections), store)
    line = LINE + source.lstrip("\n").partition("@")[0].count("\n")
    assert str(error.value).startswith(f"{tmp_path / 'mine.py'}:{line}: ")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "source",
    [
        """
        class Drifting(torch.optim.SGD):
            def step(self, closure=None):
                super().step()
                with torch.no_grad():
                    for group in self.param_groups:
                        for parameter in group["params"]:
                            parameter += 0.01

        @optimizer
        def mine(parameters, *, lr: float = 0.1):
            return Drifting(parameters, lr)
        """,
        """
        @optimizer
        class Mine(SGD):
            name: Literal["mine"]

            def __call__(self, parameters):
                optimizer = super().__call__(parameters)
                optimizer.register_step_post_hook(self.drift)
                return optimizer

            def drift(self, optimizer, *_):
                with torch.no_grad():
                    for parameter in optimizer.param_groups[0]["params"]:
                        parameter += 0.01
        """,
    ],
)
def test_pruned_weights_stay_zero_whatever_the_optimizer_does(
    tmp_path: Path, store: Store, source: str
) -> None:
    one = lineage(mine(tmp_path, source), train={"optimizer": "mine"})
    run(one, store)
    path = iteration_path(one.keys[-1])
    weights, masks = read_tensors(store, path), decode_masks(store.read(path, MASK))
    assert any(not mask.all() for mask in masks.values())
    for name, mask in masks.items():
        assert (weights[name][~mask] == 0).all()
        assert (weights[name][mask] != 0).all()


# Parts


def parts(first: str, *fields: str, base: str = "Iterative") -> str:
    body = "\n".join(f"            {field}" for field in fields)
    return f"""
        @method
        class Mine({first}{base}):
            name: Literal["mine"]
{body}
            def amount(self, weights, kept):
                return ratio_amount(kept, 0.1)
    """


@pytest.mark.parametrize(
    ("field", "part"),
    [
        ("rewind: int = 0", "Rewinds"),
        ("density: float = 0.1", "ToDensity"),
        ("selection: str = 'sampled'", "Selects"),
    ],
)
def test_a_field_of_a_part_needs_the_part(tmp_path: Path, field: str, part: str) -> None:
    with pytest.raises(PluginError) as error:
        mine(tmp_path, parts("", field))
    name = field.partition(":")[0]
    assert f"has {name} and does not derive from {part}" in str(error.value)
    function = f"@method\ndef mine(network, *, {field}): ...\n"
    with pytest.raises(PluginError, match=f":{LINE}: mine has {name} and does not derive"):
        mine(tmp_path, function)
    with pytest.raises(PluginError, match=f"derives from {part} after its method; write {part} fi"):
        mine(tmp_path, parts("", base=f"Iterative, {part}"))


def test_a_rewind_is_planned_and_done(tmp_path: Path, store: Store) -> None:
    catalogue = mine(tmp_path, parts("Rewinds, "))
    one = lineage(catalogue, methods=[{"name": "mine", "rewind": {"step": 1}}])
    assert wanted_snapshots([one]) == {one.trunk: frozenset({1})}
    other = lineage(catalogue, methods=["mine"])
    assert wanted_snapshots([other]) == {one.trunk: frozenset({0})}
    metrics = run(one, store)[1], run(other, store)[0]
    assert metrics[0]["density"] == metrics[1]["density"]
    assert metrics[0]["test_loss"] != metrics[1]["test_loss"]


@pytest.mark.parametrize("selection", ["threshold", "sampled"])
def test_a_density_is_met_exactly_at_the_last_iteration(
    tmp_path: Path, store: Store, selection: str
) -> None:
    how = {"name": "mine", "density": 0.37, "selection": selection}
    one = lineage(
        mine(tmp_path, parts("ToDensity, Selects, ")), methods=[how], prune={"iterations": 3}
    )
    total = 64 * 8 + 8 * 10
    kept = [each["params_kept"] for each in run(one, store)]
    assert kept[:3] == [total, total - 59, total - 59 - 53]
    assert kept[3] == total - int(total * 0.63)


@pytest.mark.parametrize("of", ["ToDensity, ", "Rewinds, ToDensity, Selects, "])
def test_no_key_says_both_that_a_density_is_met_and_that_it_is_not(
    tmp_path: Path, store: Store, of: str
) -> None:
    catalogue, found = mine(tmp_path, parts(of)), {}
    for density in (0.37, 0.5):
        how = {"name": "mine", "density": density}
        for count in range(1, 4):
            one = lineage(catalogue, methods=[how], prune={"iterations": count})
            assert one.steps[-1].density == density
            for key, step in zip(one.keys, one.steps, strict=True):
                assert found.setdefault(key, step) == step
    # one trunk, and of each density two on the way, and one that meets it for each count
    assert len(found) == 1 + 2 * (2 + 3)
    how = {"name": "mine", "density": 0.37}
    ran = [lineage(catalogue, methods=[how], prune={"iterations": count}) for count in (1, 3)]
    kept = [[each["params_kept"] for each in run(one, store)] for one in ran]
    total = 64 * 8 + 8 * 10
    last = total - int(total * 0.63)
    assert kept == [[total, last], [total - 59, total - 59 - 53, last]]


def test_a_sampled_selection_needs_the_global_scope(tmp_path: Path) -> None:
    found = mine(tmp_path, parts("Selects, ")).of(METHOD)["mine"]
    for selection, needed in (("threshold", False), ("sampled", True)):
        config: Any = found.model_validate({"name": "mine", "selection": selection})
        assert config.needs_global_scope is needed


# The ledger


class Later(LotteryTicket):
    temperature: float = 1.0


class WithAnotherDefault(Recipe):
    loss: Any = CrossEntropy(name="cross_entropy", label_smoothing=0.1)

    @classmethod
    def ledger_name(cls) -> str:
        return "Recipe"


def test_a_field_added_later_keeps_keys_at_its_default() -> None:
    before = LotteryTicket(name="lottery_ticket").identity(Pruning())
    assert Later(name="lottery_ticket").identity(Pruning()) == before
    assert Later(name="lottery_ticket", temperature=1.0).identity(Pruning()) == before
    other = Later(name="lottery_ticket", temperature=2.0).identity(Pruning())
    assert json.loads(other)["method"]["temperature"] == 2.0


def test_a_later_field_keeps_the_key_of_the_value_it_came_with() -> None:
    assert "loss" in ledger()["Recipe"]["later"]
    smooth = CrossEntropy(name="cross_entropy", label_smoothing=0.1)
    plain = CrossEntropy(name="cross_entropy")
    assert canonical(WithAnotherDefault(loss=plain)) == canonical(Recipe())
    assert canonical(WithAnotherDefault()) == canonical(Recipe(loss=smooth)) != canonical(Recipe())


VERSIONED = """
    __version__ = "1"

    from enum import Enum
    from typing import Annotated
    from prunesweep import Config, Listed

    class Side(Enum):
        LEFT = "left"

    class Inner(Config):
        depth: int = 1

    @model
    def mine(
        shape, classes, *,
        size: int = 4,
        side: Side = Side.LEFT,
        pairs: Annotated[tuple[tuple[int, int], ...], Listed] = ((1, 2), (3, 4)),
        inner: Inner = Inner(),
        deep: bool | int = 1,
    ):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
"""


@pytest.mark.parametrize(
    ("option", "same", "others"),
    [
        ("bool | int = 1", (1,), (True, 2)),
        ("bool | int = True", (True,), (1, False)),
        ("bool | float = 0.0", (0.0, 0, -0.0), (False, 1.0)),
        ("float = 1", (1.0, 1), (2.0,)),
        ("bool | None = False", (False,), (None, True)),
    ],
)
def test_an_option_that_is_not_its_default_is_in_the_key(
    tmp_path: Path, option: str, same: tuple[Any, ...], others: tuple[Any, ...]
) -> None:
    catalogue = mine(
        tmp_path,
        f"""
        @model
        def mine(shape, classes, *, size: {option}):
            return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
        """,
    )

    def key(**options: Any) -> str:
        return lineage(catalogue, model={"name": "mine"} | options).keys[0]

    assert {key(size=size) for size in same} == {key()}
    assert len({key(), *(key(size=size) for size in others)}) == 1 + len(others)


@pytest.mark.parametrize(
    ("old", "new", "option", "before"),
    [
        ("size: int = 4", "size: int = 5", "size", 4),
        ("(3, 4)", "(3, 5)", "pairs", [[1, 2], [3, 4]]),
        ("depth: int = 1", "depth: int = 2", "inner", {"depth": 1}),
        ("deep: bool | int = 1", "deep: bool | int = True", "deep", 1),
    ],
)
def test_a_default_is_part_of_a_version(
    tmp_path: Path, store: Store, old: str, new: str, option: str, before: Any
) -> None:
    def configs(source: str) -> tuple[Any, ...]:
        return lineage(mine(tmp_path, source), model="mine").cell.configs

    assert canonical(configs(VERSIONED)[1]) == {"name": "mine", "code": "mine==1"}
    record_plugins(store, "first", configs(VERSIONED))
    assert changed_default(store, configs(VERSIONED)) is None
    changed = configs(VERSIONED.replace(old, new))
    assert canonical(changed[1]) == {"name": "mine", "code": "mine==1"}
    found = changed_default(store, changed)
    assert found is not None
    assert (found[0].entry_name, *found[1:]) == ("mine", option, before)
    raised = VERSIONED.replace(old, new).replace('"1"', '"2"')
    assert changed_default(store, configs(raised)) is None


# Luggage

ELSEWHERE = """
import json, pickle, sys
from pathlib import Path
import torch
from trainables.data import DataRoots, load_dataset
from trainables.lineage.bench import Bench
from trainables.lineage.loop import run_lineage
from trainables.store import Store
from trainables.training.batches import DeviceData

torch.set_num_threads(1)
work = pickle.loads(Path(sys.argv[1]).read_bytes())
[one] = work.lineages.values()
cpu = torch.device("cpu")
data = DeviceData.of(load_dataset(one.cell.dataset, DataRoots((), Path())), cpu)
bench = Bench(store=Store(sys.argv[2]), data=data, device=cpu)
print(json.dumps([*run_lineage(one, bench)], default=str))
"""


def test_a_worker_that_never_saw_the_files_computes_the_same(tmp_path: Path, store: Store) -> None:
    home, worker = tmp_path / "home", tmp_path / "worker"
    names = ("dataset", "loss", "lr_schedule", "criterion of one shot", "optimizer", "augmentation")
    sections: dict[str, Any] = {"prune": {"iterations": 1}, "train": {}}
    for which in names:
        _, named, source = FUNCTIONS[which]
        written(home / f"{which[:6]}.py", HEADER + dedent(source))
        train = sections["train"] | named.get("train", {})
        sections |= {**named, "train": train}
    written(home / "pack/__init__.py", "from . import nets\n")
    written(
        home / "pack/nets.py", f"from .widths import WIDTH\n{dedent(TINY)}".replace("4", "WIDTH")
    )
    written(home / "pack/widths.py", "WIDTH = 5\n")
    plugins = tuple(read_plugin(f"{each[:6]}.py", home) for each in names)
    plugins = (*plugins, read_plugin("pack", home))
    one = lineage(load_plugins(plugins), **{**sections, "model": "tiny"})
    assert len(plugged_in(one.cell.configs)) == 7
    here = run(one, store)

    work = Work(Luggage(plugins), {one.id: one}, {}, {}, frozenset(), "", StoreOptions(), 1, None,
                "run", None)  # fmt: skip
    worker.mkdir()
    (worker / "work").write_bytes(cloudpickle.dumps(work))
    shutil.rmtree(home)
    command = [sys.executable, "-c", ELSEWHERE, "work", "store"]
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""}
    done = subprocess.run(
        command, cwd=worker, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    there = json.loads(done.stdout)
    assert len(there) == len(here) == len(one.keys)
    for mine, theirs in zip(here, there, strict=True):
        for name in mine.keys() - {
            "train_seconds",
            "prune_seconds",
            "finished_at",
            "host",
            "peak_memory_bytes",
        }:
            assert theirs[name] == mine[name], name
        path = iteration_path(mine["key"])
        assert Store(str(worker / "store")).read(path, WEIGHTS) == store.read(path, WEIGHTS)


def test_a_worker_of_another_code_refuses_its_work_and_names_its_node() -> None:
    """It is told in its first step: what an actor raises when it begins, Ray does not pass on."""
    work = Work(Luggage(), {}, {}, {}, frozenset(), "", StoreOptions(), 1, None, "run", None)
    assert work.code == own_code()
    worker = LineageTrainable.__new__(LineageTrainable)
    worker.config = {"attempts": {"one": 1}, "gpus": 0, "memory": 0, "mps": True}
    worker.setup(worker.config, replace(work, code="another"))
    with pytest.raises(UnfitNode, match=f"{socket.gethostname()} has another prunesweep") as error:
        worker.step()
    assert isinstance(error.value.__cause__, OtherCode)
    cause = Cause.of("", pickle.loads(pickle.dumps(error.value)))
    assert cause.unfit
    assert cause.hopeless
    worker.setup(worker.config, work)
    with pytest.raises(UnfitNode, match="storage is empty"):  # there is none in this test
        worker.step()


def test_luggage_has_no_more_than_sources(tmp_path: Path) -> None:
    written(tmp_path / "mine.py", HEADER + dedent(FUNCTIONS["model"][2]))
    plugin = read_plugin("mine.py", tmp_path)
    load_plugins([plugin])
    size = len((tmp_path / "mine.py").read_bytes())
    assert len(cloudpickle.dumps(Luggage((plugin,)))) < size + 1000
    again: Plugin = cloudpickle.loads(cloudpickle.dumps(plugin))
    assert again == plugin


# Sweep files

SWEEP = """
    name: small
    plugins: [nets.py]
    dataset: digits
    model: {name: tiny, width: [2, 3]}
    methods: [one_shot]
"""


@pytest.fixture
def sweep(tmp_path: Path) -> Callable[..., SweepSpec]:
    """Loads a sweep beside `nets.py`."""
    written(tmp_path / "nets.py", TINY)

    def load(old: str = "", new: str = "", plugins: tuple[str, ...] = ()) -> SweepSpec:
        assert old in SWEEP
        return load_sweep(written(tmp_path / "s.yaml", SWEEP.replace(old, new)), (), plugins)

    return load


def test_a_sweep_names_what_its_plug_ins_have(sweep: Callable[..., SweepSpec]) -> None:
    widths = [each.width for each in sweep().model]  # type: ignore
    assert widths == [2, 3]
    assert sweep().plugins == ("nets.py",)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: tiny", "name: tyny", '4:8: model: unknown model "tyny"; did you mean "tiny"?'),
        ("width:", "widht:", '4:21: model.widht: unknown key "widht"; did you mean "width"?'),
        ("[2, 3]", "[2, x]", '4:32: model.width.1: "x" is text, not a whole number'),
        ("[2, 3]", "2.0", "4:28: model.width: 2.0 is a number, not a whole number; write 2"),
        ("[nets.py]", "[nets.py, no.py]", "2:20: plugins.1: plug-in no.py: there is no file "),
        ("[nets.py]", "nets.py", '2:10: plugins: "nets.py" is text, not a list'),
        ("[nets.py]", "[3]", "2:11: plugins.0: 3 is a number, not text"),
        ("[nets.py]", "['']", "2:11: plugins.0: "),
        ("[nets.py]", "[nets.py, mine.py]", "2:20: plugins.1: {}/mine.py:2: importing this"),
    ],
)  # fmt: skip
def test_a_mistake_with_a_plug_in_has_its_place(
    sweep: Callable[..., SweepSpec], tmp_path: Path, old: str, new: str, message: str
) -> None:
    written(tmp_path / "mine.py", "x = 1\ny = x / 0\n")
    with pytest.raises(SweepFileError) as error:
        sweep(old, new)
    assert f"{error.value}".startswith(f"{tmp_path}/s.yaml:{message.format(tmp_path)}")


def test_plug_ins_of_a_command_are_found_from_where_it_runs(
    sweep: Callable[..., SweepSpec], tmp_path: Path, monkeypatch: Any
) -> None:
    written(tmp_path / "run/more.py", TINY.replace("tiny", "more"))
    monkeypatch.chdir(tmp_path / "run")
    spec = sweep("{name: tiny", "{name: more", ("more.py",))
    assert [type(each).entry_name for each in spec.model] == ["more", "more"]
    assert spec.plugins == ("nets.py", "more.py")
    with pytest.raises(SweepFileError, match='unknown model "more"'):
        sweep("{name: tiny", "{name: more")


def test_a_mistake_in_a_commands_plug_in_is_not_the_sweeps(
    sweep: Callable[..., SweepSpec], tmp_path: Path, monkeypatch: Any
) -> None:
    written(tmp_path / "run/more.py", "1 / 0\n")
    monkeypatch.chdir(tmp_path / "run")
    with pytest.raises(PluginError, match=f"^{tmp_path}/run/more.py:1: importing"):
        sweep(plugins=("more.py",))


OPTION = """
    from collections.abc import Callable
    from typing import Any
    from pydantic import BaseModel
    from prunesweep import Config, model
    from torch import nn

    class Inner(Config):
        widths: tuple[int, ...] = (1,)

    class Other(BaseModel):
        widths: list[int] = []

    @model
    def tiny(shape, classes, *, width: TYPE):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
"""


@pytest.mark.parametrize(
    ("option", "text", "values"),
    [
        ("tuple[int, ...] = (2, 3)", "[2, 3]", [(2, 3)]),
        ("tuple[int, ...] = (2, 3)", "[[2, 3], []]", [(2, 3), ()]),
        ("tuple[int, int]", "[[2, 3], [3, 2]]", [(2, 3), (3, 2)]),
        ("tuple[int, ...] | None = None", "[null, [2]]", [None, (2,)]),
        ("tuple[tuple[str, float], ...] = ()", "[[a, 2], [b, 3.5]]", [(("a", 2.0), ("b", 3.5))]),
        ("Any = 1", "[[2, 3]]", [(2, 3)]),
        ("Inner = Inner()", "{widths: [[2], [3, 4]]}", [(2,), (3, 4)]),
    ],
)
def test_an_option_may_be_a_tuple(
    sweep: Callable[..., SweepSpec], tmp_path: Path, option: str, text: str, values: list[Any]
) -> None:
    written(tmp_path / "nets.py", OPTION.replace("TYPE", option))
    found: list[Any] = [each.width for each in sweep("[2, 3]", text).model]  # type: ignore
    assert [getattr(each, "widths", each) for each in found] == values
    configs = sweep("[2, 3]", text).model
    assert len({json.dumps(canonical(each)) for each in configs}) == len(values)


@pytest.mark.parametrize(
    ("option", "text", "told"),
    [
        ("list[int] = [1, 2]", "", "of the type list"),
        ("list[int]", "[[2, 3]]", "no option can be a list or a set; the plug-in has to make it a"),
        ("set[int] = {1}", "", "of the type set"),
        ("dict[str, int]", "{a: 1}", "of the type dict"),
        ("Any", "{a: [1]}", "of the type dict"),
        ("Other = Other()", "", "of the type Other"),
        ("Callable = print", "", "of the type builtin_function_or_method"),
        ("type = int", "", "of the type type"),
    ],
)
def test_an_option_that_cannot_be_identified_is_refused(
    sweep: Callable[..., SweepSpec], tmp_path: Path, option: str, text: str, told: str
) -> None:
    path = written(tmp_path / "nets.py", OPTION.replace("TYPE", option))
    with pytest.raises(SweepFileError) as error:
        sweep(", width: [2, 3]", text and f", width: {text}")
    message = str(error.value)
    assert message.startswith(f"{tmp_path / 's.yaml'}:4:")
    assert told in message
    if told.startswith("of"):
        assert f" model.width: {path}:13: the option width is {told}, which" in message
