"""Errors that tell who meets them what to do. Imports nothing: everything can raise them."""


class UserError(Exception):
    """About what the user gave or has: one message, exit code 2."""


class Hopeless(Exception):
    """Another attempt would meet it again, so none is made."""


class UnfitNode(Exception):
    """Nothing can be trained on a node, whatever the lineage: the message names it and says why.
    Another attempt there is no use where it is `hopeless`."""

    def __init__(self, message: str, hopeless: bool = False) -> None:
        super().__init__(message, hopeless)
        self.hopeless = hopeless

    def __str__(self) -> str:
        return self.args[0]


class Diverged(Hopeless):
    """The training or the test loss is no longer a finite number."""


class Interrupted(Exception):
    """This process was told to go: what was in flight is left where it is, and its state kept."""
