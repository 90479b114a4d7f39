"""The command line: `tensorus serve`, `put`, `get`, `ls`, `info`, `stats`, `rm`, `snapshot`, `gc`, `explain`, `bench` and more.

`main` is the entry point. Each command has a module. `_connection` selects the store, `_output` prints, `_files` reads files,
and `_writing` writes them.
"""

from __future__ import annotations

import io
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line. If its libraries are missing, say how to install them."""
    try:
        from tensorus.cli._app import app  # noqa: PLC0415 - the thin client has no command line
    except ImportError as error:
        raise SystemExit(f"{error.name} is not installed: pip install 'tensorus[cli]'") from error
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # An id that the terminal's encoding lacks must not end a listing.
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="tensorus")
