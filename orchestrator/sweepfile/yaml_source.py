"""From a YAML file to a SweepSpec; every mistake becomes one message that says where and what."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from orchestrator.sweepfile.axes import Path
from orchestrator.sweepfile.mistakes import (
    mistakes,
    same_as,
    shown,
    written_apart,
    written_at,
)
from orchestrator.sweepfile.published import PublishedError, read_published
from orchestrator.sweepfile.secrets import ADVICE, secret_key, secret_value
from orchestrator.sweepfile.spec import SweepSpec
from orchestrator.sweepfile.yaml_document import (
    Document,
    Place,
    SweepFileError,
    as_json,
    dotted,
    parsed,
    read_document,
)
from trainables.data.roots import expanded
from trainables.plugins.entry import Catalogue, PluginError
from trainables.plugins.loading import load_plugins
from trainables.plugins.source import read_plugin

NAMED = {
    "dataset": "name", "model": "name", "methods": "name", "optimizer": "name",
    "lr_schedule": "name", "loss": "name", "augment": "name", "criterion": "name",
    "ablations": "name", "measures": "name", "stop": "when",
}  # fmt: skip
"""Keys of a sweep file whose values are names, alone or with options; and which option is the
name."""


def load_sweep(
    path: str | FilePath, overrides: Sequence[str] = (), plugins: Sequence[str] = ()
) -> SweepSpec:
    """The sweep in the YAML file `path`, with overrides such as `train.epochs=2` applied.

    It can name what is in its own plug-ins, and in `plugins`, which are as given to a command.

    The file that `published` names is checked, and its path made absolute; those of initial weights
    are looked for. Raises SweepFileError for a file that cannot be read and for anything wrong in
    it or in an override: all mistakes, a line for each.
    """
    document = _document(path, overrides)
    catalogue = _catalogue(document, FilePath(path), plugins)
    try:
        spec = SweepSpec.model_validate(document.data, context=catalogue)
    except ValidationError as error:
        raise SweepFileError(*mistakes(error, document, catalogue)) from None
    spec = spec.model_copy(update={"plugins": (*spec.plugins, *plugins)})
    if spec.data_root is not None:
        spec = spec.model_copy(update={"data_root": _data_root(spec.data_root, path, document)})
    spec = _with_weights_found(spec, FilePath(path), document, catalogue)
    return spec if spec.published is None else _with_published(spec, FilePath(path), document)


def sweep_name(path: str | FilePath) -> str:
    """The name of the sweep in the YAML file `path`, whatever else is in it, or wrong with it.
    Raises SweepFileError."""
    document = _document(path, ())
    name = document.data.get("name")
    if not isinstance(name, str):
        raise SweepFileError(f"{document.place(('name',))}: name: it has none; add name: …")
    return name


def _catalogue(document: Document, path: FilePath, plugins: Sequence[str]) -> Catalogue:
    """What the sweep can name: what is built in, and what its plug-ins have."""
    found = [read_plugin(each, FilePath.cwd()) for each in plugins]
    catalogue = load_plugins(found)
    folder, written = path.absolute().parent, document.data.get("plugins")
    for i, each in enumerate(written if isinstance(written, list) else ()):
        if isinstance(each, str) and each:
            with _written_here(document, i):
                found.append(read_plugin(each, folder))
                catalogue = load_plugins(found)
    return catalogue


@contextmanager
def _written_here(document: Document, number: int) -> Iterator[None]:
    """Says of a plug-in that cannot be used where the sweep names it."""
    try:
        yield
    except PluginError as error:
        path = ("plugins", number)
        raise SweepFileError(f"{document.place(path)}: {dotted(path)}: {error}") from error


def _data_root(given: str, path: str | FilePath, document: Document) -> str:
    """Where a `data_root` is: its path begins at the sweep file's folder, as all in the file do.

    One that is in the current folder alone stays as it was given. Raises SweepFileError for one
    that is in both, which might be meant either way.
    """
    here = expanded(given)
    beside = FilePath(path).absolute().parent / here
    if here.is_absolute() or not here.exists():
        return str(beside)
    if not beside.exists():
        return given
    if not beside.samefile(here):
        raise SweepFileError(
            f"{document.place(('data_root',))}: data_root: there is one beside the sweep file, "
            f"{beside}, and one in the current folder, {here.absolute()}; write an absolute path"
        )
    return str(beside)


def _with_weights_found(
    spec: SweepSpec, path: FilePath, document: Document, catalogue: Catalogue
) -> SweepSpec:
    """With what identifies the files that initial weights are in."""
    found, wrong = [*spec.model], []
    for i, model in enumerate(spec.model):
        file = model.initial_weights
        if file is not None:
            try:
                known = file.found(path.absolute().parent)
                found[i] = model.model_copy(update={"initial_weights": known})
            except OSError as error:
                at = written_at(("model", i, "initial_weights"), document, catalogue)
                wrong.append(
                    f"{document.place(at)}: {dotted(at)}: {file} cannot be read: "
                    f"{error.strerror or error}; its path begins at the sweep file's folder"
                )
    if wrong:
        raise SweepFileError(*dict.fromkeys(wrong))
    return spec.model_copy(update={"model": tuple(found)})


def _with_published(spec: SweepSpec, path: FilePath, document: Document) -> SweepSpec:
    published = path.absolute().parent / str(spec.published)
    try:
        read_published(published)
    except PublishedError as error:
        raise SweepFileError(f"{document.place(('published',))}: published: {error}") from None
    return spec.model_copy(update={"published": str(published)})


def locate(
    path: str | FilePath,
    overrides: Sequence[str],
    field: Path,
    plugins: Sequence[str] = (),
    repeats: Path | None = None,
) -> str:
    """Where `field`, a path into the spec of this sweep, was written: `file:line:column: field`;
    and where an earlier value of its section was, which it `repeats`.

    Of what was not written, and has its default, the nearest thing around it. Raises
    SweepFileError when the file cannot be read any more.
    """
    document = _document(path, overrides)
    catalogue = _catalogue(document, FilePath(path), plugins)
    if repeats is None:
        written = written_at(field, document, catalogue)
        return f"{document.place(written)}: {dotted(written)}"
    one, other = written_apart(repeats, field, document, catalogue)
    return f"{document.place(other)}: {dotted(other)}: {same_as(one, document)}"


def _document(path: str | FilePath, overrides: Sequence[str]) -> Document:
    document = read_document(path)
    if not isinstance(document.data, dict):
        raise SweepFileError(
            f"{document.place(())}: a sweep is a mapping with name, dataset, model and methods;"
            f" this is {shown(document.data)}"
        )
    for override in overrides:
        document = _overridden(document, override)
    return document


# --- overrides


def _overridden(document: Document, override: str) -> Document:
    """`document` with KEY=VALUE applied; KEY is dotted, list entries are numbered from 0."""
    name, equals, text = override.partition("=")
    if kind := secret_value(name):
        raise SweepFileError(f"--set: what is set looks like {kind}; {ADVICE}")
    keys = name.strip().split(".")
    label = f"--set {name.strip() or override}"
    if any(map(secret_key, keys)):
        raise SweepFileError(f"{label}: this key names a secret; {ADVICE}")
    if not equals or not all(keys):
        raise SweepFileError(f"{label}: write --set KEY=VALUE, as in --set train.epochs=2")
    place = Place(0, 0, label)
    value = parsed(text, lambda line, column: place).data
    data, path = _with(document.data, keys, value, (), label)

    def outside(places: dict[Path, Place]) -> dict[Path, Place]:
        return {at: each for at, each in places.items() if at[: len(path)] != path}

    # the mappings around it that are not in the file were written by the override too
    above = (path[:length] for length in range(1, len(path)))
    made = {at: place for at in (*above, path) if at == path or at not in document.values}
    return Document(data, outside(document.values) | made, outside(document.keys) | made)


def _with(data: Any, keys: list[str], value: Any, path: Path, label: str) -> tuple[Any, Path]:
    """`data` with `value` at `keys`, and the path that `keys` turned out to be."""
    if not keys:
        return value, path
    head, *rest = keys
    if isinstance(data, list):
        i = _entry(data, head, path, label)
        item, whole = _with(data[i], rest, value, (*path, i), label)
        return [*data[:i], item, *data[i + 1 :]], whole
    if isinstance(data, str) and (name := _name_of(path)):
        data = {name: data}
    if data is not None and not isinstance(data, dict):
        raise SweepFileError(
            f"{label}: {dotted(path)} is {as_json(data)}, which has no keys; set it to a mapping"
        )
    item, whole = _with((data or {}).get(head), rest, value, (*path, head), label)
    return {**(data or {}), head: item}, whole


def _name_of(path: Path) -> str | None:
    """Under which key a text at `path` is the name of what has options; None where it is none."""
    return NAMED.get(next((key for key in reversed(path) if isinstance(key, str)), ""))


def _entry(data: list[Any], key: str, path: Path, label: str) -> int:
    if re.fullmatch(r"[0-9]{1,9}", key) and int(key) < len(data):
        return int(key)
    raise SweepFileError(
        f"{label}: {dotted(path)} is a list of {len(data)}; address an entry by its number,"
        f" counted from 0, as in {dotted((*path, 0))}"
    )
