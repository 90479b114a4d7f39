"""Errors of commands that open a store in this process: the engine's errors become the client's."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tensorus._missing import engine_missing
from tensorus.errors import error_for

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["engine_errors"]


@contextmanager
def engine_errors() -> Iterator[None]:
    """Raise the engine's errors as the client's. Import the engine inside, so that a missing engine is reported too."""
    try:
        from tensorus_server.errors import EngineError, facts_of, reason_of  # noqa: PLC0415 - not part of the thin client
    except ImportError as error:
        raise engine_missing(error) from error
    try:
        yield
    except ImportError as error:
        raise engine_missing(error) from error
    except EngineError as error:
        raise error_for(reason_of(error), str(error), facts_of(error)) from error
