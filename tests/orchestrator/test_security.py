"""No one is let in: nothing that is read is executed, secrets are neither taken nor written, and
what listens asks for a token and listens on loopback. SECURITY.md says what is promised."""

import ast
import hashlib
import json
import os
import pickle
import secrets
import shutil
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from smallest import SWEEP

from orchestrator.commands import cli
from orchestrator.records.recording import record_sweep
from orchestrator.records.sweep import write_sweep
from orchestrator.run.datasets import resolve_datasets
from orchestrator.run.planning import sweep_lineages
from orchestrator.sweepfile.secrets import REDACTED, redacted, secret_key, secret_value
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.data import data_roots, load_dataset
from trainables.lineage.bench import Bench
from trainables.lineage.keys import Lineage
from trainables.lineage.loop import run_lineage
from trainables.models import build_model
from trainables.store import Damaged, Store, StoreError, checkpoint_path, iteration_path
from trainables.store.artifacts import EPOCHS, MASK, METRICS, SPARSITY, WEIGHTS
from trainables.training.batches import DeviceData
from trainables.training.checkpoint import StoredCheckpoint

ROOT = Path(__file__).parents[2]
COMMAND = str(Path(sys.executable).with_name("prunesweep"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a sweep's file."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "s.yaml").write_text(json.dumps(SWEEP))
    monkeypatch.chdir(folder)
    return folder


Refused = Callable[..., str]


@pytest.fixture
def refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Refused:
    """Runs a command in this process, which ends with one message; the message."""

    def refused(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["prunesweep", *arguments])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        out, err = capfd.readouterr()
        assert (exit.value.code, out) == (2, ""), err
        assert err.startswith("prunesweep: ")
        assert err.count("\n") == 1
        return err

    return refused


# Nothing that is read is executed


FORBIDDEN_MODULES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "torch.load", "np.load", "numpy.load", "os.system",
    "os.popen", "pd.read_pickle", "pandas.read_pickle",
}  # fmt: skip
FORBIDDEN_ARGUMENTS = {("allow_pickle", True), ("shell", True), ("weights_only", False)}
EXECUTE = {
    # CIFAR is published as pickles; see its tests for what they can name.
    ROOT / "trainables/data/cifar.py": ["pickle"],
    # What a run's own workers raised, in a folder of the run's that Tune wrote.
    ROOT / "orchestrator/run/tuning.py": ["pickle"],
    # Initial weights, of a file that the user's own sweep names, with weights_only.
    ROOT / "trainables/models/weights.py": ["torch.load"],
    # Plug-ins, which are code: those that the user's own sweep file names.
    ROOT / "trainables/plugins/loading.py": ["compile"],
    # What the user's own sweep file says under `on_finish`; nothing of a storage gets there.
    ROOT / "orchestrator/run/finishing.py": ["shell=True"],
}


def executes(source: str) -> list[str]:
    """What in Python source could execute what it reads."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [each.name for each in node.names if each.name in FORBIDDEN_MODULES]
        if isinstance(node, ast.ImportFrom) and node.module in FORBIDDEN_MODULES:
            found.append(node.module)
        if isinstance(node, ast.Call):
            found += [name for name in [ast.unparse(node.func)] if name in FORBIDDEN_CALLS]
            found += [
                f"{each.arg}={each.value.value}"
                for each in node.keywords
                if isinstance(each.value, ast.Constant)
                and (each.arg, each.value.value) in FORBIDDEN_ARGUMENTS
            ]
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from dill import load",
        "torch.load(file)",
        "np.load(file)",
        "f(allow_pickle=True)",
        "subprocess.run(text, shell=True)",
        "def f():\n    return eval(text)",
    ],
)
def test_what_could_execute_is_recognized(source: str) -> None:
    assert len(executes(source)) == 1


def test_no_code_executes_what_it_reads() -> None:
    files = [
        file for folder in ("orchestrator", "trainables") for file in ROOT.glob(f"{folder}/**/*.py")
    ]
    assert len(files) > 60
    found = {file: executes(file.read_text()) for file in files}
    assert {file: what for file, what in found.items() if what} == EXECUTE


@dataclass
class Payload:
    """Makes a folder when it is unpickled."""

    folder: str

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (self.folder,)


@dataclass(frozen=True)
class Trained:
    """A storage with one lineage of two iterations, trained in this process."""

    store: Store
    lineage: Lineage
    bench: Bench


@pytest.fixture
def trained(here: Path) -> Trained:
    spec = load_sweep("s.yaml")
    roots = data_roots(None, {})
    (lineage,) = lineages = sweep_lineages(spec, resolve_datasets(spec, roots))
    store = Store(str(here / "prunesweep-store"))
    device = torch.device("cpu")
    data = DeviceData.of(load_dataset(spec.dataset[0], roots), device)
    bench = Bench(store, data, device)
    list(run_lineage(lineage, bench))
    write_sweep(store, record_sweep(spec, lineages))
    return Trained(store, lineage, bench)


def spoil(store: Store, path: str, name: str, content: bytes) -> None:
    """Put `content` in the place of one file of a commit, in such a way that its hash is right."""
    files = {each: store.read(path, each) for each in store.manifest(path)["files"]}
    store.replace(path, files | {name: content})


def test_a_pickle_for_a_payload_does_execute_when_it_is_unpickled(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(str(tmp_path / "pwned"))))
    assert (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", [WEIGHTS, MASK])
@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_a_pickle_for_tensors(
    refused: Refused, trained: Trained, here: Path, name: str, form: str
) -> None:
    hostile = here / "hostile"
    if form == "torch":
        torch.save({"layer": Payload(str(here / "pwned"))}, hostile)
    else:
        hostile.write_bytes(pickle.dumps(Payload(str(here / "pwned"))))
    dense, pruned = map(iteration_path, trained.lineage.keys)
    for path in (dense, pruned):
        spoil(trained.store, path, name, hostile.read_bytes())
    message = refused("export", "s", "one_shot", "--output", str(here.parent / "out"))
    assert f"{pruned}: {name} is not what prunesweep writes" in message
    trained.store.remove(pruned)
    with pytest.raises(Damaged, match=f"{name} is not what prunesweep writes"):
        list(run_lineage(trained.lineage, trained.bench))
    assert not (here / "pwned").exists()


def test_a_pickle_for_a_checkpoint(trained: Trained, here: Path) -> None:
    hostile = pickle.dumps(Payload(str(here / "pwned")))
    path = checkpoint_path("k" * 64, 1)
    trained.store.commit(path, {"state.safetensors": hostile, "progress.json": hostile})
    model = build_model(trained.lineage.cell.model, trained.bench.data.shape, 10, 0)
    checkpoint = StoredCheckpoint(trained.store, "k" * 64, minutes=1)
    assert checkpoint.load(model) is None
    assert len(trained.store.names("quarantine")) == 1
    assert not (here / "pwned").exists()


def with_pickled_type(table: pa.Table, payload: bytes) -> bytes:
    """A Parquet file that says of its first column to be of a type which is a pickle: PyArrow
    executed such once (CVE-2023-47248)."""
    extension = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": payload,
    }
    first = table.schema.field(0).with_metadata(extension)
    sink = pa.BufferOutputStream()
    pq.write_table(table.cast(table.schema.set(0, first)), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("name", [METRICS, EPOCHS, SPARSITY])
@pytest.mark.parametrize("form", ["pickle", "extension"])
def test_a_pickle_in_a_table(
    trained: Trained, here: Path, name: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = pickle.dumps(Payload(str(here / "pwned")))
    path = iteration_path(trained.lineage.keys[1])
    read = pq.read_table(trained.store.absolute(f"{path}/{name}"))
    spoil(
        trained.store, path, name, payload if form == "pickle" else with_pickled_type(read, payload)
    )
    for command in ("results s", "status s", "verify", "run s.yaml --set wandb.mode=disabled"):
        monkeypatch.setattr(sys, "argv", ["prunesweep", *command.split()])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        assert exit.value.code in (0, 1)
    assert not (here / "pwned").exists()


# YAML


FLOODS = {
    "laughs": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{c}: &{c} [{','.join([f'*{chr(ord(c) - 1)}'] * 9)}]\n" for c in "bcdefghijk"),
    "lists": "[" * 900_000,
    "mappings": "{a: " * 200_000,
    "many": "[" + "1," * 450_000 + "1]",
    "itself": "a: &a [*a]",
    "large": "x" * 100_000_000,
    "object": "name: !!python/object/apply:os.mkdir [pwned]",
    "name": "name: !!python/name:os.system",
    "new": "name: !!python/object/new:os.mkdir [pwned]",
    "module": "!!python/module:os",
}
LOADS = """
import json, resource, sys
from orchestrator.sweepfile.yaml_document import SweepFileError
from orchestrator.sweepfile.yaml_source import load_sweep
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, messages = peak(), {}
for name in sys.argv[1:]:
    try:
        load_sweep(f"{name}.yaml")
    except SweepFileError as error:
        messages[name] = str(error)
print(json.dumps({"grown": peak() - before, "messages": messages}))
"""


def test_yaml_neither_constructs_objects_nor_fills_the_memory(here: Path) -> None:
    for name, text in FLOODS.items():
        (here / f"{name}.yaml").write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", LOADS, *FLOODS], capture_output=True, text=True, timeout=240
    )
    told = json.loads(done.stdout)
    assert told["grown"] < 150
    assert told["messages"].keys() == FLOODS.keys()
    assert all(len(message) < 200 for message in told["messages"].values())
    for name in ("object", "name", "new", "module"):
        assert "is not allowed here; write plain values" in told["messages"][name]
    assert not (here / "pwned").exists()


# Secrets in what a user writes


HEX, ALNUM = "0123456789abcdef", string.ascii_letters + string.digits


def drawn(characters: str, length: int) -> str:
    """Of fixed digits and letters, so that a test means the same every day."""
    digest = b"".join(hashlib.sha256(f"{length}{i}".encode()).digest() for i in range(8))
    return "".join(characters[byte % len(characters)] for byte in digest[:length])


SECRETS = {
    "a W&B key": drawn(HEX, 40),
    "a W&B key of an own server": f"local-{drawn(HEX, 40)}",
    "a new W&B key": f"wandb_v1_{drawn(ALNUM, 70)}",
    "an AWS key": "AKIA" + drawn(string.ascii_uppercase + string.digits, 16),
    "an AWS secret": drawn(f"{ALNUM}/+", 40),
    "a GitHub token": f"ghp_{drawn(ALNUM, 36)}",
    "a fine-grained GitHub token": f"github_pat_{drawn(ALNUM, 22)}_{drawn(ALNUM, 59)}",
    "a GitLab token": f"glpat-{drawn(ALNUM, 20)}",
    "a Slack token": f"xoxb-123456789012-{drawn(ALNUM, 24)}",
    "a Slack hook": f"https://hooks.slack.com/services/T0/B0/{drawn(ALNUM, 24)}",
    "a Hugging Face token": f"hf_{drawn(ALNUM, 34)}",
    "an OpenAI key": f"sk-proj-{drawn(ALNUM, 48)}",
    "a Google key": f"AIza{drawn(ALNUM, 35)}",
    "a JWT": f"eyJ{drawn(ALNUM, 20)}.eyJ{drawn(ALNUM, 20)}.{drawn(ALNUM, 20)}",
    "a PEM block": f"-----BEGIN RSA PRIVATE KEY-----\n{drawn(ALNUM, 64)}\n",
    "a URL with a password": "https://me:hunter2@example.org/data",
    "a URL with a token": "https://example.org/data?access_token=hunter2",
    "a long random text": drawn(ALNUM, 48),
}


def telling(secret: str) -> str:
    """A part of a secret that should not be known."""
    return "hunter2" if "hunter2" in secret else secret[8:20]


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize(
    "line", ["wandb: {{entity: {}}}", "data_root: {}", "wandb: {{tags: [a, {}]}}"]
)
def test_a_value_that_looks_like_a_secret(
    refused: Refused, here: Path, kind: str, line: str
) -> None:
    secret = SECRETS[kind]
    (here / "x.yaml").write_text(
        f"name: x\ndataset: digits\nmodel: mlp\nmethods: [sap]\n{line.format(json.dumps(secret))}\n"
    )
    message = refused("plan", "x.yaml")
    assert message.startswith("prunesweep: x.yaml:5:")
    assert "looks like a" in message
    assert "environment (WANDB_API_KEY" in message
    assert telling(secret) not in message


@pytest.mark.parametrize("kind", SECRETS)
def test_an_override_that_looks_like_a_secret(refused: Refused, kind: str) -> None:
    for override in (f"wandb.entity={json.dumps(SECRETS[kind])}", SECRETS[kind]):
        message = refused("run", "s.yaml", f"--set={override}")
        assert message.startswith("prunesweep: --set")
        assert telling(SECRETS[kind]) not in message


SECRET_KEYS = [
    "api_key", "apiKey", "api-key", "API_KEY", "token", "hf_token", "password", "passwd", "secret",
    "client_secret", "secret_access_key", "aws_session_token", "credentials", "private_key",
    "wandb_key", "tokens",
]  # fmt: skip


@pytest.mark.parametrize("key", SECRET_KEYS)
def test_a_key_that_names_a_secret(refused: Refused, here: Path, key: str) -> None:
    (here / "x.yaml").write_text(f"name: x\nwandb:\n  project: p\n  {key}: hunter2\n")
    for command in ("plan", "run"):
        message = refused(command, "x.yaml")
        assert message.startswith(f"prunesweep: x.yaml:4:3: wandb.{key}: this key names a secret")
        assert "hunter2" not in message
    message = refused("plan", "s.yaml", "--set", f"wandb.{key}=hunter2")
    assert message.startswith(f"prunesweep: --set wandb.{key}: this key names a secret")
    assert "hunter2" not in message


def test_a_secret_as_a_key(refused: Refused, here: Path) -> None:
    secret = SECRETS["a Hugging Face token"]
    (here / "x.yaml").write_text(f"name: x\nwandb:\n  {secret}: 1\n")
    message = refused("plan", "x.yaml")
    assert message.startswith("prunesweep: x.yaml:3:3: a key of wandb looks like a Hugging Face")
    assert secret not in message


ORDINARY = [
    "sap-fashion-mlp", "run-9f3c1a2b4d5e6f708192a3b4c5d6e7f801234567", "9f3c1a2b4d5e", "a" * 100,
    "/data/hub/datasets--x/snapshots/9f3c1a2b4d5e6f708192a3b4c5d6e7f801234567",
    hashlib.sha256(b"data").hexdigest(), f"sha256:{hashlib.sha256(b'data').hexdigest()}",
    "550e8400-e29b-41d4-a716-446655440000", "ResNet20-BN-w16-d20-lr0e1-T30-S0-k4-b128-E10",
    "/home/Some.Body/Experiments2026/CIFAR10Resized/TrainTestSplitWithHoldout/Version12Final",
    "Datasets/ImageNet2012/Resized64/Training", "s3://bucket/folder/Data2026",
    "https://example.org:8080/path@v2", "hf_imagenet100_resized_to_64x64_pixels_by_area",
    "train-*.parquet", "sk-learn-digits-with-a-rather-long-name", "token", "password",
    "/var/folders/zz/zyxvpxvq6csfxvn_n0000000000000/T/x", "2026-11-21T06:12:00+00:00", "", "~",
    "abfs://container@account.dfs.core.windows.net/folder", "-----", "1e-3", "ünï∑" * 20,
]  # fmt: skip


@pytest.mark.parametrize("value", ORDINARY)
def test_an_ordinary_value(value: str) -> None:
    assert secret_value(value) is None


@pytest.mark.parametrize(
    "key", ["tokens_per_batch", "keep", "key", "hidden", "image_key", "secretary", "", "batch_size"]
)
def test_an_ordinary_key(key: str) -> None:
    assert not secret_key(key)


def test_no_sweep_of_the_project_is_refused() -> None:
    files = sorted(ROOT.glob("sweeps/**/*.yaml"))
    assert files
    for file in files:
        load_sweep(file)


def test_what_is_random_is_told_from_names_and_paths() -> None:
    """At 40 characters; every path of the standard library is ordinary."""
    missed = sum(
        secret_value("".join(secrets.choice(ALNUM) for _ in range(40))) is None for _ in range(1000)
    )
    assert missed < 40
    library = Path(os.__file__).parent
    assert not [path for path in library.glob("[!s]*/**/*.py") if secret_value(str(path))]


@pytest.mark.parametrize(
    "uri",
    [
        "s3://AKIAIOSFODNN7EXAMPLE:hunter2secret@bucket/folder",
        "s3://AKIAIOSFODNN7EXAMPLE@bucket/folder",
        "s3://bucket/folder?access_key=hunter2secret",
        "s3://bucket?region=eu&secret_key=hunter2secret",
        "abfs://me:hunter2secret@account/folder",
        "gs://hunter2secret@bucket/folder",
        "https://account.blob.core.windows.net/c?sv=2&sig=hunter2secret",
    ],
)
def test_credentials_in_a_storage(refused: Refused, uri: str) -> None:
    for command in (("plan", "s.yaml"), ("run", "s.yaml"), ("status", "s"), ("verify",)):
        message = refused(*command, "--storage", uri)
        assert "holds credentials" in message
        assert "put them in the environment" in message
        assert "hunter2" not in message
        assert "AKIA" not in message
    with pytest.raises(StoreError, match="holds credentials"):
        Store(uri)


def test_a_recorded_command_has_no_secrets() -> None:
    key = SECRETS["a W&B key"]
    command = ["prunesweep", "run", "s.yaml", "--set", f"wandb.entity={key}", f"--x={key}", key]
    expected = [*command[:4], f"wandb.entity={REDACTED}", f"--x={REDACTED}", REDACTED]
    assert redacted(command) == expected
    assert redacted(["--api-key", "hunter2", "--password=hunter2", "--storage", "/a"]) == [
        "--api-key", REDACTED, f"--password={REDACTED}", "--storage", "/a",
    ]  # fmt: skip
    ordinary = ["/usr/bin/prunesweep", "run", "sweeps/a.yaml", "--set", "train.epochs=2", "--json"]
    assert redacted(ordinary) == ordinary


# A run, watched


CANARIES = {
    "WANDB_API_KEY": secrets.token_hex(20),
    "AWS_SECRET_ACCESS_KEY": secrets.token_urlsafe(30),
    "AWS_ACCESS_KEY_ID": "AKIA" + secrets.token_hex(8).upper(),
    "HF_TOKEN": f"hf_{secrets.token_hex(17)}",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}


@dataclass
class Watched:
    """What was seen of a run: the addresses its processes listened on, their commands and tokens,
    and afterwards what they have written and printed."""

    listening: dict[tuple[str, int], str] = field(default_factory=dict)
    commands: set[str] = field(default_factory=set)
    tokens: set[str] = field(default_factory=set)
    written: dict[str, bytes] = field(default_factory=dict)
    code: int | None = None

    def look(self, process: psutil.Process) -> None:
        name = " ".join(process.cmdline())
        self.commands.add(name)
        self.tokens.add(process.environ().get("RAY_AUTH_TOKEN", ""))
        for connection in process.net_connections("inet"):
            if connection.status in (psutil.CONN_LISTEN, psutil.CONN_NONE) and connection.laddr:
                self.listening[connection.laddr.ip, connection.laddr.port] = name


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    """A small sweep with W&B offline, in a home, a temporary folder and a Ray folder of its own."""
    # Ray's sockets are named by their path, which may have about 100 characters.
    root = Path(tempfile.mkdtemp(prefix="ps"))
    for name in ("home", "tmp", "work", "ray"):
        (root / name).mkdir()
    (root / "work/s.yaml").write_text(json.dumps(SWEEP | {"wandb": {"mode": "offline"}}))
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "RAY_", "WANDB_"))}
    environment = plain | CANARIES | {
        "HOME": str(root / "home"), "TMPDIR": str(root / "tmp"), "RAY_TMPDIR": str(root / "ray"),
        "RAY_AUTH_MODE": "disabled",
    }  # fmt: skip
    seen = Watched()
    process = psutil.Popen(
        [COMMAND, "run", "s.yaml"], cwd=root / "work", env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    while process.poll() is None:
        with suppress(psutil.Error):
            for each in process.children(recursive=True):
                with suppress(psutil.Error):
                    seen.look(each)
            seen.look(psutil.Process(process.pid))
        time.sleep(0.5)
    out, err = process.communicate(timeout=240)
    seen.code = process.returncode
    seen.written = {str(f): f.read_bytes() for f in root.rglob("*") if f.is_file()}
    seen.written |= {"the output": out, "the messages": err}
    yield seen
    shutil.rmtree(root, ignore_errors=True)


def test_the_run_that_is_watched_does_what_a_run_does(watched: Watched) -> None:
    assert watched.code == 0, watched.written["the messages"].decode()
    files = " ".join(watched.written)
    for part in ("/manifest.json", "provenance.json", ".wandb", "/ray/session_", "/iterations-s"):
        assert part in files, part
    assert any("gcs_server" in command for command in watched.commands)
    assert len(watched.listening) >= 4


def test_a_secret_in_the_environment_is_in_no_byte_written(watched: Watched) -> None:
    for name, secret in CANARIES.items():
        found = [file for file, content in watched.written.items() if secret.encode() in content]
        assert found == [], name
        assert not [command for command in watched.commands if secret in command], name


def test_ray_listens_on_loopback_only(watched: Watched) -> None:
    def reachable(ip: str) -> bool:
        address = ip_address(ip)
        return not (getattr(address, "ipv4_mapped", None) or address).is_loopback

    assert {at: who for at, who in watched.listening.items() if reachable(at[0])} == {}
    assert not [who for who in watched.listening.values() if "dashboard.py" in who]


def test_ray_starts_no_helper_that_nobody_listens_to(watched: Watched) -> None:
    assert not [command for command in watched.commands if "monitor.py" in command]


def test_ray_asks_for_a_token_of_the_run_that_is_on_no_disk(watched: Watched) -> None:
    """Whatever the user's own token and mode are, which are those of another cluster."""
    tokens = watched.tokens - {"", CANARIES["RAY_AUTH_TOKEN"]}
    assert len(tokens) == 1
    (token,) = tokens
    assert len(token) == 64
    assert not [file for file, content in watched.written.items() if token.encode() in content]
    assert not [command for command in watched.commands if token in command]
    assert not [file for file in watched.written if file.endswith("auth_token")]
