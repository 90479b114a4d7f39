"""Settings of glibc's allocator that bulk transfers need; without glibc, nothing happens.

Every message is a fresh megabyte. By default glibc maps such blocks anew each time, and touching fresh pages costs more than
moving the bytes: measured on 2 cores, a Get ran at 0.6 GB/s by default and at 1.0 GB/s with these settings. They keep blocks
below `_MAP_ABOVE_BYTES` on the heap, and up to `_KEEP_BYTES` of free heap for the next message.

Source: mallopt(3).
"""

from __future__ import annotations

import ctypes
from functools import cache

__all__ = ["tune_allocator"]

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

_MAP_ABOVE_BYTES = 4 * 1024 * 1024
"""Above every message; large arrays are still mapped, and given back when they are freed."""

_KEEP_BYTES = 32 * 1024 * 1024


@cache
def tune_allocator() -> bool:
    """Apply the settings to this process, once; return whether they were accepted."""
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _MAP_ABOVE_BYTES) and mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES))
