"""The error message if the engine cannot be imported."""

from __future__ import annotations

__all__ = ["engine_missing"]

_NOT_ON_WINDOWS = frozenset({"fcntl", "resource"})
"""Modules of the standard library that the engine uses, and that only Windows lacks."""


def engine_missing(error: ImportError) -> ImportError:
    """Return the error to raise from `error`. It names the missing library or the unsupported platform, and what to do."""
    if error.name in _NOT_ON_WINDOWS:
        return ImportError(
            "Windows cannot hold a store: it has neither the file locks (flock) nor the syncs of folders that a store needs. "
            "Run the server on Linux (WSL 2 or a container works), and connect to it with tensorus.connect",
            name=error.name,
        )
    if "pip install" in str(error):
        # Of a part of the engine, which has named its own extra.
        return error
    return ImportError(
        f"{error.name} is not installed, which the engine needs: pip install 'tensorus[server]'",
        name=error.name,
    )
