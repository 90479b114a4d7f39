"""The checksum of a catalogue row: a CRC32C over all of its columns.

Little-endian, without padding. The checksum covers first 8 bytes for each column, in order:

    INTEGER     its value, int64; NULL is -1
    REAL        its value, float64; NULL is NaN (0x7ff8000000000000)
    TEXT, BLOB  its length in bytes, int64; NULL is -1

then the bytes of each TEXT (UTF-8) and BLOB, in order. SQLite stores NaN as NULL, and INTEGER columns that may be NULL are
never negative, so the encoding is unambiguous. The types are those of the schema: a value of another type is damage.

A checksum can continue another one (`start`), so that rows with many columns in common need to compute that part only once.
"""

from __future__ import annotations

import math
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tensorus_codecs.checksum import crc32c

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "MALFORMED",
    "dataset_checksum",
    "dataset_start",
    "require_no_blobs",
    "row_checksum",
    "snapshot_checksum",
    "upload_checksum",
]

MALFORMED = (struct.error, TypeError, ValueError, LookupError, AttributeError, OverflowError, RecursionError)
"""Errors from decoding a damaged row: values of wrong types, text that is not UTF-8, JSON that does not parse."""

_NULLS = {"q": -1, "d": math.nan}

_pack_ordinal = struct.Struct("<q").pack
"""Encodes the only column after `dataset_start`, which is never NULL."""


def row_checksum(types: str, columns: Sequence[Any], start: int = 0) -> int:
    """Return the checksum of a row, or of a part of its columns.

    Args:
        types: a letter for each column: q for INTEGER, d for REAL, t for TEXT and BLOB.
        columns: their values; TEXT as str or as UTF-8 bytes.
        start: the checksum of the preceding columns.

    Raises:
        struct.error, TypeError: a value does not have its column's type.
    """
    numbers: list[float] = []
    texts: list[bytes] = []
    for kind, value in zip(types, columns, strict=True):
        if kind != "t":
            numbers.append(_NULLS[kind] if value is None else value)
        elif value is None:
            numbers.append(-1)
        else:
            texts.append(value.encode() if isinstance(value, str) else value)
            numbers.append(len(texts[-1]))
    return crc32c(b"".join((_numbers(types).pack(*numbers), *texts)), start)


def require_no_blobs(columns: Sequence[Any]) -> None:
    """Check that no column is a BLOB, for columns of other types: the checksum of a TEXT is that of a BLOB of the same bytes.

    Raises:
        TypeError: a column is one.
    """
    if any(isinstance(column, bytes) for column in columns):
        raise TypeError("a column is a BLOB")


def dataset_start(columns: Sequence[Any], retention_us: int = 0) -> int:
    """Return the checksum of a dataset's columns before the last ordinal: ds, name, policy, schema, created_us, deleted_us.

    The retention follows them, unless it is 0: rows that were written before there was one stay valid.

    Raises:
        struct.error, TypeError: a value does not have its column's type.
    """
    start = row_checksum("qtttqq", columns)
    return start if retention_us == 0 else row_checksum("q", (retention_us,), start)


def dataset_checksum(start: int, last_ordinal: int) -> int:
    """Return the checksum of a dataset's row: that of `dataset_start`, continued with the last ordinal.

    Raises:
        struct.error: the ordinal is not an integer.
    """
    return crc32c(_pack_ordinal(last_ordinal), start)


def snapshot_checksum(columns: Sequence[Any]) -> int:
    """Return the checksum of a snapshot's row: ds, name, generation, created_us.

    Raises:
        struct.error, TypeError: a value does not have its column's type.
    """
    return row_checksum("qtqq", columns)


def upload_checksum(columns: Sequence[Any]) -> int:
    """Return the checksum of an upload's row: all columns in the order of the table, except the checksum.

    Raises:
        struct.error, TypeError: a value does not have its column's type.
    """
    return row_checksum("tqqtqqtttqqqttqtq", columns)


@lru_cache(maxsize=16)
def _numbers(types: str) -> struct.Struct:
    return struct.Struct("<" + types.replace("t", "q"))
