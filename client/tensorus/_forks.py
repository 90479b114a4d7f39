"""Forks: a child process inherits objects whose threads it does not have, and must not use them, nor end them.

A gRPC channel, a pool of threads and an engine are of the process that made them. In a child each object that is watched here
lets go of what it inherited, and makes its own when it is used: that is how clients work in the workers of a
`torch.utils.data.DataLoader`. Why it is done so: docs/adr/0010-forks.md.
"""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Protocol, TypeVar

from tensorus.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ForkAware", "leave_behind", "of_this_process", "watch"]

T = TypeVar("T")


class ForkAware(Protocol):
    """Something that must know of forks."""

    def after_fork(self) -> None:
        """Let go of what is the parent's. Called in the child, on its only thread; takes no locks: who would release them?"""


_watched: weakref.WeakSet[ForkAware] = weakref.WeakSet()
_left_behind: list[object] = []


def watch(found: ForkAware) -> None:
    """Call its `after_fork` in every child that is forked while it lives."""
    _watched.add(found)


def leave_behind(inherited: object) -> None:
    """Keep what the parent made until the child ends: closing it, or freeing it, would wait for threads that are not there."""
    _left_behind.append(inherited)


def of_this_process(found: Iterator[T]) -> Iterator[T]:
    """Yield what `found` does, as long as it is asked for in the process that began it.

    Raises:
        UnavailableError: in a child, where the call behind it would wait for ever.
    """
    process = os.getpid()
    while True:
        if os.getpid() != process:
            raise UnavailableError(
                "the process was forked after this iteration began, which goes on in the parent only; begin it in the child",
                reason="UNAVAILABLE",
            )
        try:
            value = next(found)
        except StopIteration:
            return
        yield value


def _after_fork() -> None:
    for found in tuple(_watched):
        found.after_fork()


# Windows has no forks.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
