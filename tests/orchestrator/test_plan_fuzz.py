"""Whatever a sweep file says: a plan, or one message that names the file; never a traceback."""

import io
import json
import re
import sys
import tempfile
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from orchestrator.commands import cli

NUMBERS = st.sampled_from([
    "0", "1", "2", "3", "-1", "0.5", ".5", "1.", ".1e1", "1e-3", "1E+2", "+1", "0o17", "0x1f",
    "010", ".inf", "-.inf", ".nan", "1_000", "1:30", "1e400", "1e-400", "9223372036854775808",
    "yes", "~", "null", "true", "'1'", "[]", "{}", "[1, 2]", "1e-7", "1000000", "999999999999",
])  # fmt: skip
"""Scalars as people, other programs and other versions of YAML write them."""

MODELS = st.sampled_from(
    ["linear", "mlp", "{name: mlp, hidden: [%s]}", "{name: mlp, hidden: [[4], [%s]]}", "cnn",
     "{name: cnn, hidden: [%s]}", "vgg11", "{name: resnet20, width: %s}",
     "{name: linear, init: %s}"]
)  # fmt: skip
DATASETS = st.sampled_from(
    ["digits", "{name: digits, subset: %s}", "{name: digits, holdout: %s, subset: %s}", "mnist",
     "{name: digits, normalize: {mean: [%s], std: [%s]}}", "{name: image_folder, path: %s}",
     "[digits, {name: digits, subset: %s}]"]
)  # fmt: skip
METHODS = st.sampled_from(
    ["one_shot", "lottery_ticket", "sap", "{name: sap, p: %s, q: %s}", "{name: imp, density: %s}",
     "{name: imp, density: 0.5, ratio: %s}", "{name: lottery_ticket, rewind: {step: %s}}",
     "{name: snip, density: [0.1, %s], examples: %s}", "{name: synflow, density: 0.1, rounds: %s}",
     "{name: one_shot, ratio: %s}", "{name: sap, eta: %s, gamma: %s}", "{name: nm, n: %s, m: %s}",
     "{name: random, density: %s, layer_densities: [erk, smart_ratio]}",
     "{name: one_shot, rewind: {step: %s, rewound: %s}}",
     "{name: random_search, density: %s, candidates: %s, examples: %s}"]
)  # fmt: skip
TRAINS = st.sampled_from(
    ["{epochs: %s}", "{epochs: 2, batch_size: %s}", "{optimizer: {name: sgd, lr: %s}}",
     "{lr_schedule: {name: step, milestones: [%s], factor: %s}}", "{clip_grad_norm: %s}",
     "{clip_before_mask: %s}", "{augment: {crop_padding: %s}}", "{keep: %s}"]
)  # fmt: skip
PRUNES = st.sampled_from(["{iterations: %s}", "{iterations: 2, scope: %s}", "{iterations: [%s]}"])


@st.composite
def filled(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> str:
    text = draw(texts)
    while "%s" in text:
        odd = draw(st.integers(0, 3)) == 3
        text = text.replace("%s", draw(NUMBERS if odd else st.sampled_from(["1", "0.5"])), 1)
    return text


@st.composite
def files(draw: st.DrawFn) -> str:
    lines = ["name: s", f"dataset: {draw(filled(DATASETS))}", f"model: {draw(filled(MODELS))}"]
    if draw(st.booleans()):
        lines.append(f"train: {draw(filled(TRAINS))}")
    if draw(st.booleans()):
        lines.append(f"prune: {draw(filled(PRUNES))}")
    if draw(st.booleans()):
        lines.append(f"seeds: [0, {draw(NUMBERS)}]")
    methods = draw(st.lists(filled(METHODS), min_size=1, max_size=2))
    return "\n".join([*lines, f"methods: [{', '.join(methods)}]"]) + "\n"


def planned(text: str) -> tuple[int, str, str]:
    """Exit code and both streams of `prunesweep plan s.yaml --json`, in an empty folder."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        (Path(folder) / "s.yaml").write_text(text)
        patch.setattr(sys, "argv", ["prunesweep", "plan", "s.yaml", "--json"])
        patch.setenv("PRUNESWEEP_DATA", folder)
        with chdir(folder), redirect_stdout(out), redirect_stderr(err):
            with pytest.raises(SystemExit) as exit:
                cli.main()
            assert [path.name for path in Path(folder).iterdir()] == ["s.yaml"]
    streams = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
    assert isinstance(exit.value.code, int)
    return exit.value.code, *streams  # type: ignore[return-value]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(files())
@example(f"name: s\ndataset: digits\nmodel: mlp\nseeds: [0x{'f' * 5000}]\nmethods: [one_shot]\n")
@example("name: s\ndataset: {name: digits, subset: 1}\nmodel: vgg11\nmethods: [one_shot]\n")
def test_a_sweep_file_is_planned_or_refused(text: str) -> None:
    code, out, err = planned(text)
    event(f"exit code {code}")
    if code == 0:
        assert json.loads(out)["to_train"] > 0
        assert err == ""
        return
    assert code == 2
    assert out == ""
    assert re.match(r"prunesweep: (s\.yaml:\d+:\d+: |no dataset at )", err), err
    assert "Traceback" not in err
