"""Exported ONNX networks: ONNX Runtime makes of real test images what torch does."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from asking import ask, refused
from onnx.numpy_helper import to_array
from onnxruntime import InferenceSession
from test_tickets import DIGITS, ROOTS, SWEEP, train

from orchestrator.results.opening import Results, open_results
from trainables.data import load_dataset

SNIP = {"name": "snip", "density": 0.3, "examples": 50}
MODELS = [{"name": "mlp", "hidden": [16]}, {"name": "cnn", "hidden": [4, 8]}, "resnet20"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    short = {"dataset": {"name": "digits", "subset": 60}, "train": {"epochs": 1, "batch_size": 30}}
    train(folder, SWEEP | short | {"model": MODELS, "seeds": [0], "methods": [SNIP]})
    torch.set_num_threads(before)
    ask(folder, "export", "first", "--all", "--onnx", "--output", "out")
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    return open_results(folder / "prunesweep-store", "first")


def images(told: dict[str, Any]) -> np.ndarray:
    """The test images as the exported file says that they have to be."""
    mean, std = (np.array(told["normalization"][n])[:, None, None] for n in ("mean", "std"))
    return ((load_dataset(DIGITS, ROOTS).test.images / 255 - mean) / std).astype(np.float32)


@pytest.mark.parametrize("model", ["mlp", "cnn", "resnet20"])
def test_a_network_is_as_good_as_it_was_measured(
    model: str, folder: Path, results: Results
) -> None:
    ticket = results.lineage(model=model)[-1]
    (file,) = folder.glob(f"out/{ticket.lineage.id}/1/network.onnx")
    session = InferenceSession(file)
    told = json.loads(session.get_modelmeta().custom_metadata_map["prunesweep"])
    config = json.loads(file.with_name("config.json").read_text())
    assert config | told == config
    given, found = session.get_inputs()[0], session.get_outputs()[0]
    assert (given.name, given.shape[1:], found.name, found.shape[1:]) == (
        "images", [1, 8, 8], "logits", [10],
    )  # fmt: skip
    assert isinstance(given.shape[0], str)  # any number of images
    tests, labels = images(told), load_dataset(DIGITS, ROOTS).test.labels
    logits = np.asarray(session.run(None, {"images": tests})[0])
    assert (logits.argmax(1) == labels).mean() == pytest.approx(config["metrics"]["test_accuracy"])
    with torch.no_grad():
        expected = ticket.model()(torch.from_numpy(tests)).numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    (one,) = np.asarray(session.run(None, {"images": tests[:1]})[0])
    np.testing.assert_allclose(one, expected[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", ["mlp", "cnn", "resnet20"])
def test_it_has_the_masked_weights_by_name(model: str, folder: Path, results: Results) -> None:
    ticket = results.lineage(model=model)[-1]
    network = onnx.load(folder / "out" / ticket.lineage.id / "1/network.onnx")
    onnx.checker.check_model(network)
    held = {each.name: to_array(each) for each in network.graph.initializer}
    for name, weight in ticket.weights().items():
        if not name.endswith("num_batches_tracked"):
            assert np.array_equal(held[name], weight.numpy()), name
    mask = ticket.mask()
    assert all((held[name][~kept.numpy()] == 0).all() for name, kept in mask.items())
    assert sum(int((held[name] != 0).sum()) for name in mask) == ticket.metrics()["params_kept"]


def test_one_iteration_is_exported_with_its_network(folder: Path) -> None:
    told = ask(folder, "export", "first", "mlp snip", "--onnx", "--output", "one").split()
    assert [Path(each).name for each in told][-1] == "network.onnx"
    ask(folder, "export", "first", "mlp snip", "--output", "without")
    assert not (folder / "without/network.onnx").exists()


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_without_its_packages_nothing_is_written(
    package: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    told = refused(folder, "export", "first", "--all", "--onnx", "--output", "none")
    assert f"ONNX needs {package}, which is not installed: pip install 'prunesweep[onnx]'" in told
    assert not (folder / "none").exists()


PLUGIN = """
import torch
from prunesweep import Shape, model
from torch import nn

class Odd(nn.Sequential):
    def forward(self, images):
        logits = super().forward(images)
        {odd}
        return logits

@model
def odd(shape: Shape, classes: int) -> nn.Module:
    return Odd(nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ("logits = logits if float(logits.sum()) > 9e9 else -logits",
         "odd cannot be written as ONNX: "),
        ("logits = logits + torch.rand(10)",
         "odd computes something else as ONNX than in torch; use its state dict"),
    ],
)  # fmt: skip
def test_what_is_no_such_network_is_refused(odd: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "onnx_lab.py").write_text(PLUGIN.replace("{odd}", odd))
    given = {"plugins": ["onnx_lab.py"], "model": "odd", "seeds": [0], "methods": [SNIP]}
    train(tmp_path, SWEEP | given)
    export = ("export", "first", "snip", "--onnx", "--output", "out")
    assert "or --plugin lab.py" in refused(tmp_path, *export)
    told = refused(tmp_path, *export, "--plugin", "onnx_lab.py")
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()
