"""The versions of what prunesweep computes with: raised where a formula gives other numbers."""

VERSIONS: dict[str, int] = {}
"""By part, the versions above 1. The parts are those in `tests/golden/numbers.json`, such as
`criterion/snip`, `scope/layer` or `Recipe`.

A raised version enters the keys of what is made with the part, which is then trained anew, and no
others; see `trainables.config.canonical`. None is ever lowered or taken out.
"""
