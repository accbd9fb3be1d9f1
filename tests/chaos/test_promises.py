"""docs/durability.md names the tests that hold each promise; they have to be there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_the_promises_name_is_there() -> None:
    text = (ROOT / "docs/durability.md").read_text()
    promises = text.partition("## The promises")[2].partition("\n## ")[0].split("\n**")[1:]
    assert len(promises) == 10
    for promise in promises:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", promise)
        assert named, promise
        for file, name in named:
            source = (ROOT / file).read_text()
            assert re.search(rf"^(def )?{name}\b", source, re.MULTILINE), f"{file}::{name}"
