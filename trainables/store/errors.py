"""What can be wrong with a storage, and with what is committed in it."""

from trainables.errors import UserError


class StoreError(UserError):
    """The storage cannot be used; the message says why and what to do."""


class StoreGone(StoreError):
    """The storage was there when a run began, and is no longer."""


class StoreFull(StoreError):
    """There is no room left; the message says how much is needed."""


class Damaged(UserError):
    """A committed file is missing or is not what its manifest says."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason
