"""Patient files: those of a mounted file system, whose server may be away for a while."""

import errno
from functools import partial
from typing import Any

from trainables.store.local_files import LocalFiles
from trainables.store.patience import Patience

SILENT = {
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ESHUTDOWN, errno.EHOSTDOWN,
    errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNREFUSED, errno.ECONNRESET, errno.EREMOTEIO,
}  # fmt: skip
"""What file systems say whose server does not answer."""


class PatientFiles:
    """`files`, each of whose methods can be asked once more; and is, with `patience`, while the
    file system does not answer."""

    def __init__(self, files: LocalFiles, patience: Patience) -> None:
        self._files, self._patience = files, patience

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._files, name)
        return partial(self._ask, found) if callable(found) else found

    def _ask(self, question: Any, *given: Any) -> Any:
        return self._patience.ask(partial(question, *given), _silence)


def _silence(error: Exception) -> str | None:
    return str(error.strerror) if isinstance(error, OSError) and error.errno in SILENT else None
