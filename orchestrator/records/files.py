"""The JSON files of a sweep's records: each has one type that it is written from and read into."""

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, TypeAdapter, ValidationError

from trainables.store import Damaged, Store, sweep_path
from trainables.store.store import json_bytes, json_in


def _zoned(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a time without its zone")
    return text


Time = Annotated[str, AfterValidator(_zoned)]
"""ISO 8601."""

Contents = TypeVar("Contents")


@dataclass(frozen=True)
class RecordFile(Generic[Contents]):
    """One of the files in `sweeps/<name>/`; what is not of its type there is damage."""

    name: str
    contents: TypeAdapter[Contents]

    def path(self, sweep: str) -> str:
        return f"{sweep_path(sweep)}/{self.name}"

    def of(self, run: str) -> "RecordFile[Contents]":
        """The file that one run writes alone; the one that names none is of those that are over."""
        return replace(self, name=f"{self.name.removesuffix('.json')}-{run}.json")

    def each(
        self, store: Store, sweep: str, names: Collection[str] | None = None
    ) -> "list[RecordFile[Contents]]":
        """The files of runs, the newest first; last that of runs that are over, so that what goes
        there while the others are read is not missed. `names` are those of the folder, where they
        are known."""
        names = store.names(sweep_path(sweep)) if names is None else names
        begins = f"{self.name.removesuffix('.json')}-"
        own = [name for name in names if name.startswith(begins) and name.endswith(".json")]
        if not own and self.name not in names:
            return []
        return [*(replace(self, name=name) for name in sorted(own, reverse=True)), self]

    def run_in(self, name: str) -> str | None:
        """The run whose file of this kind `name` is; None when it is of none."""
        run = name.removeprefix(f"{self.name.removesuffix('.json')}-").removesuffix(".json")
        return run if self.of(run).name == name else None

    def write(self, store: Store, sweep: str, contents: Contents) -> None:
        store.write(self.path(sweep), self.encoded(contents))

    def update(
        self, store: Store, sweep: str, change: Callable[[Contents | None], Contents]
    ) -> None:
        """Write what `change` makes of the contents, None where there are none. Raises Damaged."""

        def changed(found: bytes | None) -> bytes:
            before = None if found is None else self._decoded(self.path(sweep), found)
            return self.encoded(change(before))

        store.update(self.path(sweep), changed)

    def encoded(self, contents: Contents) -> bytes:
        """The file that holds `contents`."""
        return json_bytes(self.contents.dump_python(contents, mode="json"))

    def write_if_other(self, store: Store, sweep: str, contents: Contents) -> None:
        """`write`, unless it is there: a large record takes far longer to write than to read."""
        new = self.contents.dump_python(contents, mode="json")
        with suppress(Damaged):
            if store.read_json(self.path(sweep)) == new:
                return
        store.write(self.path(sweep), json_bytes(new))

    def read(self, store: Store, sweep: str) -> Contents | None:
        """What the file holds; None when there is no such file. Raises Damaged."""
        found = store.read_json(self.path(sweep))
        return None if found is None else self._validated(self.path(sweep), found)

    def _decoded(self, path: str, data: bytes) -> Contents:
        return self._validated(path, json_in(path, data))

    def _validated(self, path: str, found: Any) -> Contents:
        try:
            return self.contents.validate_python(found)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            reason = f"not what prunesweep writes ({where}: {first['msg']})"
            raise Damaged(path, reason) from None
