"""Keeps what a command sets up for the log of its process from the other tests of this one."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["log_restored"]

_LOGGERS = ("", "tensorus", "tensorus_server")


@contextmanager
def log_restored() -> Iterator[None]:
    """Restore the log's handlers and levels, and Python's hooks, after the block."""
    found = [(logging.getLogger(name), logging.getLogger(name).level) for name in _LOGGERS]
    handlers, raises = [*logging.getLogger().handlers], logging.raiseExceptions
    hooks = threading.excepthook, sys.excepthook, sys.unraisablehook, warnings.showwarning
    try:
        yield
    finally:
        for logger, level in found:
            logger.setLevel(level)
        logging.getLogger().handlers[:] = handlers
        logging.raiseExceptions = raises
        threading.excepthook, sys.excepthook, sys.unraisablehook, warnings.showwarning = hooks
