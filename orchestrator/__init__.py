"""prunesweep's Python API: `orchestrator.open_results`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.results.opening import open_results as open_results

__all__ = ["open_results"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: the commands have no use for it, and start faster.
    if name == "open_results":
        from orchestrator.results.opening import open_results

        return open_results
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
