"""File descriptors: raises the process's limit, and says how many of them connections may use.

Every connection and every file needs one. Without a limit on connections, clients that merely connect could use up all
descriptors, and reads and inserts would fail.
"""

from __future__ import annotations

import resource
from contextlib import suppress

__all__ = ["connections_max", "raise_limit"]

_WANTED = 65_536
"""More than a server needs. It is also requested where the hard limit is infinite, because some systems refuse infinity."""

_FILES_SHARE = 0.5
"""Share of the descriptors that is reserved for files: 64 streams with 4 files each need a quarter of the usual 1,024."""


def raise_limit() -> None:
    """Raise the soft limit of this process to the hard one, up to `_WANTED`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED if hard == resource.RLIM_INFINITY else min(hard, _WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # macOS has another limit, which no call returns, and refuses values above it.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def connections_max() -> int:
    """Return how many connections to allow, so that enough descriptors are left for files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptors_max = _WANTED if soft == resource.RLIM_INFINITY else min(soft, _WANTED)
    return max(int(descriptors_max * (1 - _FILES_SHARE)), 1)
