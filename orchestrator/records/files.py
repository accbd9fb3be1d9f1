"""The JSON files of a sweep's records: each has one type that it is written from and read into."""

from collections.abc import Callable
from dataclasses import dataclass
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
