"""The benchmark for GPUs goes its way on a CPU too, with networks that are small."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).parent.parent / "benchmarks" / "gpu.py"


def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(out: str) -> set[tuple[str, ...]]:
    """Of the table at the end: the model, how, the networks and the processes of each row."""
    table = out[out.rindex("model  ") :].splitlines()[1:]
    return {(line[:14].strip(), line[15:33].strip(), *line[33:53].split()) for line in table}


@pytest.mark.parametrize(
    "parts",
    [
        ("alone", "fused"),
        pytest.param(("packed", "compiled"), marks=pytest.mark.long),
    ],
    ids=str,
)
def test_every_part_ends_in_the_table(
    parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark().main(["--device", "cpu", "--tiny", "--parts", *parts]) == 0
    out = capsys.readouterr().out
    assert out.count("ok  ") == 12
    assert "NOT" not in out
    expected = {("eager", "1", "1")}
    if "alone" in parts:
        expected |= {("tf32", "1", "1"), ("bf16", "1", "1"), ("eager", "2", "1")}
    else:
        expected |= {("eager", "1", "2"), ("compiled", "1", "1")}
    both = {(model, *row) for model in ("mlp", "cnn") for row in expected}
    convolutions = {("cnn", "bf16", "2", "1")} if "fused" in parts else set()
    assert rows(out) == both | convolutions


def test_when_the_time_is_over_the_table_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark().main(["--device", "cpu", "--tiny", "--minutes", "0"]) == 1
    assert "left out, since the time was over" in capsys.readouterr().out
