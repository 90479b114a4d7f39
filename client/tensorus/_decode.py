"""Chunk records into canonical bytes, on the client's side: the only module of the client that knows the codecs."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from tensorus.errors import DataCorruptError
from tensorus_codecs.errors import CodecError
from tensorus_codecs.pipeline import decode_chunk
from tensorus_codecs.registry import available_codecs

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["accepted_codecs", "decode_record"]


@cache
def accepted_codecs() -> tuple[str, ...]:
    """Return the ids of the codecs that can be decoded here: those whose library is installed."""
    return tuple(entry.id for entry in available_codecs())


def decode_record(record: Buffer) -> memoryview:
    """Return the canonical bytes of a chunk record.

    Raises:
        DataCorruptError: it is none.
    """
    try:
        return decode_chunk(record)
    except CodecError as error:
        raise DataCorruptError(str(error), reason="DATA_CORRUPT") from error
