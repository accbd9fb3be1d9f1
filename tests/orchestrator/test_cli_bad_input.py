"""Wrong input to any command: exit code 2, one clear message, no traceback, nothing written."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from asking import ask

from orchestrator.commands import cli
from orchestrator.records.recording import record_sweep
from orchestrator.records.sweep import write_sweep
from orchestrator.results.compacting import compact
from orchestrator.run.datasets import resolve_datasets
from orchestrator.run.planning import sweep_lineages
from orchestrator.sweepfile.spec import SweepSpec
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.data import data_roots
from trainables.store import Store

GOOD = (
    "name: good\ndataset: digits\nmodel: mlp\ntrain: {epochs: 2, batch_size: 50}\nmethods: [sap]\n"
)
REWOUND = """\
name: rewound
dataset: digits
model: mlp
train: {epochs: 2, batch_size: 50}
methods:
  - one_shot
  - {name: lottery_ticket, rewind: {step: [0, 58]}}
"""
PAST_THE_END = (
    "step 58 is past the end of training: 2 epochs of digits are 58 steps; choose a step up to 57"
)
TOO_SMALL = (
    "vgg11 pools a 1x8x8 image (channels x height x width) down to nothing: it needs at least"
    " 16x16 pixels; choose a dataset with larger images, or a model for small ones such as mlp or"
    " resnet20"
)

Refused: TypeAlias = Callable[..., str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; datasets are looked for in folders that do not exist."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("PRUNESWEEP_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Refused:
    """Runs a command in this process and returns its message."""

    def refused(*arguments: str) -> str:
        before = contents(here)
        monkeypatch.setattr(sys, "argv", ["prunesweep", *arguments])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        out, err = capsys.readouterr()
        assert exit.value.code == 2, err
        assert out == ""
        assert "Traceback" not in err
        assert contents(here) == before
        assert list(here.parent.iterdir()) == [here]
        return err

    return refused


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def written(text: str) -> str:
    Path("s.yaml").write_text(text)
    return "s.yaml"


@pytest.mark.parametrize("command", ["plan", "run"])
class TestSweepFile:
    def test_that_is_missing(self, refused: Refused, command: str) -> None:
        assert refused(command, "no.yaml") == "prunesweep: no.yaml: no such file\n"

    def test_that_is_a_folder(self, refused: Refused, command: str, here: Path) -> None:
        Path("s.yaml").mkdir()
        assert "s.yaml: is a folder; give the YAML file itself" in refused(command, "s.yaml")

    def test_that_is_no_yaml(self, refused: Refused, command: str) -> None:
        message = refused(command, written("name: [a\nmodel: b\n"))
        assert message.startswith("prunesweep: s.yaml:2:6: not valid YAML: ")
        assert len(message.splitlines()) == 1

    def test_with_an_unknown_key(self, refused: Refused, command: str) -> None:
        message = refused(command, written(GOOD.replace("epochs", "epoch")))
        assert message == (
            'prunesweep: s.yaml:4:9: train.epoch: unknown key "epoch"; did you mean "epochs"?\n'
        )

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("train.epochs", "--set train.epochs: write --set KEY=VALUE"),
            ("train.epochs=", "--set train.epochs: there is nothing here"),
            ("train.epochs=two", '--set train.epochs: train.epochs: "two" is text, not a whole'),
            ("trian.epochs=2", '--set trian.epochs: trian: unknown key "trian"; did you mean "tr'),
            ("methods.7=sap", "--set methods.7: methods is a list of 1; address an entry by"),
        ],
    )
    def test_with_a_wrong_override(
        self, refused: Refused, command: str, override: str, message: str
    ) -> None:
        shown = refused(command, written(GOOD), "--set", override)
        assert shown.startswith(f"prunesweep: {message}")
        assert len(shown.splitlines()) == 1

    def test_whose_dataset_is_not_there(self, refused: Refused, command: str, here: Path) -> None:
        file = written(GOOD.replace("digits", "{name: parquet, path: birds}"))
        message = refused(command, file)
        for folder in (here.parent / "data", here.parent / "cache/prunesweep"):
            assert str(folder / "birds") in message
        assert "set `data_root:` in the sweep file or the environment variable" in message
        with_root = refused(command, file, "--set", "data_root=root")
        assert str(here / "root/birds") in with_root

    def test_that_rewinds_past_the_end(self, refused: Refused, command: str) -> None:
        message = refused(command, written(REWOUND))
        where = "s.yaml:7:47: methods.1.rewind.step.1"
        assert message == f"prunesweep: {where}: {PAST_THE_END}\n"

    def test_that_rewinds_past_the_end_by_an_override(self, refused: Refused, command: str) -> None:
        message = refused(command, written(REWOUND), "--set", "methods.1.rewind.step=58")
        where = "--set methods.1.rewind.step: methods.1.rewind.step"
        assert message == f"prunesweep: {where}: {PAST_THE_END}\n"

    def test_that_an_override_makes_rewind_past_the_end(
        self, refused: Refused, command: str
    ) -> None:
        file = written(REWOUND.replace("epochs: 2", "epochs: 3"))
        message = refused(command, file, "--set", "train.epochs=2")
        assert message.startswith("prunesweep: s.yaml:7:47: methods.1.rewind.step.1: step 58")

    def test_whose_masks_have_no_time_to_change(self, refused: Refused, command: str) -> None:
        file = written(GOOD.replace("[sap]", "[sap, {name: rigl, density: 0.1}]"))
        message = refused(command, file)
        assert message == (
            "prunesweep: s.yaml:5:16: methods.1.every: a training of 58 steps leaves rigl no room "
            "to change the mask every 100 of them, up to its share end of 0.75; choose a smaller "
            "every, or train longer\n"
        )
        message = refused(command, file, "--set", "train.keep=best_test")
        assert "set train.keep: last instead of best_test" in message

    def test_whose_method_has_no_use_for_an_axis(self, refused: Refused, command: str) -> None:
        methods = "[sap, {name: rigl, density: 0.1, every: 5}]"
        text = GOOD.replace("[sap]", methods) + "prune: {rewind_batchnorm: [true, false]}\n"
        message = refused(command, written(text))
        advice = "exclude: [{method: rigl, prune.rewind_batchnorm: false}]"
        assert message == (
            "prunesweep: s.yaml:6:34: prune.rewind_batchnorm.1: the same as "
            "prune.rewind_batchnorm.0 at s.yaml:6:28: for rigl, which has no use for it; exclude "
            f"one there: {advice}\n"
        )
        spec = load_sweep(written(f"{text}{advice}\n"))
        lineages = sweep_lineages(spec, resolve_datasets(spec, data_roots(None, {})))
        assert [line.cell.method.name for line in lineages] == ["sap", "rigl", "sap"]

    def test_whose_model_does_not_fit(self, refused: Refused, command: str) -> None:
        message = refused(command, written(GOOD.replace("mlp", "vgg11")))
        assert message == f"prunesweep: s.yaml:3:8: model: {TOO_SMALL}\n"

    def test_whose_holdout_is_too_large(self, refused: Refused, command: str) -> None:
        file = written(GOOD.replace("digits", "[digits, {name: digits, holdout: 1437}]"))
        message = refused(command, file)
        assert message.startswith("prunesweep: s.yaml:2:19: dataset.1: holdout: 1437 leaves")

    @pytest.mark.parametrize("storage", ["file", "file/below"])
    def test_whose_storage_is_a_file(self, refused: Refused, command: str, storage: str) -> None:
        Path("file").write_text("not a store")
        message = refused(command, written(GOOD), "--storage", storage)
        place = Path(storage).absolute()
        assert message == f"prunesweep: storage {place} is not a folder; choose another one\n"

    def test_whose_storage_is_empty_or_of_no_kind(self, refused: Refused, command: str) -> None:
        for storage in ("", "nowhere://bucket"):
            message = refused(command, written(GOOD), "--storage", storage)
            assert "give a folder or a URI such as s3://bucket/folder" in message


def test_a_run_into_storage_that_cannot_be_written(refused: Refused) -> None:
    # even root makes no folder there
    message = refused("run", written(GOOD), "--storage", "/proc/nowhere")
    assert message.startswith("prunesweep: storage /proc/nowhere cannot be written (")
    assert message.endswith("; choose another one\n")


def test_a_run_whose_dataset_is_damaged(refused: Refused, here: Path) -> None:
    """Planning does not read it; the run says what is wrong before it writes anything."""
    raw = here / "root/FashionMNIST/raw"
    raw.mkdir(parents=True)
    for split in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (raw / f"{split}-{kind}-ubyte").write_bytes(b"not an idx file")
    file = written(GOOD.replace("digits", "fashion_mnist") + "data_root: root\n")
    message = refused("run", file)
    assert message.startswith("prunesweep: s.yaml:2:10: dataset: ")
    assert str(raw) in message


class TestCommandLine:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["plam"], 'Unknown command "plam". Did you mean "plan"?'),
            (["plan", "s.yaml", "--storag", "x"], "Unknown option: --storag"),
            (["plan"], "requires an argument"),
            (["plan", "s.yaml", "--storage"], "requires an argument"),
            (["list", "modles"], "modles"),
            (["results", "a", "--format", "xlsx"], "xlsx"),
            (["export", "a", "b"], "--output"),
            (["export", "a", "b", "--output", "o", "--iteration", "last"], "last"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_mistakes(self, refused: Refused, arguments: list[str], message: str) -> None:
        written(GOOD)
        assert message in refused(*arguments)


class TestStoredSweeps:
    COMMANDS = (["status"], ["results"], ["export", "sap", "--output", "out"])

    @pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
    def test_unknown(self, refused: Refused, here: Path, command: list[str]) -> None:
        name, *arguments = command
        message = refused(name, "nope", *arguments)
        assert message == (
            f"prunesweep: storage {here}/prunesweep-store has no sweep 'nope'; it has: none. "
            "Choose another --storage, or run the sweep first\n"
        )

    @pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
    def test_beside_known_ones(self, refused: Refused, begun: str, command: list[str]) -> None:
        name, *arguments = command
        message = refused(name, "nope", *arguments, "--storage", begun)
        assert "has no sweep 'nope'; it has: begun." in message

    @pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
    def test_in_a_file(self, refused: Refused, command: list[str]) -> None:
        Path("file").write_text("not a store")
        name, *arguments = command
        message = refused(name, "nope", *arguments, "--storage", "file")
        assert "is not a folder" in message

    @pytest.mark.parametrize(
        ("sql", "message"),
        [
            ("SELEC 1", "syntax error"),
            ("SELECT acuracy FROM iterations", '"acuracy" not found'),
            ("SELECT * FROM epoch", "epoch does not exist"),
            ("SELECT CAST('many' AS INT)", "Could not convert"),
            ("", "give a SELECT"),
        ],
    )
    def test_bad_sql(self, refused: Refused, begun: str, sql: str, message: str) -> None:
        assert message in refused("results", "begun", "--sql", sql, "--storage", begun)

    def test_results_into_a_folder_that_is_not_there(self, refused: Refused, begun: str) -> None:
        for format in ("table", "csv"):
            message = refused(
                "results", "begun", "--storage", begun, "--format", format, "--output", "no/r.csv"
            )
            assert "no/r.csv" in message

    def test_exports_of_what_is_not_there(self, refused: Refused, begun: str) -> None:
        options = ["--output", "out", "--storage", begun]
        assert "no lineage of begun matches" in refused("export", "begun", "nope", *options)
        told = "2 lineages of begun match 'sap'; give one, such as 'sap seed 0', 'sap seed 1'"
        assert told in refused("export", "begun", "sap", *options)
        message = refused("export", "begun", "sap-global-s1", "--iteration", "99", *options)
        assert "has no committed iteration 99" in message

    @pytest.fixture
    def begun(self, here: Path) -> str:
        """The storage of a sweep that was begun and has no iteration yet."""
        spec = SweepSpec.model_validate(
            {"name": "begun", "dataset": "digits", "model": "mlp", "seeds": [0, 1],
             "methods": ["sap"]}
        )  # fmt: skip
        lineages = sweep_lineages(spec, resolve_datasets(spec, data_roots(None, {})))
        store = Store(str(here / "store"))
        record = record_sweep(spec, lineages)
        write_sweep(store, record)
        compact(store, record, store.committed("iterations"))
        return store.location


def test_a_storage_that_is_not_there_is_not_called_sound(here: Path) -> None:
    assert "has nothing to check" in ask(here, "verify", "--storage", "nowhere")
    assert not (here / "nowhere").exists()


def test_plan_writes_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(GOOD)
    before = contents(here)
    for arguments in (["plan", file], ["plan", file, "--json", "--storage", "some/where"]):
        monkeypatch.setattr(sys, "argv", ["prunesweep", *arguments])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        assert exit.value.code == 0
    assert contents(here) == before
    assert list(here.parent.iterdir()) == [here]


def test_the_installed_command(here: Path) -> None:
    command = str(Path(sys.executable).with_name("prunesweep"))
    file = written(REWOUND)
    done = subprocess.run([command, "plan", file], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"prunesweep: s.yaml:7:47: methods.1.rewind.step.1: {PAST_THE_END}\n"
    assert [path.name for path in here.iterdir()] == [file]
