"""The descriptors of a server's process: as many as the system lets it have, and how many of them connections may take.

Every connection takes one, and so does every file. Without a limit for connections, clients that only connect would leave none
for files, and reads and inserts would fail.
"""

from __future__ import annotations

import resource
from contextlib import suppress

__all__ = ["connections_max", "raise_limit"]

_WANTED = 65_536
"""More than a server of this kind ever needs. Where there is no limit at all, some systems refuse to be asked for that."""

_FILES_SHARE = 0.5
"""Of all descriptors, those that connections leave to files: 64 streams with 4 files each need half of the usual 1,024."""


def raise_limit() -> None:
    """Raise the soft limit of this process to the hard one, up to `_WANTED`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED if hard == resource.RLIM_INFINITY else min(hard, _WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # macOS has a limit of its own, which no call tells.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def connections_max() -> int:
    """Return how many connections leave enough descriptors for files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptors_max = _WANTED if soft == resource.RLIM_INFINITY else min(soft, _WANTED)
    return max(int(descriptors_max * (1 - _FILES_SHARE)), 1)
