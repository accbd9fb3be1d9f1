"""The JSON files of a sweep's records: each has one type that it is written from and read into."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Generic, TypeVar

from pydantic import AfterValidator, TypeAdapter, ValidationError

from trainables.store import Damaged, Store, sweep_path
from trainables.store.store import json_bytes


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

    def encoded(self, contents: Contents) -> bytes:
        """The file that holds `contents`."""
        return json_bytes(self.contents.dump_python(contents, mode="json"))

    def update(self, store: Store, sweep: str, contents: Contents) -> None:
        """`write`, unless it is there: a large record takes far longer to write than to read."""
        new = self.contents.dump_python(contents, mode="json")
        with suppress(Damaged):
            if store.read_json(self.path(sweep)) == new:
                return
        store.write(self.path(sweep), json_bytes(new))

    def read(self, store: Store, sweep: str) -> Contents | None:
        """What the file holds; None when there is no such file. Raises Damaged."""
        found = store.read_json(self.path(sweep))
        try:
            return None if found is None else self.contents.validate_python(found)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            reason = f"not what prunesweep writes ({where}: {first['msg']})"
            raise Damaged(self.path(sweep), reason) from None
