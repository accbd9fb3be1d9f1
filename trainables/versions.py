"""The versions of what prunesweep computes with: raised where a formula gives other numbers."""

VERSIONS: dict[str, int] = {
    # Methods that are functions find the masks in the order of the layers, and not of their names.
    "ByFunction": 2,
    # Batches of which statistics are recomputed are drawn, whatever the order of the dataset.
    "batchnorm/recompute": 2,
    "measure/lmc": 2,
    "measure/lmc_consecutive": 2,
    "measure/lmc_methods": 2,
}
"""By part, the versions above 1. The parts are those in `tests/golden/numbers.json`, such as
`criterion/snip`, `scope/layer` or `Recipe`.

A raised version enters the keys of what is made with the part, which is then trained anew, and no
others; see `trainables.config.canonical`. None is ever lowered or taken out.
"""
