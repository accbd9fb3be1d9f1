"""The same ground everywhere: before the first trial, every node of a cluster is asked whether it
has what training takes, and the same of it."""

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any

import ray
import ray.cloudpickle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.run import surveying
from orchestrator.run.capacity import on_gpus
from orchestrator.run.cluster import reconnect
from orchestrator.run.machines import Cluster
from orchestrator.sweepfile.resources import Resources
from trainables.errors import UserError
from trainables.own_code import own_code
from trainables.store import Store
from trainables.store.local_files import nearest_existing
from trainables.store.processes import process_name

ANSWER_SECONDS = 180.0
"""How long a node may take to answer. It takes seconds, unless torch comes from a slow file system;
and Ray itself tells within a minute of one that is gone."""
CLOCK_SECONDS = 5.0
FREE_BYTES = 1e9
VERSIONS = ("python", "ray", "torch", "cuda")
"""What may differ between nodes, and numbers in their last digits with it."""


class GroundError(UserError):
    """No node of the cluster can train; the message names them and says what to do."""


@dataclass(frozen=True)
class SurveyedNode:
    """A node of the cluster: what it has, and what it said of itself, as `survey` does.

    `silent` is why it said nothing. `ahead` is by how many seconds its clock is ahead at least,
    negative when it is behind.
    """

    id: str
    name: str
    cpus: int
    gpus: int
    said: Mapping[str, Any] = field(default_factory=dict)
    silent: str | None = None
    ahead: float = 0.0


@dataclass(frozen=True)
class Ground:
    """What the nodes of a cluster said, and `here`, what this process says of itself.

    `begun_on` is the id of the node that this process is on.
    """

    location: str
    here: Mapping[str, Any]
    nodes: tuple[SurveyedNode, ...]
    begun_on: str

    def fault(self, node: SurveyedNode, gpus: bool = False) -> str | None:
        """Why nothing, or nothing right, can be trained on `node`, on its `gpus` or without."""
        said = node.said
        if node.silent:
            return f"it does not answer: {node.silent}"
        if "no_code" in said:
            return f"no {said['no_code']} can be imported there; install prunesweep on all nodes"
        if said["code"] != self.here["code"]:
            return (
                f"another prunesweep is there (code {said['code']}, and here {self.here['code']}); "
                "install the same on all nodes"
            )
        if "no_torch" in said:
            return f"torch cannot be imported there ({said['no_torch']})"
        if said["storage"]:
            return f"the storage {self.location} {said['storage']}"
        if gpus and node.gpus and not said["cuda"]:
            return f"torch {said['torch']} is built without CUDA there"
        return None

    def facts(self, node: SurveyedNode) -> str:
        """What is known of `node`, for people."""
        said = node.said
        known = [f"{node.cpus} CPUs", f"{node.gpus} GPUs"]
        known += [f"{name} {said[name]}" for name in VERSIONS if said.get(name)]
        if said:
            known.append(f"{said['free_bytes'] / 1e9:.1f} GB free in its temporary folder")
            known += ["the same storage"] if said.get("storage", "") is None else []
        return ", ".join(known)

    def without_code(self) -> list[SurveyedNode]:
        """The nodes that have no prunesweep, or another one."""
        return [n for n in self.nodes if n.said and n.said.get("code") != self.here["code"]]

    def notices(self) -> list[str]:
        """What may matter and stops nothing."""
        return _by_text((node, text) for node in self.nodes for text in self._notices(node))

    def _notices(self, node: SurveyedNode) -> Iterator[str]:
        said = node.said
        if said and "torch" in said:
            others = [name for name in VERSIONS if said[name] != self.here[name]]
            if others:
                there, here = (
                    ", ".join(f"{name} {each[name]}" for name in others)
                    for each in (said, self.here)
                )
                yield f"{there}, and here {here}; numbers may differ in their last digits"
        if abs(node.ahead) > CLOCK_SECONDS:
            side = "ahead of" if node.ahead > 0 else "behind"
            yield f"the clock is {abs(node.ahead):.0f} s {side} the one here"
        if said and said["free_bytes"] < FREE_BYTES:
            yield f"its temporary folder has {said['free_bytes'] / 1e9:.1f} GB free"


def same_ground(cluster: Cluster, address: str, store: Store, resources: Resources) -> Cluster:
    """What of `cluster`, to which this process is connected at `address`, can train.

    Where nodes have no prunesweep, or another one, this one is sent to all. Nodes that cannot train
    are left out, with a notice. Raises GroundError when none can, or when the storage is a folder
    that this machine alone sees.
    """
    ground, notices = survey_nodes(store), []
    if lacking := ground.without_code():
        reconnect(address, _own_packages())
        ground = survey_nodes(store)
        names = ", ".join(node.name for node in lacking)
        notices = [f"{names}: prunesweep is not there, or another one, and was sent for this run"]
    gpus = on_gpus(resources, cluster)
    faults = [(node, fault) for node in ground.nodes if (fault := ground.fault(node, gpus))]
    out = {node.id for node, _ in faults}
    sound = [node for node in ground.nodes if node.id not in out]
    _refuse_own_folder(ground, store)
    # Where none was asked, nodes may still come.
    if faults and (not sound or (gpus and not any(node.gpus for node in sound))):
        raise GroundError(
            f"no node of the Ray cluster at {address} can train this sweep: "
            + "; ".join(_by_text(faults))
        )
    return replace(
        cluster,
        cpus=sum(node.cpus for node in sound),
        gpus=sum(node.gpus for node in sound),
        nodes=tuple((node.cpus, node.gpus) for node in sound),
        left_out=tuple(out),
        notices=(
            *cluster.notices,
            *notices,
            *(f"{told}; left out" for told in _by_text(faults)),
            *ground.notices(),
        ),
    )


def survey_nodes(store: Store) -> Ground:
    """Ask all nodes of the cluster that have a CPU, and this process; nothing is left in `store`.

    Raises StoreError, or OSError, when it cannot be written here.
    """
    # It is not imported there, where it may be missing.
    ray.cloudpickle.register_pickle_by_value(surveying)
    ask = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(surveying.survey)
    able = [each for each in ray.nodes() if each["Alive"] and each["Resources"].get("CPU", 0) >= 1]
    with _nonce(store) as (folder, nonce):
        question = own_code(), store.location, folder, nonce
        sent = time.time()
        asked = {
            each["NodeID"]: ask.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(each["NodeID"], soft=False)
            ).remote(*question)
            for each in able
        }
        here = surveying.survey(*question)
        answers = dict(_answers(asked, sent))
    nodes = tuple(_node(each, able, **answers[each["NodeID"]]) for each in able)
    return Ground(store.location, here, nodes, ray.get_runtime_context().get_node_id())


def _answers(
    asked: Mapping[str, ray.ObjectRef], sent: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    """By the node's id, what a `SurveyedNode` knows of it from its answer."""
    waiting = {reference: node for node, reference in asked.items()}
    deadline = time.monotonic() + ANSWER_SECONDS
    while waiting:
        left = max(0.0, deadline - time.monotonic())
        done, _ = ray.wait(list(waiting), num_returns=1, timeout=left)
        received = time.time()
        if not done:
            break
        node = waiting.pop(done[0])
        try:
            said = ray.get(done[0])
        except RayError as error:
            yield node, {"silent": f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"}
        else:
            # Between these two its clock is ahead, however long the question took to get there.
            least, most = said["ended"] - received, said["began"] - sent
            yield node, {"said": said, "ahead": max(least, min(most, 0.0))}
    for reference, node in waiting.items():
        ray.cancel(reference, force=True)
        yield node, {"silent": f"nothing was heard for {ANSWER_SECONDS:.0f} s"}


def _node(
    each: Mapping[str, Any], all_: Iterable[Mapping[str, Any]], **answer: Any
) -> SurveyedNode:
    id, host, has = each["NodeID"], each["NodeManagerHostname"], each["Resources"]
    alone = sum(other["NodeManagerHostname"] == host for other in all_) == 1
    name = host if alone else f"{host} ({id[:8]})"
    return SurveyedNode(id, name, int(has.get("CPU", 0)), int(has.get("GPU", 0)), **answer)


@contextmanager
def _nonce(store: Store) -> Iterator[tuple[str, bytes]]:
    """A folder of `store` with a file that no other storage has; afterwards all is as it was."""
    folder, nonce = f"tmp/{process_name()}-ground", uuid.uuid4().hex.encode()
    place = store.local_root and store.local_root / "tmp"
    there = place and nearest_existing(place)
    store.put(f"{folder}/{surveying.NONCE}", nonce)
    try:
        yield folder, nonce
    finally:
        store.remove(folder)
        while place and place != there:
            with suppress(OSError):
                place.rmdir()
            place = place.parent


def _refuse_own_folder(ground: Ground, store: Store) -> None:
    others = [node for node in ground.nodes if node.id != ground.begun_on and node.said]
    if store.local_root is None or not others:
        return
    if all(node.said.get("storage") for node in others):
        raise GroundError(
            f"storage {ground.location} is a folder of this machine, and not the one that other "
            f"nodes of the cluster see there ({', '.join(node.name for node in others)}); give "
            "--storage a folder that all of them share, or a URI such as s3://bucket/folder"
        )


def _own_packages() -> list[str]:
    """The folders of prunesweep's packages."""
    found = [find_spec(name) for name in surveying.PACKAGES]
    return [place for spec in found if spec for place in spec.submodule_search_locations or ()]


def _by_text(told: Iterable[tuple[SurveyedNode, str]]) -> list[str]:
    """Each text once, after the names of all nodes that it is told of."""
    names: dict[str, list[str]] = {}
    for node, text in told:
        names.setdefault(text, []).append(node.name)
    return [f"{', '.join(nodes)}: {text}" for text, nodes in names.items()]
