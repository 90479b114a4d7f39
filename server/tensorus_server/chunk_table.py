"""The chunk table of a tensor, and the end of a payload's index that leads to it.

A tensor that was changed shares unchanged chunks with its earlier generations, so its records are in several payloads. The
chunk table says where: it lists *runs*, each a number of consecutive chunks whose records are consecutive in one payload. It is
stored in the newest of these payloads. A tensor without a table has all its records, in order, in one payload.

A payload of format 2 has, after its records: the base section (`base_section.py`), if any; the chunk table, if any; the chunk
details (`chunk_details.py`); the chunk index with 8 bytes for each record, as in format 1; and the end of the index, by which
all three are found. The length of an index tells the formats apart: in format 1 it is a multiple of 8. Everything is
little-endian.

End of the index, 28 bytes, or 36 if there is a base section:

     at  size  field
      0     4  records           number of records in this payload
      4     8  details           length, CRC32C
     12     8  chunk table       length, CRC32C; 0, 0: none
     20     8  base section      length, CRC32C; only in version 3
    -8      4  version           2; 3 if there is a base section
    -4      4  depth             0; in version 3, how many payloads a reader may need one after the other, 1 to 8

Chunk table:

     at  size  field
      0     4  n                 number of other payloads
      4     4  m                 number of runs
      8  12*m  runs              each: payload (4), 0 is the one with this table, k the k-th listed; number of its first record
                                 (4); number of chunks (4)
               payloads          each: length (8), length of its index (4), CRC32C of its index (4), length of its key (4), key
                                 in the chunk store, ASCII
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tensorus_server.model import Locator

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["BASE_DEPTH_MAX", "INDEX_END_BYTES", "ChunkTable", "IndexEnd", "Run"]

_END = struct.Struct("<5I")
_BASES = struct.Struct("<II")
_LAST = struct.Struct("<II")
_HEAD = struct.Struct("<II")
_PAYLOAD = struct.Struct("<QIII")
_RUN = struct.Struct("<III")
_WORD = np.dtype("<u4")

_VERSION, _VERSION_WITH_BASES = 2, 3

INDEX_END_BYTES = _END.size + _LAST.size
"""Size of the end of an index of format 2 without a base section."""

BASE_DEPTH_MAX = 8
"""How many payloads of differences may build on each other. A reader decodes a record of each of them and one more."""


@dataclass(frozen=True)
class IndexEnd:
    """The end of a payload's index."""

    records: int
    """Number of records in the payload."""
    details_bytes: int
    details_crc32c: int
    table_bytes: int = 0
    """0: the payload has no chunk table."""
    table_crc32c: int = 0
    bases_bytes: int = 0
    """0: no record of the payload needs a base."""
    bases_crc32c: int = 0
    depth: int = 0
    """How many payloads with bases build on each other, up to this one; 0: no record needs a base."""

    @property
    def nbytes(self) -> int:
        """Length of the stored form."""
        return INDEX_END_BYTES + (_BASES.size if self.bases_bytes else 0)

    @property
    def overhead_bytes(self) -> int:
        """Bytes between the records and the index."""
        return self.bases_bytes + self.table_bytes + self.details_bytes

    def packed(self) -> bytes:
        """Return the stored form."""
        start = _END.pack(self.records, self.details_bytes, self.details_crc32c, self.table_bytes, self.table_crc32c)
        if not self.bases_bytes:
            return start + _LAST.pack(_VERSION, 0)
        return start + _BASES.pack(self.bases_bytes, self.bases_crc32c) + _LAST.pack(_VERSION_WITH_BASES, self.depth)

    @classmethod
    def parse(cls, index: bytes) -> IndexEnd:
        """Return the end of an index of format 2.

        Raises:
            ValueError: a newer version wrote it, or its length does not fit.
        """
        if len(index) < INDEX_END_BYTES:
            raise ValueError(f"the chunk index has {len(index)} bytes, at least {INDEX_END_BYTES} are its end")
        version, depth = _LAST.unpack_from(index, len(index) - _LAST.size)
        if version not in {_VERSION, _VERSION_WITH_BASES}:
            raise ValueError(
                f"the chunk index has version {version}, this version of Tensorus knows up to {_VERSION_WITH_BASES}"
            )
        has_bases = version == _VERSION_WITH_BASES
        at = len(index) - INDEX_END_BYTES - (_BASES.size if has_bases else 0)
        if at < 0:
            raise ValueError(f"the chunk index has {len(index)} bytes, too few for its end")
        fields = [*_END.unpack_from(index, at)]
        if has_bases:
            fields += [*_BASES.unpack_from(index, at + _END.size), depth]
        end = cls(*fields)
        if at != 8 * end.records:
            raise ValueError(f"the chunk index of {end.records} records has {len(index)} bytes")
        if has_bases and not (end.bases_bytes and 1 <= depth <= BASE_DEPTH_MAX):
            raise ValueError(f"the depth of the bases is {depth}, must be 1 to {BASE_DEPTH_MAX}")
        return end


@dataclass(frozen=True)
class Run:
    """Consecutive chunks whose records are consecutive in one payload."""

    payload: int
    """0: the payload with the table; k: the k-th of the others."""
    first: int
    """Number of the first record in that payload."""
    count: int
    """Number of chunks."""

    def packed(self) -> bytes:
        """Return the stored form."""
        return _RUN.pack(self.payload, self.first, self.count)


class ChunkTable:
    """Which payload has the record of each chunk, and its number there."""

    def __init__(self, payloads: Sequence[Locator], runs: Iterable[Run] | bytes) -> None:
        """Make a table of these runs.

        Args:
            payloads: the other payloads, in the order of their numbers; each starts at offset 0.
            runs: runs of all chunks, in order; or their stored form.
        """
        self.payloads = tuple(payloads)
        # Packed as they are stored, since there may be as many as chunks.
        packed = runs if isinstance(runs, bytes) else b"".join(run.packed() for run in runs)
        self._runs = np.frombuffer(packed, _WORD).reshape(-1, _RUN.size // _WORD.itemsize)
        # The chunk after the last one of each run.
        self._ends = np.cumsum(self._runs[:, -1], dtype=np.int64)

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs, in order."""
        return tuple(Run(*fields) for fields in self._runs.tolist())

    @property
    def chunk_count(self) -> int:
        """Number of chunks."""
        return int(self._ends[-1]) if self._ends.size else 0

    def place(self, chunk: int) -> tuple[int, int]:
        """Return the number of the payload that has a chunk's record, and the record's number there."""
        at = int(np.searchsorted(self._ends, chunk, side="right"))
        payload, first, count = self._runs[at].tolist()
        return payload, first + chunk - (int(self._ends[at]) - count)

    def packed(self) -> bytes:
        """Return the stored form."""
        return b"".join(
            (
                _HEAD.pack(len(self.payloads), len(self._runs)),
                self._runs.tobytes(),
                *(
                    _PAYLOAD.pack(payload.length, payload.index_length, payload.index_crc32c, len(payload.key))
                    + payload.key.encode("ascii")
                    for payload in self.payloads
                ),
            )
        )

    @classmethod
    def parse(cls, stored: bytes) -> ChunkTable:
        """Return the table of this stored form, whose checksum the caller has verified.

        Raises:
            ValueError: it is not a stored form.
        """
        try:
            payload_count, run_count = _HEAD.unpack_from(stored)
            at = _HEAD.size + run_count * _RUN.size
            runs = stored[_HEAD.size : at]
            payloads = []
            for _ in range(payload_count):
                length, index_length, index_crc32c, key_bytes = _PAYLOAD.unpack_from(stored, at)
                at += _PAYLOAD.size + key_bytes
                key = stored[at - key_bytes : at].decode("ascii")
                payloads.append(Locator(key, 0, length, index_length, index_crc32c))
        except struct.error as error:
            raise ValueError(f"the chunk table is too short: {error}") from error
        if at != len(stored) or len(runs) != run_count * _RUN.size:
            raise ValueError(f"a chunk table of {payload_count} payloads and {run_count} runs has {len(stored)} bytes")
        return cls(payloads, runs)
