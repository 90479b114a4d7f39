"""Decodes chunk records in the client. With `tensorus.compression`, the only code of the client that uses the codecs."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from tensorus.errors import DataCorruptError
from tensorus_codecs.abc import BaseFilter
from tensorus_codecs.errors import CodecError
from tensorus_codecs.pipeline import decode_chunk_into
from tensorus_codecs.registry import available_codecs

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["accepted_codecs", "decode_record_into"]


@cache
def accepted_codecs() -> tuple[str, ...]:
    """Return the ids of the codecs that this process can decode: their libraries are installed, and they need no base."""
    return tuple(entry.id for entry in available_codecs() if not issubclass(entry.load(), BaseFilter))


def decode_record_into(record: Buffer, target: memoryview) -> None:
    """Write the canonical bytes of a chunk record into `target`.

    Raises:
        DataCorruptError: it is not a chunk record, or decodes to another length.
    """
    try:
        decode_chunk_into(record, target)
    except CodecError as error:
        raise DataCorruptError(str(error), reason="DATA_CORRUPT") from error
