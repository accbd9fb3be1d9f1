"""The parameters that several commands have."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

DEFAULT_STORAGE = "./prunesweep-store"
STORAGE_VARIABLE = "PRUNESWEEP_STORAGE"

SweepFile = Annotated[
    Path, Parameter(help="The sweep's YAML file, or an example's name (`list examples`).")
]
SweepName = Annotated[str, Parameter(help="The sweep's name.")]
SweepNames = Annotated[
    list[str], Parameter(negative="", help="A sweep's name; several are shown as one.")
]
Storage = Annotated[
    str,
    Parameter(help="Where results are: a folder or a URI (s3://…).", env_var=STORAGE_VARIABLE),
]
Overrides = Annotated[
    list[str] | None,
    Parameter(
        name="--set",
        negative="",
        help="Override a key of the file, as in train.epochs=2; repeatable.",
    ),
]
Plugins = Annotated[
    list[str] | None,
    Parameter(
        negative="",
        help="A Python file or module with models, methods and the like; repeatable.",
    ),
]
Only = Annotated[
    list[str] | None,
    Parameter(
        negative="",
        help="Train only lineages with this, as in method=sap or seed=[0,1]; repeatable, all "
        "have to be met.",
    ),
]
Skip = Annotated[
    list[str] | None,
    Parameter(negative="", help="Train no lineage with this; repeatable."),
]
Retry = Annotated[
    Literal["failed"] | None,
    Parameter(help="Train what has diverged in an earlier run again."),
]
Weights = Annotated[
    Literal["kept", "effective"],
    Parameter(
        help="Whose density is shown: that of the kept weights, or of those on a path of kept ones "
        "from an input to an output."
    ),
]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON for a script.")]
