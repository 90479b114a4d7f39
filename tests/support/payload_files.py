"""Files of payloads, as a test looks at them."""

from __future__ import annotations

from pathlib import Path

from tensorus_server.engine.footer import read_footer

__all__ = ["payload_bytes"]


def payload_bytes(path: Path) -> int:
    """Return the bytes of a payload, which its file's footer comes after."""
    data = path.read_bytes()
    return read_footer(lambda offset, length: data[offset : offset + length], len(data)).payload_bytes
