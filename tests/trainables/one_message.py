"""What reading a file comes to: what it gives, or one message that names the place."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from trainables.errors import UserError

Found = TypeVar("Found")


def outcome(read: Callable[[], Found], *places: Path | str) -> Found | None:
    """None for a message of one line with one of `places`; any other error, or message, fails."""
    try:
        return read()
    except (ValueError, UserError) as error:
        message = str(error)
    assert any(str(place) in message for place in places), message
    return None
