"""Commands say what they have to say to terminals and pipes of any encoding, open or closed."""

import ast
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from measured import measured, sweep_file

from orchestrator.commands import cli
from orchestrator.commands.streams import PLAIN
from orchestrator.results.rendering import TextTable, as_latex

COMMAND = str(Path(sys.executable).with_name("prunesweep"))

Said = Callable[..., tuple[int, bytes, bytes]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streams")
    file = sweep_file(folder, seeds=[0, 1], methods=[{"name": "magnitude", "density": 0.1}])
    measured(folder, file, lambda line, t: {"test_accuracy": 0.5 + 0.01 * line.config["seed"]})
    return folder


@pytest.fixture
def said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Said:
    """Runs a command in this process with streams of an encoding: its exit code and what it
    wrote."""
    monkeypatch.chdir(folder)

    def said(*arguments: str, encoding: str = "ascii") -> tuple[int, bytes, bytes]:
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2))
        with monkeypatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(sys, "argv", ["prunesweep", *arguments])
            with pytest.raises(SystemExit) as exit:
                cli.main()
            out.flush()
            err.flush()
        return int(exit.value.code or 0), *(each.buffer.getvalue() for each in (out, err))  # pyright: ignore

    return said


@pytest.mark.parametrize(
    ("encoding", "heading"),
    [("latin-1", b"\xb1 std"), ("ascii", b"+- std"), ("utf-8", b"\xc2\xb1 std")],
)
def test_the_summary_is_shown_in_any_encoding(said: Said, encoding: str, heading: bytes) -> None:
    code, out, err = said("results", "s", "--storage", "store", encoding=encoding)
    assert (code, err) == (0, b"")
    assert heading in out


def test_the_installed_command_in_a_posix_locale(folder: Path) -> None:
    posix = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    shown = subprocess.run(
        [COMMAND, "results", "s", "--storage", "store"],
        cwd=folder,
        env={**os.environ, **posix},
        capture_output=True,
        timeout=60,
    )
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert b"+- std" in shown.stdout


QUERY = ("results", "s", "--storage", "store", "--sql", 'SELECT 1 AS "± std"')


def test_json_loses_nothing(said: Said) -> None:
    _, out, _ = said(*QUERY, "--format", "json")
    assert out.isascii()
    assert json.loads(out)[0].keys() == {"± std"}


def test_csv_is_in_the_streams_encoding_and_a_file_in_utf_8(said: Said, folder: Path) -> None:
    arguments = (*QUERY, "--format", "csv")
    assert b'"+- std"' in said(*arguments)[1]
    assert said(*arguments, "--output", "out.csv")[0] == 0
    assert '"± std"' in (folder / "out.csv").read_text(encoding="utf-8")


def test_parquet_stays_as_it_is(said: Said) -> None:
    _, out, _ = said(*QUERY, "--format", "parquet")
    assert "± std" in pq.read_table(pa.BufferReader(out)).column_names


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_lists_and_help_are_shown_in_any_encoding(said: Said, encoding: str) -> None:
    for arguments in (("list", "criteria"), ("list", "methods"), ("--help",)):
        assert said(*arguments, encoding=encoding)[0] == 0


def test_what_is_no_character_of_ours_is_escaped(said: Said) -> None:
    code, _, err = said("plan", "nöthing.yaml")
    assert (code, err) == (2, b"prunesweep: n\\xf6thing.yaml: no such file\n")


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


@pytest.mark.parametrize("form", ["table", "parquet"])
def test_a_reader_that_has_enough_gets_no_traceback(nowhere: int, folder: Path, form: str) -> None:
    arguments = ("results", "s", "--storage", str(folder / "store"), "--format", form)
    assert ended(*arguments, stdout=nowhere) == (1, b"")


def test_a_list_for_a_reader_that_has_enough(nowhere: int) -> None:
    assert ended("list", "methods", stdout=nowhere) == (1, b"")


def test_a_full_disk_is_one_message() -> None:
    with open("/dev/full", "wb") as full:
        assert ended("list", "methods", stdout=full) == (
            2,
            b"prunesweep: [Errno 28] No space left on device\n",
        )


def test_closed_streams_are_none() -> None:
    shell = f"{COMMAND} --version >&-; echo $?; {COMMAND} plan no.yaml 2>&-; echo $?"
    result = subprocess.run(["sh", "-c", shell], capture_output=True, timeout=60, text=True)
    assert (result.stdout, result.stderr) == ("0\n2\n", "")


def test_what_stands_for_a_character_is_ascii() -> None:
    assert all(plain.isascii() for plain in PLAIN.values())


def characters(folder: Path, pattern: str) -> set[str]:
    """Those beyond ASCII in the strings of the code there, but for what documents it."""
    found: set[str] = set()
    for tree in (ast.parse(file.read_text()) for file in folder.glob(pattern)):
        documents = {id(each.value) for each in ast.walk(tree) if isinstance(each, ast.Expr)}
        for each in ast.walk(tree):
            if isinstance(each, ast.Constant) and id(each) not in documents:
                found |= {*str(each.value)}
    return {each for each in found if not each.isascii() and each.isprintable()}


def test_every_character_of_ours_has_what_stands_for_it() -> None:
    root = Path(__file__).parents[2]
    shown = characters(root, "orchestrator/**/*.py") | characters(root, "trainables/**/*.py")
    assert shown <= PLAIN.keys()
    # Those of tables are ASCII in LaTeX.
    for each in characters(root, "orchestrator/results/*.py"):
        table = TextTable((("",),), ((each,),), frozenset())
        assert as_latex(table).isascii(), each
