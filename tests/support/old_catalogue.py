"""Catalogues as older versions left them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensorus_codecs.checksum import crc32c

OLD_COLUMNS = (
    *("id", "dtype_number", "element_bytes", "shape", "chunk_bytes", "inline", "key", "offset", "length"),
    *("index_length", "index_crc", "value_algorithm"),
)


def old_checksum(row: Mapping[str, Any]) -> int:
    """Return the checksum that rows had up to schema 7: over what locates a payload, as text."""
    return crc32c("\0".join([*(str(row[name]) for name in OLD_COLUMNS), row["value_checksum"].hex()]).encode())
