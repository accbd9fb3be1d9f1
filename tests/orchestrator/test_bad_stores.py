"""Storage that is not as prunesweep left it, or is not prunesweep's: every command gives a result
or one clear message, and writes nothing where it should not."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from smallest import SWEEP as SMALLEST

from orchestrator.commands import cli
from trainables.store import MANIFEST, Store, StoreError, iteration_path
from trainables.store.artifacts import METRICS, decode_table, encode_table
from trainables.store.processes import this_process
from trainables.store.storage_format import mark, require_ours

COMMAND = str(Path(sys.executable).with_name("prunesweep"))
SWEEP = SMALLEST | {"wandb": {"mode": "disabled"}}
AWKWARD = 'it\'s "a" store\n#1?x=%20&é ∑ -y'
"""A folder's name with what shells, URIs, SQL and terminals give a meaning to."""


@dataclass(frozen=True)
class Told:
    code: int
    out: str
    err: str


Run = Callable[..., Told]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage of a sweep that was run to its end, in a folder with an awkward name."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "s.yaml").write_text(json.dumps(SWEEP))
    done = subprocess.run(
        [COMMAND, "run", "s.yaml", "--storage", f"./{AWKWARD}"],
        cwd=folder, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {path.name for path in folder.iterdir()} == {"s.yaml", AWKWARD}
    return folder / AWKWARD


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the sweep's file."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "s.yaml").write_text(json.dumps(SWEEP))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")
    return folder


@pytest.fixture
def store(here: Path, finished: Path) -> Path:
    """A copy of the finished storage, to be spoilt, where the commands look for it."""
    return copied(finished, here / "prunesweep-store")


def copied(finished: Path, place: Path) -> Path:
    shutil.copytree(finished, place, symlinks=True)
    return place


@pytest.fixture
def run(here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process; its exit code is one of the four, and never a traceback."""

    def run(*arguments: str) -> Told:
        monkeypatch.setattr(sys, "argv", ["prunesweep", *arguments])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        out, err = capfd.readouterr()
        assert exit.value.code in (0, 1, 2), err
        assert "Traceback" not in err + out
        if exit.value.code == 2:
            assert out == ""
            assert err.startswith("prunesweep: ")
        return Told(exit.value.code, out, err)

    return run


READING = (
    ("status", "s"),
    ("results", "s"),
    ("verify",),
    ("export", "s", "one_shot", "--output", "../out"),
    ("plan", "s.yaml"),
    ("list", "sweeps"),
    ("du",),
    ("gc", "--dry-run"),
)
REPORT = ("report", "s", "--output", "../out.html")
"""Takes as long as all others together: not asked everywhere."""
EVERY_COMMAND = (*READING, ("run", "s.yaml"))


def contents(folder: Path) -> dict[str, bytes | str]:
    """Every file below, with what it holds, and where every link leads."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else (path.read_bytes() if path.is_file() else "a folder")
        for path in folder.rglob("*")
    }


def all_refuse(run: Run, place: Path, *phrases: str, storage: Path | None = None) -> None:
    """Every command says `phrases` in one message, and leaves all below `place` as it is."""
    before = contents(place)
    for command in EVERY_COMMAND:
        told = run(*command, *(["--storage", str(storage)] if storage else []))
        assert told.code == 2, command
        assert all(phrase in told.err for phrase in phrases), (command, told.err)
        assert told.err.count("\n") == 1, told.err
    assert contents(place) == before


def all_succeed(run: Run, *options: str) -> None:
    for command in EVERY_COMMAND:
        told = run(*command, *options)
        assert told.code == 0, (command, told.err)


# The mark


def test_a_run_marks_its_storage(finished: Path) -> None:
    assert json.loads((finished / "prunesweep.json").read_text()) == {"format": 1}


@pytest.mark.parametrize(("format", "phrase"), [(2, "the newer prunesweep"), (0, "the older")])
def test_another_format(run: Run, store: Path, here: Path, format: int, phrase: str) -> None:
    (store / "prunesweep.json").write_text(json.dumps({"format": format}))
    all_refuse(run, here, f"has format {format}, and this version reads 1", phrase)


@pytest.mark.parametrize("mark", ["", "[]", "{", "{}", '{"format": "1"}', '{"format": true}', "3"])
def test_a_damaged_mark(run: Run, store: Path, here: Path, mark: str) -> None:
    (store / "prunesweep.json").write_text(mark)
    all_refuse(run, here, "prunesweep.json is damaged", '{"format": 1}')


def test_a_storage_from_before_the_mark_gets_one(run: Run, store: Path) -> None:
    (store / "prunesweep.json").unlink()
    (store / "notes.txt").write_text("mine")
    for command in READING:
        assert run(*command).code == 0
    assert not (store / "prunesweep.json").exists()
    assert run("run", "s.yaml").code == 0
    assert (store / "prunesweep.json").exists()


@pytest.mark.parametrize(
    "names",
    [
        (".git/config", "README.md", "sweeps/quickstart.yaml", "tests/test.py"),
        (".bashrc", ".ssh/id_ed25519"),
        ("iterations/1.txt", "model.pt"),
        ("thesis.tex",),
    ],
    ids=["a checkout", "a home", "another program's", "a document"],
)
def test_a_folder_of_other_things(run: Run, here: Path, names: tuple[str, ...]) -> None:
    for name in names:
        file = here / "prunesweep-store" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine")
    all_refuse(run, here, "is no prunesweep storage: it holds other things", "folder of its own")
    assert "wrong  storage" in run("doctor").out


def test_an_empty_folder_will_do(run: Run, here: Path, finished: Path) -> None:
    (here / "prunesweep-store").mkdir()
    (here / "prunesweep-store/.DS_Store").write_text("")
    assert run("plan", "s.yaml").code == 0
    assert contents(here / "prunesweep-store") == {".DS_Store": b""}


def test_what_a_file_browser_leaves_everywhere_is_nothing(run: Run, store: Path) -> None:
    asked = (("status", "s"), ("results", "s"), ("verify",), ("plan", "s.yaml"), ("run", "s.yaml"))
    before = [run(*command) for command in asked]
    for folder in [path for path in store.rglob("*") if path.is_dir()]:
        (folder / ".DS_Store").write_bytes(b"mine")
    (store / "claims").mkdir(exist_ok=True)
    (store / "claims/.DS_Store").write_bytes(b"mine")
    assert [run(*command) for command in asked] == before
    assert run("list", "sweeps").code == run("gc").code == 0


def test_an_object_store_is_marked_and_refused_alike() -> None:
    store = Store("memory:///bucket/folder")
    require_ours(store)
    assert mark(store).existing
    store.write("iterations/k/manifest.json", b"{}")
    require_ours(store)
    store.write("prunesweep.json", b'{"format": 2}')
    with pytest.raises(StoreError, match="has format 2"):
        require_ours(store)
    others = Store("memory:///bucket/other")
    others.write("model.pt", b"")
    with pytest.raises(
        StoreError, match=r"'model.pt'.*such as memory:///bucket/other/prunesweep-st"
    ):
        require_ours(others)


# Links


@pytest.mark.parametrize("link", ["iterations", "sweeps/s", "tables", "sweeps/other", "tmp"])
def test_a_link_out_of_the_storage(run: Run, store: Path, here: Path, link: str) -> None:
    outside = here / "outside"
    place = store / link
    if place.exists():
        place.rename(outside)
    else:
        outside.mkdir()
    (outside / "precious").write_text("mine")
    place.symlink_to(outside)
    all_refuse(run, here, f"{link} leads out of the storage", "remove the link")


def test_a_linked_iteration(run: Run, store: Path, here: Path) -> None:
    key = next((store / "iterations").iterdir()).name
    (here / "outside").mkdir()
    shutil.rmtree(store / "iterations" / key)
    (store / "iterations" / key).symlink_to("../../outside")
    all_refuse(run, here, f"iterations/{key} leads out of the storage, to {here}/outside")


def test_a_link_that_is_made_while_a_run_is_at_work(store: Path, here: Path) -> None:
    """What `run` has checked is checked again wherever something is written or removed."""
    outside = here / "outside"
    outside.mkdir()
    (outside / "manifest.json").write_text("mine")
    (store / "claims/k").symlink_to(outside)
    (store / "iterations/k").symlink_to(outside)
    opened = Store(str(store))
    attempts: list[Callable[[], object]] = [
        lambda: opened.commit("iterations/k/deeper", {"a": b""}),
        lambda: opened.write("claims/k/a", b""),
        lambda: opened.put("claims/k/a", b""),
        lambda: opened.overwrite("claims/k/manifest.json", b"x"),
        lambda: opened.delete_file("claims/k/manifest.json"),
        lambda: opened.replace("iterations/k", {"a": b""}),
        lambda: opened.remove("iterations/k"),
        lambda: opened.set_aside("iterations/k"),
        lambda: opened.write("../a", b""),
        lambda: opened.write("iterations/../../a", b""),
    ]
    for attempt in attempts:
        with pytest.raises(StoreError, match="leads out of the storage"):
            attempt()
    assert contents(outside) == {"manifest.json": b"mine"}


def test_links_that_stay_inside_and_a_linked_storage_are_fine(
    run: Run, store: Path, here: Path
) -> None:
    (store / "iterations").rename(store / "tmp/moved")
    (store / "iterations").symlink_to("tmp/moved")
    (here / "link").symlink_to(store)
    all_succeed(run, "--storage", "link")


# Names


@pytest.mark.parametrize("name", ["../../etc", "..", ".", "/etc", "", "s/../s", "a\nb", "%2e%2e"])
def test_a_sweeps_name_that_is_a_path(run: Run, store: Path, here: Path, name: str) -> None:
    before = contents(here)
    for command in (["status"], ["results"], ["export"], ["report"]):
        more = ["one_shot", "--output", "out"] if command == ["export"] else []
        told = run(*command, name, *more)
        assert told.code == 2
        assert f"has no sweep {name!r}; it has: s." in told.err
    assert contents(here) == before


@pytest.mark.parametrize("where", ["id", "keys"])
@pytest.mark.parametrize("name", ["../../../secret", "/etc/passwd", "..", "a/b", "a\x1b[2J", ""])
def test_a_record_whose_names_are_paths(run: Run, store: Path, where: str, name: str) -> None:
    file = store / "sweeps/s/lineages.json"
    written = json.loads(file.read_text())
    line = written["lineages"][0]
    line[where] = name if where == "id" else [name, *line["keys"][1:]]
    file.write_text(json.dumps(written))
    for command in (("status", "s"), ("results", "s"), ("export", "s", "", "--output", "../out")):
        told = run(*command)
        assert told.code == 2
        assert f"sweeps/s/lineages.json: not what prunesweep writes (lineages.0.{where}" in told.err
        assert "\x1b" not in told.err


def test_a_manifest_whose_names_are_paths(run: Run, store: Path, here: Path) -> None:
    (here / "secret").write_text("secret")
    commit = next((store / "iterations").iterdir())
    manifest = json.loads((commit / MANIFEST).read_text())
    manifest["files"]["../../../secret"] = {"bytes": 6, "sha256": "0" * 64}
    (commit / MANIFEST).write_text(json.dumps(manifest))
    told = run("verify")
    assert told.code == 1
    assert "which is not a file of it" in told.out


def test_an_export_into_the_storage(run: Run, store: Path, here: Path) -> None:
    before = contents(here)
    for place in (store, next((store / "iterations").iterdir()), store / "new"):
        told = run("export", "s", "one_shot", "--output", str(place))
        assert told.code == 2
        assert "is inside of the storage" in told.err
    assert contents(here) == before


# Damaged records


DAMAGE = ("", "{", "[]", "{}", "3", '"x"', "[[]]", "[" * 100_000, '{"lineages": [{}], "swept": 0}')
RECORDS = {
    "sweep.json": ("", "{", "[]", "3", "[" * 100_000),  # any mapping may be a sweep
    "lineages.json": (*DAMAGE, '{"lineages": [], "swept": [null]}'),
    "provenance.json": (*DAMAGE[:2], *DAMAGE[3:], '[{"started_at": "noon", "command": []}]'),
    "failures.json": (*DAMAGE[:2], *DAMAGE[3:], '[{"lineage": 1}]'),
    "ends.json": (*DAMAGE[:2], *DAMAGE[3:], '[{"lineage": "x"}]'),
    "run.json": (*DAMAGE, '{"state": "running", "heartbeat": "2026-01-01T00:00:00"}'),
}
NEEDED = {"sweep.json", "lineages.json"}
TOLD = {"failures.json", "run.json", "ends.json"}


@pytest.mark.parametrize("record", RECORDS)
def test_a_damaged_record(run: Run, store: Path, record: str) -> None:
    """The run mends it; until then, what needs it says so, and status goes on without the rest."""
    file = store / "sweeps/s" / record
    for damage in RECORDS[record]:
        file.write_text(damage)
        for command in READING:
            told = run(*command)
            name = command[0]
            if record in NEEDED and name in ("status", "results", "export"):
                assert (told.code, f"sweeps/s/{record}: not " in told.err) == (2, True), command
            elif record in NEEDED and name == "verify":
                assert (told.code, f"sweeps/s/{record}: not " in told.out) == (1, True), damage
            elif record in TOLD and name == "status":
                assert (told.code, f"sweeps/s/{record}: not " in told.out) == (0, True), damage
        assert run("plan", "s.yaml").code == 0
    assert run(*REPORT).code == (0 if record in TOLD else 2)
    assert run("run", "s.yaml").code == 0
    all_succeed(run)
    # Every other record is of the last run alone, and is written anew.
    aside = [path.read_text() for path in store.glob("quarantine/*")]
    assert aside == ([RECORDS[record][-1]] if record == "provenance.json" else [])


def test_a_record_that_is_a_folder_or_a_sweep_that_is_a_file(run: Run, store: Path) -> None:
    (store / "sweeps/s/run.json").unlink(missing_ok=True)
    (store / "sweeps/s/run.json").mkdir()
    (store / "sweeps/notes").write_text("mine")
    for command in EVERY_COMMAND:
        run(*command)
    shutil.rmtree(store / "sweeps/s")
    (store / "sweeps/s").write_text("mine")
    for command in EVERY_COMMAND:
        run(*command)
    assert "sweeps/s is a file" in run("run", "s.yaml").err
    assert (store / "sweeps/s").read_text() == "mine"


# Other versions


def rewritten(store: Path, change: Callable[[Any], Any]) -> None:
    """Change the table of measures of every iteration, as another version would have written it."""
    opened = Store(str(store))
    for key in opened.committed("iterations"):
        path = iteration_path(key)
        files = {name: opened.read(path, name) for name in opened.manifest(path)["files"]}
        files[METRICS] = encode_table(change(decode_table(files[METRICS])))
        opened.replace(path, files)
    shutil.rmtree(store / "tables")


def test_tables_of_another_version(run: Run, store: Path) -> None:
    rewritten(store, lambda table: table.drop_columns(["gini", "macs_kept"]))
    all_succeed(run)
    rewritten(store, lambda table: table.append_column("new", [["x"]]))
    all_succeed(run)
    assert len(pq.read_table(store / "tables/iterations-s.parquet")) == 2


def test_a_table_of_another_kind(run: Run, store: Path) -> None:
    rewritten(store, lambda table: table.set_column(0, "density", [["dense"]]))
    told = run("results", "s")
    assert told.code in (0, 2)
    assert "metrics.parquet is not what prunesweep writes" in run("run", "s.yaml").out


# Two sweeps of one name


def test_a_second_sweep_of_the_same_name_shows_its_own_lineages(run: Run, store: Path) -> None:
    longer = SWEEP | {"seeds": [0], "prune": {"iterations": 0}}
    Path("other.yaml").write_text(json.dumps(longer))
    assert run("run", "other.yaml").code == 2
    assert run("run", "other.yaml", "--replace").code == 0
    rows = json.loads(run("results", "s", "--format", "json").out)
    assert [row["iteration"] for row in rows] == [0]
    planned = json.loads(run("plan", "s.yaml", "--json").out)
    assert planned["to_train"] == 0
    assert run("run", "s.yaml").code == 0
    assert len(json.loads(run("results", "s", "--format", "json").out)) == 2


# Places


@pytest.mark.parametrize(
    "name",
    [
        *("a b", "it's", 'q"q', "new\nline", "ünï ∑", "-dash", "#1", "what?", "%20"),
        *("a&b;c|d", "*", "[x]", "~", "n" * 255, "/".join(["n" * 60] * 5)),
    ],
)
def test_a_storage_with_an_awkward_name(run: Run, here: Path, finished: Path, name: str) -> None:
    copied(finished, here / name)
    all_succeed(run, f"--storage={name}" if name != "~" else "--storage=./~")


def test_a_report_of_what_is_at_an_awkward_place(run: Run, finished: Path) -> None:
    assert run(*REPORT, "--storage", str(finished)).code == 0


def test_what_was_trained_at_an_awkward_place_is_sound(run: Run, finished: Path) -> None:
    told = json.loads(run("verify", "--storage", str(finished), "--json").out)
    assert (told["commits"], told["damage"]) == (3, [])


@pytest.mark.parametrize("name", ["n" * 256, "/".join(["n" * 200] * 25)])
def test_a_name_that_no_file_system_takes(run: Run, here: Path, name: str) -> None:
    for command in EVERY_COMMAND:
        told = run(*command, "--storage", name)
        assert told.code == 2
        assert "File name too long" in told.err


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("file://{here}/a%20b%23%3F%2520", "a b#?%20"),
        ("file://{here}/a b", "a b"),
        ("file://{here}/ünï'\"", "ünï'\""),
        ("file://localhost{here}/x", "x"),
        ("file:{here}/x", "x"),
        ("FILE://{here}/x", "x"),
    ],
)
def test_a_file_uri(run: Run, here: Path, finished: Path, uri: str, name: str) -> None:
    copied(finished, here / name)
    all_succeed(run, "--storage", uri.format(here=here))
    assert {path.name for path in here.iterdir()} == {name, "s.yaml"}


@pytest.mark.parametrize("uri", ["file:///x#1", "file:///x?y", "file://host/x", "file:x", "file:"])
def test_a_uri_that_means_another_place(run: Run, here: Path, uri: str) -> None:
    before = contents(here)
    for command in EVERY_COMMAND:
        told = run(*command, "--storage", uri)
        assert told.code == 2
        assert repr(uri) in told.err
    assert contents(here) == before


@pytest.mark.parametrize("storage", ["a\0b", "a\udcff"])
def test_a_storage_that_is_no_text(run: Run, here: Path, storage: str) -> None:
    for command in EVERY_COMMAND:
        assert "is not Unicode text" in run(*command, "--storage", storage).err


# Read-only


def test_a_read_only_storage(store: Path, here: Path) -> None:
    """Mounted read-only, which binds root too."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0:
        pytest.skip("mounting needs root and `unshare`")
    before = contents(store)
    script = """
        mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" || exit 77
        "$1" results s > results.txt || exit 1
        "$1" run s.yaml 2> run.txt; [ $? = 2 ] || exit 2
        mount --bind behind "$0/tables" && mount -o remount,bind,ro "$0/tables" || exit 77
        for command in results report "figures --output ."; do
            "$1" $command s 2>> behind.txt; [ $? = 2 ] || exit 3
        done
    """
    (here / "behind").mkdir()
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, str(store), COMMAND],
        cwd=here, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip(f"cannot mount: {done.stderr}")
    assert done.returncode == 0, done.stderr
    assert "one_shot" in (here / "results.txt").read_text()
    refusal = (here / "run.txt").read_text()
    assert refusal.startswith(f"prunesweep: storage {store} cannot be written (Read-only")
    assert refusal.count("\n") == 1
    behind = (here / "behind.txt").read_text().splitlines()
    assert len(behind) == 3
    for line in behind:
        assert line.startswith(f"prunesweep: {store}: the tables of s lag behind its commits, and")
        assert "(Read-only file system)" in line
    assert contents(store) == before


# Storage that goes away


def test_a_storage_that_is_moved_away_while_a_run_is_at_work(here: Path) -> None:
    """The run ends with one message, and makes no second storage where the first one was."""
    long = SWEEP | {
        "dataset": "digits",
        "model": {"name": "mlp", "hidden": [32]},
        "train": {"epochs": 20, "batch_size": 10},
        "prune": {"iterations": 5},
        "wandb": {"mode": "offline"},
    }
    (here / "s.yaml").write_text(json.dumps(long))
    process = subprocess.Popen(
        [COMMAND, "run", "s.yaml"], cwd=here, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    store = here / "prunesweep-store"
    deadline = time.monotonic() + 240
    while not list(store.glob("iterations/*")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    store.rename(here / "moved")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 2, err
    assert out == ""
    assert err.splitlines()[-1].startswith(f"prunesweep: storage {store} is gone")
    assert not store.exists()
    moved = Store(str(here / "moved"))
    committed = moved.committed("iterations")
    assert 1 <= len(committed) < 6
    assert not [damage for key in committed for damage in moved.damage(iteration_path(key))]


# Clocks


def heartbeat(store: Path, *, ahead: timedelta, **more: Any) -> None:
    now = datetime.now(UTC) + ahead
    written = {
        "state": "running", "host": "h", "pid": 1, "heartbeat": now.isoformat(), "counts": {},
        "running": {}, "eta_seconds": None,
    }  # fmt: skip
    (store / "sweeps/s/run.json").write_text(json.dumps(written | more))


YEAR = timedelta(days=365)


@pytest.mark.parametrize("ahead", [-YEAR, timedelta(0), YEAR], ids=["slow", "right", "fast"])
def test_a_clock_that_jumped_does_not_hide_whether_a_run_is_at_work(
    run: Run, store: Path, ahead: timedelta
) -> None:
    heartbeat(store, ahead=ahead, process=this_process())
    assert json.loads(run("status", "s", "--json").out)["state"] == "running"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    process = this_process() | {"pid": ended.pid}
    ended.wait()
    heartbeat(store, ahead=ahead, process=process)
    assert json.loads(run("status", "s", "--json").out)["state"] == "died"
    all_succeed(run)


def test_the_clock_of_another_machine(run: Run, store: Path) -> None:
    elsewhere = this_process() | {"host": f"not-{socket.gethostname()}"}
    for ahead, state in ((timedelta(seconds=-5), "running"), (-YEAR, "died"), (YEAR, "running")):
        heartbeat(store, ahead=ahead, process=elsewhere)
        told = run("status", "s").out
        assert f"s: {state}" in told
        assert ("ahead of this one's" in told) == (ahead == YEAR)


def test_iterations_that_end_in_the_future(run: Run, store: Path) -> None:
    future = datetime.now(UTC) + YEAR

    def later(table: Any) -> Any:
        place = table.column_names.index("finished_at")
        field = table.schema.field(place)
        return table.set_column(place, field, pa.array([future], field.type))

    rewritten(store, later)
    all_succeed(run)
    assert run(*REPORT).code == 0
