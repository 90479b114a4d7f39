"""Handles state inherited across fork().

A gRPC channel, a thread pool and an engine belong to the process that created them. A forked child inherits these objects
without their threads, so it must neither use nor close them. In a child, each object registered here drops what it inherited,
and creates its own when it is used. This is how clients work in the workers of a `torch.utils.data.DataLoader`. See
docs/adr/0010-forks.md for the reasons.
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
    """An object that must react to forks."""

    def after_fork(self) -> None:
        """Drop state of the parent. Called in the child's only thread; must take no locks, which nobody would release."""


_watched: weakref.WeakSet[ForkAware] = weakref.WeakSet()
_left_behind: list[object] = []


def watch(found: ForkAware) -> None:
    """Call the object's `after_fork` in every child that is forked during its lifetime."""
    _watched.add(found)


def leave_behind(inherited: object) -> None:
    """Keep an inherited object until the child ends: closing or freeing it would wait for threads that do not exist here."""
    _left_behind.append(inherited)


def of_this_process(found: Iterator[T]) -> Iterator[T]:
    """Yield the items of `found`, but only in the process that began the iteration.

    Raises:
        UnavailableError: in a forked child, where the underlying call would wait forever.
    """
    process = os.getpid()
    while True:
        if os.getpid() != process:
            raise UnavailableError(
                "this iteration began before the process was forked, and continues only in the parent; begin it in the child",
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
