"""A log record as one line: for people, or a JSON object for machines.

    2026-03-01T12:00:00.123Z INFO tensorus_server.calls: Get: INVALID_NAME: ... [method=Get peer=127.0.0.1:40312]
    {"time": "2026-03-01T12:00:00.123Z", "level": "INFO", "logger": "tensorus_server.calls", "process": 7, "message": ...}

Messages repeat texts of clients, such as ids. No text can end its line, move a terminal's cursor or pass for another line:
control characters are escaped, and the further lines of a traceback are indented.

A record may have an attribute `fields`: names and values for machines. The names are those of `docs/OPERATIONS.md`.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TypeAlias

__all__ = ["Field", "JsonFormatter", "TextFormatter", "escaped", "utc"]

Field: TypeAlias = "str | int | float"

_MESSAGE_CHARACTERS_MAX = 8 * 1024
_STACK_CHARACTERS_MAX = 32 * 1024
"""Of a traceback; its end is kept, which has the error."""

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, what some programs take for the end of a line, what turns a text around, and half characters."""

_PLAIN = re.compile(r"[^\s\"\\\[\]=]+")
"""A value of a field that is written without quotes."""

_INDENT = "\n    "


def utc(seconds: float) -> str:
    """Return a time as ISO 8601 in UTC with milliseconds.

    Args:
        seconds: since 1970.
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def escaped(text: str) -> str:
    r"""Return a text with its control characters as escapes, such as "\n" and "\x1b"."""
    if not _CONTROLS.search(text):
        return text
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class TextFormatter(logging.Formatter):
    """One line for people; tracebacks follow it, indented."""

    def __init__(self, *, names_process: bool) -> None:
        """Format records.

        Args:
            names_process: whether lines have the number of the process, since several share the stream.
        """
        super().__init__()
        self._names_process = names_process

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its end."""
        process = f" [{record.process}]" if self._names_process else ""
        fields = " ".join(f"{name}={_quoted(str(value))}" for name, value in _fields_of(record).items())
        line = f"{utc(record.created)} {record.levelname}{process} {record.name}: {_message_of(record)}"
        return f"{line} [{fields}]{_stack_of(self, record)}" if fields else line + _stack_of(self, record)


class JsonFormatter(logging.Formatter):
    """One JSON object, all ASCII. The first five keys are always there; `exception` has the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its end."""
        entry: dict[str, Field | None] = {
            "time": utc(record.created),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": _cut(record.getMessage()),
        }
        for name, value in _fields_of(record).items():
            entry.setdefault(name, value)
        stack = _raw_stack(self, record)
        if stack:
            entry["exception"] = stack
        line = json.dumps(entry)
        if "\\ud" in line:
            # Perhaps half a character, which is no text that JSON could carry.
            line = json.dumps({name: _whole(value) for name, value in entry.items()})
        return line


def _fields_of(record: logging.LogRecord) -> Mapping[str, Field]:
    found = getattr(record, "fields", None)
    return found if isinstance(found, Mapping) else {}


def _message_of(record: logging.LogRecord) -> str:
    message = _cut(record.getMessage())
    if isinstance(record.msg, str) and "\n" in record.msg:
        # Meant to have several lines, such as a thread's stack.
        return _indented(message)
    return escaped(message)


def _stack_of(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    stack = _raw_stack(formatter, record)
    return _INDENT + _indented(stack) if stack else ""


def _raw_stack(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(record.stack_info)
    return "\n".join(parts)[-_STACK_CHARACTERS_MAX:]


def _indented(text: str) -> str:
    return _INDENT.join(escaped(line) for line in text.split("\n"))


def _quoted(text: str) -> str:
    if _PLAIN.fullmatch(text) and escaped(text) is text:
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _cut(text: str) -> str:
    return text if len(text) <= _MESSAGE_CHARACTERS_MAX else f"{text[:_MESSAGE_CHARACTERS_MAX]}..."


def _whole(value: Field | None) -> Field | None:
    """Return a text without halves of characters, which JSON could not carry; anything else as it is."""
    if isinstance(value, str) and not value.isascii():
        return value.encode(errors="backslashreplace").decode()
    return value
