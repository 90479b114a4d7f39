"""The ids of calls to a server, which its logs and errors repeat: random ones, or what the caller sets.

They go out as `x-request-id`. They say nothing to the server: the id that makes an insert repeatable is another one.
"""

from __future__ import annotations

import itertools
import os
import re
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from tensorus._forks import watch

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["REQUEST_ID_CHARACTERS_MAX", "current_id", "request_id"]

REQUEST_ID_CHARACTERS_MAX = 128
"""Of the contract."""

_FORM = re.compile(r"[!-~](?:[ -~]{0,126}[!-~])?")
"""Printable ASCII. HTTP would strip spaces at the ends."""

_chosen: ContextVar[str | None] = ContextVar("tensorus_request_id", default=None)


class _Random:
    """Ids that no other process makes: a random start for each process, and a number.

    They cost a tenth of a UUID, and neither depend on the seed of `random` nor change what it returns.
    """

    def __init__(self) -> None:
        self.after_fork()
        watch(self)

    def after_fork(self) -> None:
        """See `ForkAware`."""
        # Not `secrets`, which imports OpenSSL.
        self._start = os.urandom(5).hex()
        self._numbers = itertools.count(1)

    def next(self) -> str:
        return f"{self._start}-{next(self._numbers):x}"


_random = _Random()


@contextmanager
def request_id(text: str) -> Iterator[None]:
    """Send `text` as the id of every call that is made in the `with` block, so that the server's log can be searched for it.

        with tensorus.request_id("job-17"):
            client.insert("weights", tensor)

    Without it, each call has a random id. Errors have it as `facts["request_id"]`. It holds for this thread, or for this task
    and those that it creates; threads that are started in the block have to set their own.

    Args:
        text: 1 to 128 printable ASCII characters, without spaces at the ends. Not a secret: it is logged.

    Raises:
        ValueError: the text is empty, too long, or has other characters.
    """
    if not isinstance(text, str):
        raise TypeError(f"a request id is text, not {type(text).__name__}")
    if not _FORM.fullmatch(text):
        raise ValueError(
            f"request id {text[:REQUEST_ID_CHARACTERS_MAX]!r} has {len(text)} characters, must have 1 to "
            f"{REQUEST_ID_CHARACTERS_MAX}, all of them printable ASCII, without spaces at the ends"
        )
    before = _chosen.set(text)
    try:
        yield
    finally:
        _chosen.reset(before)


def current_id() -> str:
    """Return the id for a call that begins now."""
    return _chosen.get() or _random.next()
