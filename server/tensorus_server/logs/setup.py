"""Sends everything that this process has to say to the error stream, in one form.

That includes what Python itself and libraries would print there: warnings, errors that end a thread, and those that nobody can
catch, such as in a finalizer. gRPC's core has a log of its own, which is set up elsewhere.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from typing import TYPE_CHECKING, TextIO

from tensorus_server.logs.formats import JsonFormatter, TextFormatter

if TYPE_CHECKING:
    from types import TracebackType

    from tensorus_server.config import LogConfig

__all__ = ["hide_metadata", "log_to_stderr"]

_OURS = ("tensorus", "tensorus_server")
"""The loggers whose level the settings choose. Those of libraries say no more than warnings."""

_log = logging.getLogger("tensorus_server.process")


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes each record and its end in one call, so that lines of several processes do not mix."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)


def log_to_stderr(config: LogConfig, *, names_process: bool) -> None:
    """Set the log of this process up; a later call replaces what an earlier one set.

    Args:
        names_process: whether lines of text have the number of the process.
    """
    level = logging.getLevelNamesMapping()[config.level.upper()]
    handler = _StderrHandler()
    handler.setFormatter(JsonFormatter() if config.format == "json" else TextFormatter(names_process=names_process))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _StderrHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(max(level, logging.WARNING))
    for name in _OURS:
        logging.getLogger(name).setLevel(level)
    # A failure to log must not print a traceback to the stream that cannot be written.
    logging.raiseExceptions = False
    warnings.showwarning = _log_warning
    threading.excepthook = _log_end_of_thread
    sys.excepthook = _log_end_of_process
    sys.unraisablehook = _log_unraisable


def hide_metadata() -> None:
    """Keep gRPC from logging the metadata of calls.

    It logs each value that is not UTF-8, with a traceback, for every caller and before anything is known of them. The value of
    `authorization` would be a token with one wrong byte.
    """
    logger = logging.getLogger("grpc._cython.cygrpc")
    logger.removeFilter(_is_no_metadata)
    logger.addFilter(_is_no_metadata)


def _is_no_metadata(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Invalid encoding on")


def _log_warning(  # noqa: PLR0917 - the signature is Python's
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001
    line: str | None = None,  # noqa: ARG001
) -> None:
    _log.warning("%s: %s (%s:%d)", category.__name__, message, filename, lineno)


def _log_end_of_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_type is SystemExit:
        return
    name = "an unknown thread" if ended.thread is None else f"thread {ended.thread.name}"
    _log.error("an error ended %s", name, exc_info=ended.exc_value or ended.exc_type())


def _log_end_of_process(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    _log.critical("an error ended the process", exc_info=(kind, error, traceback))


def _log_unraisable(found: sys.UnraisableHookArgs) -> None:
    # `found.object` is named, and not kept: it may be about to be deleted.
    what = found.err_msg or "an error that nobody could catch"
    _log.error("%s: %r", what, found.object, exc_info=found.exc_value or found.exc_type())
