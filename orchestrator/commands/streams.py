"""Standard output and error: whatever their encoding, and whether or not anyone reads them."""

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.console import Console

PLAIN = {
    "…": "...", "−": "-", "–": "-", "—": "-", "‑": "-", "·": "*", "•": "*", "±": "+-", "×": "x",
    "→": "->", "←": "<-", "≤": "<=", "≥": ">=", "≠": "!=", "∞": "inf", "²": "^2", "⁴": "^4",
    "α": "alpha", "β": "beta", "γ": "gamma", "η": "eta", "θ": "theta", "ρ": "rho", "σ": "sigma",
    "χ": "chi", "Σ": "sum", "∂": "d", "ℓ": "l", "§": "section ", "‖": "||", "⊙": "*", "⌊": "floor(",
    "⌋": ")", "⌈": "ceil(", "⌉": ")", "‘": "'", "’": "'", "“": '"', "”": '"', "\u00a0": " ",
}  # fmt: skip
"""What is printed, for streams that cannot encode it. Any other character is escaped, since it may
be of a name."""


def prepare_streams() -> None:
    """Let no character that a stream cannot encode end a command, and none that is closed."""
    codecs.register_error("prunesweep", _plain)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by who started us: without one, files would take its number
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="prunesweep")


def console() -> Console:
    """Standard output. Where nobody looks, a table is not squeezed into 80 columns."""
    return Console(width=None if sys.stdout.isatty() else 200)


def write_bytes(data: bytes) -> None:
    """Write to standard output as it is."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def takes_unicode() -> bool:
    """Whether standard output is UTF-8."""
    return codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8"


def complain(text: str) -> None:
    """A line on standard error, if there is anyone to read it."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def leave_stdout() -> None:
    """Write what is left to standard output, if it still takes it: else Python would try when it
    exits, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def ended_by_ctrl_c() -> Iterator[None]:
    """Ctrl-C is how a view that goes on by itself is left, and no interruption of anything."""
    try:
        yield
    except KeyboardInterrupt:
        print(file=sys.stderr)


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return "".join(PLAIN.get(each, _escaped(each)) for each in characters), error.end


def _escaped(character: str) -> str:
    return character.encode("ascii", "backslashreplace").decode()
