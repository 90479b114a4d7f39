"""What can be wrong with an old file. None of it travels over the wire: whoever imports puts it into the report.

OldDataError (also ValueError)
├── OldFileError      the file as a whole cannot be read, and nothing of it is
└── OldRecordError    one record cannot be read; the others can
"""

from __future__ import annotations

__all__ = ["OldDataError", "OldFileError", "OldRecordError"]


class OldDataError(ValueError):
    """Base of what is wrong with old data; the message says what, where, and what would be right."""


class OldFileError(OldDataError):
    """The file is damaged, torn, of another kind, or holds what is never run."""


class OldRecordError(OldDataError):
    """A record's tensor is damaged, or was lost before it was written."""
