"""The footer of a payload file: a copy of the tensor's row in the catalogue, so that the row can be recovered.

It follows the chunk index. The length in the locator excludes it, so readers of payloads never see it, and files without a
footer stay readable. Little-endian.

     at      size  field
      0         n  JSON, UTF-8; NaN and infinities in Python's notation
      n         4  n
      n + 4     4  version, 1
      n + 8     4  CRC32C of all of the footer before it
      n + 12    8  "tensorus"

It holds what was known when the tensor was sealed. Only the catalogue has the tensor's ordinal, metadata that was replaced
later, and the policy and schema of its dataset. Inline payloads, which are in the catalogue, have no footer.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tensorus_codecs.checksum import crc32c
from tensorus_codecs.dtypes import dtype_by_number, opaque_dtype
from tensorus_codecs.errors import CodecError
from tensorus_codecs.policy import StoragePolicy
from tensorus_codecs.summary import ValueSummary
from tensorus_server.catalogue.abc import StoredTensor
from tensorus_server.model import Checksum, EncodingShare, Locator, NewTensor, StorageReport, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus_server.model import Dataset

__all__ = ["Footer", "FooterError", "pack_footer", "read_footer"]

VERSION = 1

_END = struct.Struct("<III8s")
_CHECKED = struct.Struct("<II")
_MAGIC = b"tensorus"

_JSON_BYTES_MAX = 1024 * 1024
"""Enough for 64 KiB of metadata, escaped, and the shares of some hundred encodings."""


class FooterError(Exception):
    """A file has no footer, or the footer is damaged."""


@dataclass(frozen=True)
class Footer:
    """The content of a footer."""

    dataset: str
    """Name of the tensor's dataset."""
    id: str
    sealed_us: int
    """When the footer was written, which is just before the commit, in microseconds since 1970."""
    payload_bytes: int
    """Size of records and chunk index together, which is the footer's offset."""
    fields: dict[str, Any]
    """All fields, as parsed from JSON."""

    @property
    def payload_key(self) -> str:
        """The random name that seeds the CRCs of the payload's chunks."""
        return str(self.fields["payload_key"])

    def stored_tensor(self, dataset: Dataset, key: str, *, if_generation_match: int | None = None) -> StoredTensor:
        """Return the tensor, ready to be committed.

        Args:
            dataset: the dataset that the footer names.
            key: the payload's key in the chunk store.
            if_generation_match: the generation of the damaged tensor that it replaces; None: it replaces none.

        Raises:
            FooterError: a newer version of Tensorus wrote the footer, and this one does not understand a field.
        """
        fields = self.fields
        try:
            dtype = dtype_by_number(fields["dtype"]) or opaque_dtype(fields["dtype"], 8 * fields["element_bytes"])
            storage = dict(fields["storage"])
            shares = [
                EncodingShare(**(share | {"encoding": tuple(share["encoding"])})) for share in storage["encodings"]
            ]
            policy, values = fields["policy"], fields["values"]
            return StoredTensor(
                dataset=dataset,
                new=NewTensor(
                    self.id,
                    TensorSpec(dtype, tuple(fields["shape"])),
                    fields["metadata"],
                    None if policy is None else StoragePolicy.from_json(policy),
                    if_generation_match=if_generation_match,
                ),
                chunk_bytes=fields["chunk_bytes"],
                source_checksum=_checksum_from(fields["source_checksum"]),
                value_checksum=_checksum_from(fields["value_checksum"]),
                storage=StorageReport(**(storage | {"encodings": tuple(shares)})),
                values=None if values is None else ValueSummary(**values),
                locator=Locator(key, 0, self.payload_bytes, fields["index_length"], fields["index_crc32c"]),
                inline_payload=None,
                source_crc32c=fields["source_crc32c"],
                created_us=self.sealed_us,
            )
        except (LookupError, TypeError, ValueError, CodecError) as error:
            raise FooterError(f"a field of the footer is invalid: {type(error).__name__}: {error}") from error


def pack_footer(stored: StoredTensor, sealed_us: int) -> bytes:
    """Return the footer of a tensor whose payload is complete."""
    new, policy, locator = stored.new, stored.new.policy, stored.locator
    fields = {
        "dataset": stored.dataset.name,
        "id": new.id,
        "dtype": new.spec.dtype.number,
        "element_bytes": new.spec.dtype.element_bytes,
        "shape": new.spec.shape,
        "metadata": new.metadata,
        "policy": None if policy is None else policy.to_json(),
        "chunk_bytes": stored.chunk_bytes,
        "source_checksum": [stored.source_checksum.algorithm, stored.source_checksum.value.hex()],
        "source_crc32c": stored.source_crc32c,
        "value_checksum": [stored.value_checksum.algorithm, stored.value_checksum.value.hex()],
        "storage": asdict(stored.storage),
        "values": None if stored.values is None else asdict(stored.values),
        "payload_key": locator.payload_key,
        "index_length": locator.index_length,
        "index_crc32c": locator.index_crc32c,
        "sealed_us": sealed_us,
    }
    text = json.dumps(fields, separators=(",", ":")).encode()
    checked = text + _CHECKED.pack(len(text), VERSION)
    return text + _END.pack(len(text), VERSION, crc32c(checked), _MAGIC)


def read_footer(read: Callable[[int, int], bytes], file_bytes: int) -> Footer:
    """Read and check the footer of a file.

    Args:
        read: takes an offset and a length, and returns the bytes there.
        file_bytes: the file's length.

    Raises:
        FooterError: the file has no footer, or the footer is damaged.
    """
    if file_bytes < _END.size:
        raise FooterError(f"the file has {file_bytes} bytes, too few for a footer")
    end = read(file_bytes - _END.size, _END.size)
    json_bytes, version, checksum, magic = _END.unpack(end)
    if magic != _MAGIC:
        raise FooterError("the file ends without a footer: an older version wrote it, or it is damaged")
    json_bytes_max = min(_JSON_BYTES_MAX, file_bytes - _END.size)
    if json_bytes > json_bytes_max:
        raise FooterError(f"JSON of the footer is {json_bytes} bytes, limit is {json_bytes_max} bytes")
    payload_bytes = file_bytes - _END.size - json_bytes
    text = read(payload_bytes, json_bytes)
    if (found := crc32c(text + end[: _CHECKED.size])) != checksum:
        raise FooterError(f"CRC32C of the footer is {found:#010x}, expected {checksum:#010x}")
    if version != VERSION:
        raise FooterError(f"the footer has version {version}, this version of Tensorus knows {VERSION}")
    fields = json.loads(text)
    return Footer(fields["dataset"], fields["id"], fields["sealed_us"], payload_bytes, fields)


def _checksum_from(fields: list[str]) -> Checksum:
    algorithm, value = fields
    return Checksum(algorithm, bytes.fromhex(value))
