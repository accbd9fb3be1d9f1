"""The life of a storage: what goes with a sweep and what stays, whoever dies in the middle."""

import io
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import dying_storage
import pytest
from asking import ask
from dying import KILLED
from smallest import SWEEP as SMALLEST
from stored import BOTH, KINDS, commit, keys, lineages_of, opened_as, snapshots_of, store_sweep
from sweeping import start, store_of, wait_for, write

from orchestrator.records.heartbeat import Counts, Heartbeat, Process, write_heartbeat
from orchestrator.records.plugins import record_plugins
from orchestrator.records.provenance import read_provenance
from orchestrator.records.published import PUBLISHED
from orchestrator.records.recording import record_sweep
from orchestrator.records.sweep import (
    LINEAGES,
    NoSuchSweep,
    SweepRecord,
    existing_sweep,
    read_sweep,
)  # fmt: skip
from orchestrator.storage.collecting import (
    COLLECTING,
    Leftover,
    collect,
    delete,
    leftovers,
    wait_for_collection,
)  # fmt: skip
from orchestrator.storage.listing import list_sweeps
from orchestrator.storage.merging import SweepsDiffer, merge
from orchestrator.storage.naming import UnknownNames, named_by
from orchestrator.storage.removing import InUse, removal, remove_sweep
from orchestrator.storage.renaming import NameTaken, rename_sweep
from orchestrator.storage.usage import usage
from orchestrator.sweepfile.spec import SweepSpec
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.plugins.loading import load_plugins
from trainables.plugins.source import read_plugin
from trainables.store import Damaged, Store, StoreError, iteration_path, sweep_path
from trainables.store.artifacts import METRICS
from trainables.store.claims import Claims
from trainables.store.processes import this_process
from trainables.store.storage_format import collections

ROOT = Path(__file__).parents[2]
COMMITS = ("iterations", "snapshots")
LOST = iteration_path("f" * 64)
"""An iteration that no sweep names."""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Iterator[str]:
    with opened_as(request.param):
        yield request.param


@pytest.fixture
def store(kind: str, tmp_path: Path) -> Store:
    """A storage with two sweeps, `one` and `two`, which share what `one_shot` is."""
    return two_sweeps(tmp_path / "here")


def two_sweeps(folder: Path) -> Store:
    store = Store(str(folder))
    store_sweep(store, "one", methods=BOTH)
    store_sweep(store, "two", seeds=[0, 1])
    return store


def require_whole(store: Store, name: str) -> SweepRecord:
    """The record of a sweep, of which every iteration and every snapshot is there."""
    record = existing_sweep(store, name)
    names = named_by(store, record)
    for folder in ("iterations", "snapshots"):
        assert store.committed(folder).keys() >= names.of(folder)
        for key in names.of(folder):
            assert list(store.damage(f"{folder}/{key}")) == []
    return record


def committed(store: Store) -> set[str]:
    return {*store.committed("iterations")}


def at_rest(store: Store) -> bool:
    return not [path for path in store.sizes("") if path.startswith(("tmp/", "claims/"))]


# Names


@pytest.mark.parametrize(
    "file",
    ["quickstart.yaml", "sap/fig2.yaml", "sketching/table2_cifar10.yaml", "sketching/fig2.yaml"],
)
def test_a_sweep_names_what_a_run_of_it_rewinds_to(file: str, tmp_path: Path) -> None:
    spec = load_sweep(ROOT / "sweeps" / file, ["dataset=digits", "train.epochs=200"])
    lineages, store = lineages_of(spec), Store(str(tmp_path))
    names = named_by(store, record_sweep(spec, lineages))
    assert names.snapshots >= snapshots_of(lineages)
    assert names.iterations == {key for line in lineages for key in line.keys}


def test_a_plugged_in_method_names_what_it_rewinds_to_by_default(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(
        "from typing import Literal\n"
        "from prunesweep import Iterative, Rewinds, method\n"
        "from trainables.pruning.parts import Rewind\n"
        "@method\n"
        "class Late(Rewinds, Iterative):\n"
        '    """Rewinds to a step of its own."""\n'
        '    name: Literal["late"]\n'
        "    rewind: Rewind = Rewind(step=5)\n"
        "    def amount(self, weights, kept):\n"
        "        return 1\n"
    )
    catalogue = load_plugins([read_plugin("late.py", tmp_path)])
    sweep = SMALLEST | {
        "name": "late",
        "methods": ["late", {"name": "late", "rewind": {"step": 2}}],
    }
    sweep |= {"train": {"epochs": 5, "batch_size": 50}}
    spec = SweepSpec.model_validate(sweep, context=catalogue)
    lineages, store = lineages_of(spec), Store(str(tmp_path / "store"))
    record_plugins(store, "late", spec.configs)
    wanted = snapshots_of(lineages)
    assert len(wanted) == 3
    assert named_by(store, record_sweep(spec, lineages)).snapshots >= wanted


# Removing


def test_what_other_sweeps_are_made_of_stays(store: Store) -> None:
    one, two = (existing_sweep(store, name) for name in ("one", "two"))
    planned = removal(store, "one")
    assert remove_sweep(store, "one") == planned
    assert planned.iterations == len(keys(one) - keys(two)) == 1
    assert planned.shared == len(keys(one) & keys(two)) == 2
    assert committed(store) == keys(two)
    assert require_whole(store, "two") == two
    assert store.names("sweeps") == store.names("wandb") == ["two"]
    assert store.names("tables") == ["iterations-two.parquet", "manifest-two.json"]
    assert collect(store).leftovers == ()
    remove_sweep(store, "two")
    assert {*store.sizes("")} == {"prunesweep.json"}


def test_a_sweep_that_is_run_is_not_removed_or_renamed(store: Store) -> None:
    begin_run(store, "one")
    before = store.sizes("")
    with pytest.raises(InUse, match=f"a run of one is in flight, as process {os.getpid()}"):
        remove_sweep(store, "one")
    with pytest.raises(InUse, match="end it first"):
        rename_sweep(store, "one", "new")
    assert store.sizes("") == before


def begin_run(store: Store, name: str) -> None:
    process = Process.model_validate(this_process())
    heartbeat = Heartbeat(
        state="running", host=process.host, pid=process.pid, process=process,
        heartbeat="2026-01-01T00:00:00+00:00", counts=Counts(), running={}, eta_seconds=None,
    )  # fmt: skip
    write_heartbeat(store, name, heartbeat, "a-run")


def test_an_iteration_that_someone_trains_is_not_removed(store: Store) -> None:
    own = keys(existing_sweep(store, "one")) - keys(existing_sweep(store, "two"))
    with (
        claimed(store, *own),
        pytest.raises(InUse, match="is being trained; end that first, then remove one"),
    ):
        remove_sweep(store, "one")
    require_whole(store, "one")
    assert at_rest(store)


def claimed(store: Store, key: str) -> Any:
    claim = Claims(store).take(key)
    assert claim is not None
    return claim


def test_nothing_is_deleted_while_a_record_cannot_be_read(store: Store) -> None:
    record = LINEAGES.path("two")
    store.write(record, b"{")
    before = {path for path in store.sizes("") if not path.startswith("claims")}
    for act in (
        lambda: remove_sweep(store, "one"),
        lambda: collect(store),
        lambda: collect(store, dry_run=True),
    ):
        with pytest.raises(UnknownNames, match=r"lineages\.json: not JSON.*`prunesweep rm two`"):
            act()
    store.delete_file(record)
    with pytest.raises(UnknownNames, match="sweeps/two has no record of its lineages; what two sh"):
        collect(store)
    assert {*store.sizes("")} == before - {record}
    # It is taken away itself, and then it is known again what is nobody's.
    assert not remove_sweep(store, "two").known
    one = require_whole(store, "one")
    assert committed(store) > keys(one)
    collect(store)
    assert committed(store) == keys(require_whole(store, "one"))


def test_a_sweep_that_is_not_there(store: Store) -> None:
    for act in (lambda: remove_sweep(store, "on"), lambda: rename_sweep(store, "on", "new")):
        with pytest.raises(NoSuchSweep, match="did you mean 'one'"):
            act()


def test_a_file_among_the_sweeps_is_none(store: Store) -> None:
    store.put("sweeps/notes.txt", b"mine")
    assert [each.name for each in list_sweeps(store)] == ["one", "two"]
    assert len(usage(store).sweeps) == 2
    remove_sweep(store, "one")
    assert collect(store).leftovers == ()
    with pytest.raises(NoSuchSweep):
        remove_sweep(store, "notes.txt")
    assert store.peek("sweeps/notes.txt") == b"mine"


# Renaming


def test_a_sweep_is_renamed(store: Store) -> None:
    before = require_whole(store, "one")
    rename_sweep(store, "one", "new")
    record = require_whole(store, "new")
    assert (record.lineages, record.spec) == (before.lineages, before.spec | {"name": "new"})
    assert store.names("sweeps") == store.names("wandb") == ["new", "two"]
    assert store.names("tables") == ["iterations-two.parquet", "manifest-two.json"]
    assert len(read_provenance(store, "new")) == 1
    assert at_rest(store)


@pytest.mark.parametrize("new", ["two", "one", "", "../x", "a/b", "n" * 101])
def test_a_name_that_cannot_be_had(new: str, store: Store) -> None:
    before = store.sizes("")
    with pytest.raises(NameTaken, match=r"choose another name|cannot name a sweep: a name"):
        rename_sweep(store, "one", new)
    assert store.sizes("") == before


# Collecting


def litter(store: Store) -> set[str]:
    """Put into `store` what no sweep names; its paths."""
    commit(store, LOST)
    commit(store, f"snapshots/{'f' * 64}")
    commit(store, f"checkpoints/{'f' * 64}/000003")
    committed_one = min(keys(existing_sweep(store, "one")))
    commit(store, f"checkpoints/{committed_one}/000001")
    for path in (f"iterations/{'e' * 64}/weights", f"snapshots/{'e' * 64}/x/weights"):
        store.put(path, b"half")
    store.write("tables/iterations-gone-1.parquet", b"table")
    store.write("wandb/gone-1/sent/lineage", b"mark")
    return {
        LOST, f"snapshots/{'f' * 64}", f"checkpoints/{'f' * 64}", f"checkpoints/{committed_one}",
        f"iterations/{'e' * 64}", f"snapshots/{'e' * 64}", "tables/iterations-gone-1.parquet",
        "wandb/gone-1",
    }  # fmt: skip


def test_what_no_sweep_names_is_collected_and_nothing_else(store: Store) -> None:
    before, stamp = store.sizes(""), collections(store)
    paths = litter(store)
    store.write("quarantine/damaged/weights", b"kept")
    littered = store.sizes("")
    assert {each.path for each in collect(store, dry_run=True).leftovers} == paths
    assert (store.sizes(""), collections(store)) == (littered, stamp)
    found = collect(store)
    assert {each.path for each in found.leftovers} == paths
    assert found.bytes == sum(
        size for path, size in littered.items() if path not in before and "quarantine" not in path
    )
    assert collections(store) != stamp
    mark = {"prunesweep.json", "quarantine/damaged/weights"}
    assert {*store.sizes("")} - mark == {*before} - mark
    assert [each.path for each in collect(store, quarantine=True).leftovers] == [
        "quarantine/damaged"
    ]
    assert store.names("quarantine") == []
    assert collect(store).leftovers == ()
    assert at_rest(store)


def test_a_sweep_that_was_run_with_another_file_leaves_iterations_behind(store: Store) -> None:
    before = existing_sweep(store, "two")
    after = store_sweep(store, "two", seeds=[1])
    collect(store)
    assert keys(before) - keys(after) - keys(existing_sweep(store, "one")) == set()
    store_sweep(store, "one", seeds=[1])
    collect(store)
    assert committed(store) == keys(after)


def test_the_checkpoint_of_an_iteration_to_come_stays(store: Store) -> None:
    missing = min(keys(existing_sweep(store, "one")))
    store.discard(iteration_path(missing))
    commit(store, f"checkpoints/{missing}/000001")
    assert collect(store).leftovers == ()
    assert store.is_committed(f"checkpoints/{missing}/000001")


def test_while_someone_trains_what_no_sweep_names_nothing_like_it_goes(store: Store) -> None:
    litter(store)
    claim = Claims(store, expiry=0.6).take("d" * 64)
    assert claim is not None
    with claim:
        found = leftovers(store, Claims(store, expiry=2.0))
    assert found.kept_for == (f"claims/{'d' * 64}",)
    assert {each.what for each in found.leftovers} == {"tables", "wandb"}


def test_while_a_named_iteration_is_trained_half_written_ones_stay(store: Store) -> None:
    paths = litter(store)
    with claimed(store, min(keys(existing_sweep(store, "one")))):
        found = {each.path for each in collect(store).leftovers}
    assert {path for path in paths - found if not path.startswith("checkpoints")} == {
        f"iterations/{'e' * 64}", f"snapshots/{'e' * 64}"
    }  # fmt: skip


def test_the_claim_of_a_machine_that_is_no_more_keeps_nothing(store: Store) -> None:
    paths = litter(store)
    ticket = {"run": "r", "lineage": "", "attempt": 1, "process": this_process() | {"host": "gone"}}
    store.write_json(f"claims/{'d' * 64}/ticket.json", ticket)
    found = leftovers(store, Claims(store, expiry=0.3))
    assert {each.path for each in found.leftovers} == paths
    assert at_rest(store)


def test_two_do_not_collect_at_once(store: Store) -> None:
    with claimed(store, COLLECTING):
        for act in (lambda: collect(store), lambda: remove_sweep(store, "one")):
            with pytest.raises(StoreError, match="another `gc`, `rm` or `mv` is at work"):
                act()
    require_whole(store, "one")


def test_a_run_waits_for_a_collection_and_learns_of_it(store: Store) -> None:
    before = collections(store)
    assert not wait_for_collection(store, before)
    commit(store, LOST)
    began, over = threading.Event(), []
    with ThreadPoolExecutor(1) as pool:
        with claimed(store, COLLECTING):

            def wait() -> bool:
                began.set()
                changed = wait_for_collection(store, before)
                over.append(at_rest(store))
                return changed

            waiting = pool.submit(wait)
            began.wait()
            assert not over
        waiting.result()
        assert over == [True]
    collect(store)
    assert wait_for_collection(store, before)


def test_an_empty_storage_stays_one(kind: str, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "nothing"))
    assert (collect(store).leftovers, list_sweeps(store), usage(store).total) == ((), [], 0)
    assert not store.sizes("")


# Merging


@pytest.fixture
def there(store: Store, tmp_path: Path) -> Store:
    """Another storage: it has the sweep `two`, too, and a third one that shares some of it."""
    there = Store(str(tmp_path / "there"))
    store_sweep(there, "two", seeds=[0, 1])
    store_sweep(there, "three", seeds=[1, 2])
    begin_run(there, "three")
    commit(there, LOST)
    return there


def test_another_storage_is_merged(store: Store, there: Store) -> None:
    here, other = committed(store), there.sizes("")
    merged = merge(store, there)
    assert merged.sweeps == ("three", "two")
    three = require_whole(store, "three")
    assert three == existing_sweep(there, "three")
    assert committed(store) == here | keys(three)
    assert len(read_provenance(store, "two")) == 2
    assert [len(each) for each in (read_provenance(store, "one"), merged.damage)] == [1, 0]
    assert {each.name: each.state for each in list_sweeps(store)}["three"] == "finished"
    assert there.sizes("") == other
    again = merge(store, there)
    assert (again.copied, again.bytes, again.there) == (0, 0, merged.copied + merged.there)
    assert len(read_provenance(store, "two")) == 2
    assert collect(store).leftovers == ()
    assert at_rest(store)


def test_one_sweep_is_merged_into_a_new_storage(kind: str, there: Store, tmp_path: Path) -> None:
    new = Store(str(tmp_path / "new"))
    assert merge(new, there, ["three"]).sweeps == ("three",)
    assert committed(new) == keys(require_whole(new, "three"))
    assert new.names("sweeps") == ["three"]


def test_what_is_damaged_there_is_told_and_left_there(store: Store, there: Store) -> None:
    lost = min(keys(existing_sweep(there, "three")) - committed(store))
    weights = next(path for path in there.sizes(iteration_path(lost)) if path.endswith("weights"))
    there.write(f"{iteration_path(lost)}/{weights}", b"other")
    found = merge(store, there).damage
    assert [each.path for each in found] == [iteration_path(lost)]
    assert committed(store) >= keys(existing_sweep(there, "three")) - {lost}
    assert not store.is_committed(iteration_path(lost))


@pytest.mark.parametrize("names", [["two"], []])
def test_sweeps_of_one_name_that_differ_are_not_merged(
    names: list[str], store: Store, there: Store
) -> None:
    store_sweep(there, "two", seeds=[5])
    before = store.sizes("")
    with pytest.raises(SweepsDiffer, match=r"both storages have a sweep 'two'.*`prunesweep mv two"):
        merge(store, there, names)
    assert store.sizes("") == before


def test_merging_is_refused_before_anything_is_written(store: Store, tmp_path: Path) -> None:
    before = store.sizes("")
    foreign = tmp_path / "foreign"
    (foreign / "inside").mkdir(parents=True)
    for place in (foreign, foreign / "inside"):
        (place / "thesis.txt").touch()
    cases: list[tuple[Store, list[str], type[Exception], str]] = [
        (Store(str(tmp_path / "empty")), [], StoreError, "has no sweeps"),
        (store, [], StoreError, "is this storage itself"),
        (Store(str(foreign)), [], StoreError, "is no prunesweep storage"),
    ]
    for other, names, error, told in cases:
        with pytest.raises(error, match=told):
            merge(store, other, names)
    there = two_sweeps(tmp_path / "there")
    with pytest.raises(NoSuchSweep, match="has no sweep 'three'"):
        merge(store, there, ["three"])
    there.write(LINEAGES.path("one"), b"{")
    with pytest.raises(Damaged, match=r"lineages\.json"):
        merge(store, there)
    assert store.sizes("") == before


# Room


def test_the_room_that_a_storage_takes(store: Store) -> None:
    litter(store)
    found, sizes = usage(store), store.sizes("")
    assert found.total == sum(sizes.values())
    assert set(found.folders) == {path.split("/")[0] if "/" in path else "other" for path in sizes}
    commits = found.folders["iterations"] + found.folders["snapshots"]
    one, two = found.sweeps
    assert found.unnamed is not None
    assert one.own is not None
    assert one.shared == two.shared
    assert commits == one.own + (two.own or 0) + (one.shared or 0) + found.unnamed
    own = [each for each in removal(store, "one").leftovers if each.what in COMMITS]
    assert one.own == sum(each.bytes for each in own)
    store.delete_file(LINEAGES.path("two"))
    found = usage(store)
    assert (found.unnamed, found.sweeps[1].own) == (None, None)
    assert [each.state for each in list_sweeps(store)] == ["finished", "damaged"]


# Killed


@pytest.fixture
def template(kind: str, in_memory: Path) -> Path:
    folder = in_memory / "template"
    here = two_sweeps(folder / "here")
    litter(here)
    store_sweep(Store(str(folder / "there")), "three", seeds=[1, 2])
    return folder


Killer: TypeAlias = "subprocess.Popen[str]"


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    with subprocess.Popen(
        [sys.executable, dying_storage.__file__],
        text=True, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as killer:  # fmt: skip
        yield killer


def killed(
    killer: Killer, kind: str, operation: str, template: Path, folder: Path
) -> Iterator[None]:
    """Do `operation` on a copy of `template` at `folder`, in a process that is gone before the n-th
    change, for every n; yields after each. Ends when the operation does."""
    assert killer.stdin
    assert killer.stdout
    for n in range(10_000):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(template, folder)
        print(json.dumps([kind, str(folder), operation, n]), file=killer.stdin, flush=True)
        status = int(killer.stdout.readline())
        yield
        if status == 0:
            assert n > 5
            return
        assert status == KILLED
    raise AssertionError("the operation has no end")


def removed(store: Store, folder: Path) -> None:
    require_whole(store, "two")
    if read_sweep(store, "one") is not None:
        require_whole(store, "one")
    if "one" in store.names("sweeps"):
        remove_sweep(store, "one")
    collect(store)
    assert committed(store) == keys(require_whole(store, "two"))
    assert {*store.names("sweeps"), *store.names("wandb")} == {"two"}
    assert len(store.names("tables")) == 2


def renamed(store: Store, folder: Path) -> None:
    require_whole(store, "two")
    sweeps = {name for name in store.names("sweeps") if read_sweep(store, name) is not None}
    assert sweeps & {"one", "new"}
    for name in sweeps:
        require_whole(store, name)
    if "one" in store.names("sweeps"):
        if "one" in sweeps:
            rename_sweep(store, "one", "new")
        else:
            remove_sweep(store, "one")
    collect(store)
    assert store.names("sweeps") == store.names("wandb") == ["new", "two"]
    assert require_whole(store, "new").spec["name"] == "new"
    assert store.peek("wandb/new/sent/lineage") == b"mark"


def collected(store: Store, folder: Path) -> None:
    for name in ("one", "two"):
        require_whole(store, name)
    for kind in ("iterations", "snapshots"):
        for key in store.committed(kind):
            assert list(store.damage(f"{kind}/{key}")) == []
    collect(store)
    names = keys(existing_sweep(store, "one")) | keys(existing_sweep(store, "two"))
    assert {*store.names("iterations")} == committed(store) == names
    assert store.names("checkpoints") == []


def merged(store: Store, folder: Path) -> None:
    for name in store.names("sweeps"):
        if name != "three" or read_sweep(store, name) is not None:
            require_whole(store, name)
    for key in store.committed("iterations"):
        assert list(store.damage(iteration_path(key))) == []
    merge(store, Store(f"{folder}/there"))
    for name in ("one", "two", "three"):
        require_whole(store, name)


CHECKS: dict[str, Callable[[Store, Path], None]] = {
    "rm": removed, "mv": renamed, "gc": collected, "merge": merged,
}  # fmt: skip


@pytest.mark.parametrize("operation", CHECKS)
def test_who_is_killed_in_the_middle_leaves_nothing_half_there(
    operation: str, kind: str, template: Path, killer: Killer
) -> None:
    folder = template.with_name("copy")
    for _ in killed(killer, kind, operation, template, folder):
        store = Store(f"{folder}/here")
        CHECKS[operation](store, folder)
        store.remove_leftovers()
        assert at_rest(store)


# Commands


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder whose default storage has two sweeps, and another storage beside it."""
    two_sweeps(tmp_path / "prunesweep-store")
    store_sweep(Store(str(tmp_path / "other")), "three", seeds=[1, 2])
    return tmp_path


def test_what_the_commands_tell(folder: Path) -> None:
    shown = ask(folder, "list", "sweeps").splitlines()
    assert [line.split()[:4] for line in shown[1:]] == [
        ["one", "finished", "2/2", "3/3"], ["two", "finished", "2/2", "4/4"],
    ]  # fmt: skip
    assert [each["iterations"] for each in json.loads(ask(folder, "list", "sweeps", "--json"))] == [
        3, 4,
    ]  # fmt: skip
    merged = json.loads(ask(folder, "merge", "other", "--json"))
    assert (merged["sweeps"], merged["damage"]) == (["three"], [])
    assert "three" in ask(folder, "du")
    total = json.loads(ask(folder, "du", "--json"))["total"]
    assert total == sum(Store(str(folder / "prunesweep-store")).sizes("").values())
    assert "one is new now" in ask(folder, "mv", "one", "new")
    told = ask(folder, "rm", "new", "--yes")
    assert told.startswith("new is removed: 1 iterations that no other sweep has are gone")
    assert "2 that others have stay" in told
    commit(Store(str(folder / "prunesweep-store")), LOST)
    assert "to be deleted" in ask(folder, "gc", "--dry-run")
    collected = json.loads(ask(folder, "gc", "--json"))
    assert [each["path"] for each in collected["leftovers"]] == [LOST]
    assert "nothing to delete" in ask(folder, "gc")
    assert json.loads(ask(folder, "rm", "three", "--yes", "--json"))["iterations"] == 2


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["rm", "one"], "Give --yes"),
        (["rm", "on", "--yes"], "did you mean 'one'"),
        (["mv", "one", "two"], "choose another name"),
        (["mv", "one", "a/b"], "cannot name a sweep"),
        (["merge", "nowhere"], "has no sweeps"),
        (["merge", "."], "is no prunesweep storage"),
        (["merge", "other", "--sweep", "nothing"], "has no sweep 'nothing'"),
        (["gc", "--storage", "."], "is no prunesweep storage"),
        (["du", "--storage", "."], "is no prunesweep storage"),
        (["list", "sweeps", "--storage", "."], "is no prunesweep storage"),
    ],
)
def test_wrong_input_gets_one_line_and_writes_nothing(
    command: list[str],
    told: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    (folder / "thesis.txt").touch()
    before = Store(str(folder)).sizes("")
    ask(folder, *command, expect=2)
    error = capsys.readouterr().err.strip()
    assert told in error
    assert len(error.splitlines()) == 1
    assert Store(str(folder)).sizes("") == before


def test_a_run_trains_what_a_collection_took_meanwhile(tmp_path: Path) -> None:
    """It had listed what was stored, and waits until the sweep's removal is over."""
    sweep = SMALLEST | {"wandb": {"mode": "disabled"}, "resources": {"max_concurrent": 1}}
    store = store_of(tmp_path)
    lineages = lineages_of(SweepSpec.model_validate(sweep))
    lost = iteration_path(lineages[0].keys[0])
    store.commit(lost, {METRICS: b"not to be read"})
    file = write(tmp_path, sweep)
    with claimed(store, COLLECTING):
        process = start(tmp_path, "run", str(file), "--json")
        wait_for(lambda: store.exists(PUBLISHED.path("s")))
        # As `rm` does.
        store.discard(sweep_path("s"), first=LINEAGES.name)
        delete(store, [Leftover("iterations", lost, 0)])
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert json.loads(out)["planned"] == 2
    assert existing_sweep(store, "s").lineages
    assert len(read_provenance(store, "s")) == 1
    assert METRICS in store.manifest(lost)["files"]
    assert len(store.manifest(lost)["files"]) > 1
