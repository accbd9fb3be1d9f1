"""What can be wrong with a storage, and with what is committed in it."""

from trainables.errors import Hopeless, UserError


class StoreError(UserError):
    """The storage cannot be used; the message says why and what to do."""


class StoreGone(StoreError, Hopeless):
    """The storage was there when a run began, and is no longer."""


class StoreSilent(StoreError):
    """The storage has not answered for as long as it was to be waited for."""


class StoreFull(StoreError):
    """There is no room left; the message says how much is needed."""


class Damaged(UserError):
    """A committed file is missing or is not what its manifest says."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)  # with these it is made anew where a worker's errors arrive
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class NotCommitted(Damaged):
    """There is no such commit, or its manifest is missing."""
