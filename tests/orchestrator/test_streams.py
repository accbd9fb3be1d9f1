"""Commands say what they have to say to terminals and pipes of any encoding, open or closed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from measured import measured, sweep_file

from orchestrator.commands.streams import PLAIN

COMMAND = str(Path(sys.executable).with_name("prunesweep"))
ENCODINGS = {
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "posix": {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}

Said = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streams")
    file = sweep_file(folder, seeds=[0, 1], methods=[{"name": "magnitude", "density": 0.1}])
    measured(folder, file, lambda line, t: {"test_accuracy": 0.5 + 0.01 * line.config["seed"]})
    return folder


@pytest.fixture
def said(folder: Path) -> Said:
    """Runs the installed command, which a test's own streams say nothing about."""

    def said(*arguments: str, encoding: str = "ascii") -> subprocess.CompletedProcess[bytes]:
        environment = {**os.environ, **ENCODINGS[encoding]}
        return subprocess.run(
            [COMMAND, *arguments], cwd=folder, env=environment, capture_output=True, timeout=60
        )

    return said


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_summary_is_shown_in_any_encoding(said: Said, encoding: str) -> None:
    result = said("results", "s", "--storage", "store", encoding=encoding)
    assert (result.returncode, result.stderr) == (0, b"")
    heading = "±".encode("latin-1") if encoding == "latin-1" else b"+-"
    assert heading + b" std" in result.stdout


def test_json_loses_nothing(said: Said) -> None:
    result = said("results", "s", "--storage", "store", "--format", "json")
    assert result.stdout.isascii()
    assert json.loads(result.stdout)[0].keys() > {"± std", "remaining %"}


def test_csv_is_in_the_streams_encoding_and_a_file_in_utf_8(said: Said, folder: Path) -> None:
    arguments = ("results", "s", "--storage", "store", "--format", "csv")
    assert b'"+- std"' in said(*arguments).stdout
    assert said(*arguments, "--output", "out.csv").returncode == 0
    assert '"± std"' in (folder / "out.csv").read_text(encoding="utf-8")


def test_parquet_stays_as_it_is(said: Said) -> None:
    result = said("results", "s", "--storage", "store", "--format", "parquet")
    assert "± std" in pq.read_table(pa.BufferReader(result.stdout)).column_names


def test_what_is_no_character_of_ours_is_escaped(said: Said) -> None:
    result = said("plan", "nöthing.yaml")
    assert result.returncode == 2
    assert result.stderr == b"prunesweep: n\\xf6thing.yaml: no such file\n"


@pytest.fixture
def nowhere() -> Iterator[int]:
    """The end of a pipe whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def ended(*arguments: str, **streams: object) -> tuple[int, bytes]:
    command = [COMMAND, *arguments]
    given = {"stderr": subprocess.PIPE} | streams
    result = subprocess.run(command, timeout=60, **given)  # pyright: ignore
    return result.returncode, result.stderr or b""


@pytest.mark.parametrize("arguments", [("list", "methods"), ("list", "methods", "--json")])
def test_a_reader_that_has_enough_gets_no_traceback(
    nowhere: int, arguments: tuple[str, ...]
) -> None:
    assert ended(*arguments, stdout=nowhere) == (1, b"")


def test_results_for_a_reader_that_has_enough(nowhere: int, folder: Path) -> None:
    for form in ("table", "csv", "parquet"):
        arguments = ("results", "s", "--storage", str(folder / "store"), "--format", form)
        assert ended(*arguments, stdout=nowhere) == (1, b"")


def test_a_full_disk_is_one_message() -> None:
    with open("/dev/full", "wb") as full:
        assert ended("list", "methods", stdout=full) == (
            2,
            b"prunesweep: [Errno 28] No space left on device\n",
        )


def test_closed_streams_are_none() -> None:
    shell = f"{COMMAND} list methods >&-; echo $?; {COMMAND} plan no.yaml 2>&-; echo $?"
    result = subprocess.run(["sh", "-c", shell], capture_output=True, timeout=60, text=True)
    assert (result.stdout, result.stderr) == ("0\n2\n", "")


def test_what_stands_for_a_character_is_ascii() -> None:
    assert all(plain.isascii() for plain in PLAIN.values())
