"""What the user is told of an error; and the errors of what commands write and serve."""

import errno

from trainables.errors import UserError


class ExportError(UserError, ValueError):
    """What was asked for is not in the store, or cannot be written where it was asked for."""


class PlanError(UserError, ValueError):
    """The sweep cannot be run; `field` is the path of the field at fault in the spec, `repeats`
    that of an earlier value of its section, where it is the same as that."""

    def __init__(
        self,
        message: str,
        field: tuple[str | int, ...],
        repeats: tuple[str | int, ...] | None = None,
    ) -> None:
        super().__init__(message)
        self.field, self.repeats = field, repeats


class NoTicket(UserError, ValueError):
    """A network cannot be had: it is not stored, or cannot be made here."""


class DashboardError(UserError):
    """The dashboard cannot be served; the message says why and what to do."""


THE_SYSTEMS = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE,
    errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.EBUSY,
}  # fmt: skip
"""What an operating system has against a file, whatever a program does."""


def message(error: Exception) -> str | None:
    """What to tell the user; None when the error is a fault of prunesweep's own.

    What could change the look of a terminal, as a hostile file's name may, is written out."""
    if isinstance(error, OSError) and (error.errno in THE_SYSTEMS or _is_arrows(error)):
        text = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    elif isinstance(error, UserError):
        text = str(error)
    else:
        return None
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def _is_arrows(error: OSError) -> bool:
    """What PyArrow has to say of an object store comes without a number."""
    return type(error) is OSError and error.errno is None
