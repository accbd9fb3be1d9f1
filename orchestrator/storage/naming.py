"""Names: the iterations and snapshots that the sweeps of a storage are made of."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from orchestrator.records.ends import so_far
from orchestrator.records.plugins import PLUGINS
from orchestrator.records.sweep import LineageRecord, SweepRecord, read_sweep
from trainables.errors import UserError
from trainables.lineage.identity import snapshot_key, trunk_key, weights_key
from trainables.store import Damaged, Store


class UnknownNames(UserError):
    """A sweep's record cannot be read, so that nobody knows what is not its own."""


@dataclass(frozen=True)
class Names:
    """Keys of iterations, with those of what is measured of them, and of snapshots."""

    iterations: frozenset[str] = frozenset()
    snapshots: frozenset[str] = frozenset()

    def of(self, folder: str) -> frozenset[str]:
        """Those in one of the store's folders; a checkpoint has the key of its iteration."""
        return self.snapshots if folder == "snapshots" else self.iterations

    def __or__(self, other: "Names") -> "Names":
        return Names(self.iterations | other.iterations, self.snapshots | other.snapshots)

    def __sub__(self, other: "Names") -> "Names":
        return Names(self.iterations - other.iterations, self.snapshots - other.snapshots)


def named_by(store: Store, record: SweepRecord) -> Names:
    """What the sweep is made of, stored or not. Raises Damaged."""
    rewinds = _default_rewinds(store, record.name)
    return Names(
        frozenset(key for line in record.lineages for key in line.committed_keys),
        frozenset(key for line in record.lineages for key in _snapshots(line, rewinds)),
    )


def sweeps_in(store: Store) -> list[str]:
    """The names of the sweeps of `store`."""
    return store.folders("sweeps")


def all_names(store: Store, without: str | None = None) -> Names:
    """What the sweeps of `store` are made of, but for the one `without`. Raises UnknownNames."""
    return union(named_by_sweep(store, name) for name in sweeps_in(store) if name != without)


def named_by_sweep(store: Store, name: str) -> Names:
    """What the sweep `name` is made of. Raises UnknownNames."""
    try:
        record = read_sweep(store, name)
        if record is not None:
            return named_by(store, record)
        reason = f"sweeps/{name} has no record of its lineages"
    except Damaged as damage:
        reason = str(damage)
    raise UnknownNames(
        f"{reason}; what {name} shares is unknown, and nothing was deleted: run the sweep again, "
        f"which writes its record anew, or take it away with `prunesweep rm {name}`"
    )


def weights_kept(store: Store, without: str) -> frozenset[str]:
    """The iterations whose weights the sweeps of `store` keep as their files say, but for the one
    `without`; of one whose record cannot be read, nobody knows any."""
    found: set[str] = set()
    for name in sweeps_in(store):
        with suppress(Damaged):
            record = read_sweep(store, name) if name != without else None
            found.update(_weights_kept(so_far(store, record)) if record is not None else ())
    return frozenset(found)


def _weights_kept(record: SweepRecord) -> Iterator[str]:
    keep = (record.spec.get("store") or {}).get("keep_weights", "all")
    for line in record.lineages if keep != "none" else ():
        yield from line.keys if keep == "all" else {line.keys[0], line.keys[-1]}


def union(names: Iterable[Names]) -> Names:
    found = [*names]
    return Names(
        frozenset().union(*(each.iterations for each in found)),
        frozenset().union(*(each.snapshots for each in found)),
    )


def _snapshots(line: LineageRecord, rewinds: Mapping[str, int]) -> set[str]:
    """The snapshots of the initialization and of the steps that a lineage rewinds to, or that its
    measures start from; and the weights of the file that it starts from."""
    method = line.config["method"]
    step = method["rewind"]["step"] if "rewind" in method else rewinds.get(method["name"], 0)
    trunk = {"recipe": line.config["train"]} | {
        name: line.config[name] for name in ("dataset", "model", "seed")
    }
    steps = {0, step}.union(*(each.snapshots for each in line.measurements or ()))
    found = {snapshot_key(key, at) for key in (trunk_key(trunk), line.keys[0]) for at in steps}
    content = line.config["model"].get("initial_weights")
    return found if content is None else found | {weights_key(str(content))}


def _default_rewinds(store: Store, sweep: str) -> dict[str, int]:
    """By the name of each plugged-in method, the step that it rewinds to by default: configs leave
    that out."""
    entries = [each for plugin in PLUGINS.read(store, sweep) or () for each in plugin.entries]
    rewinds: dict[str, Any] = {
        each.name: each.defaults.get("rewind") for each in entries if each.kind == "method"
    }
    return {name: rewind["step"] for name, rewind in rewinds.items() if rewind}
