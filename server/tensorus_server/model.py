"""The values that the engine works with, such as datasets and tensors, independent of protobuf, SQL and files."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from tensorus_codecs.plain_dataclass import plain_dataclass
from tensorus_protos.rules import to_json
from tensorus_server.filter.metadata_index import index_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tensorus_codecs.dtypes import DType
    from tensorus_codecs.policy import StoragePolicy
    from tensorus_codecs.summary import ValueSummary
    from tensorus_server.errors import DataCorruptError
    from tensorus_server.filter.metadata_index import MetadataIndex

__all__ = [
    "Append",
    "At",
    "ByteRange",
    "Checksum",
    "DTypeShare",
    "Dataset",
    "DatasetStats",
    "Edit",
    "EncodingShare",
    "Locator",
    "Metadata",
    "NewTensor",
    "Outcome",
    "Part",
    "Precision",
    "Read",
    "Restored",
    "Schema",
    "Segment",
    "SliceSet",
    "Snapshot",
    "StorageReport",
    "StoreIdentity",
    "Tensor",
    "TensorReference",
    "TensorSpec",
    "Write",
]

Metadata: TypeAlias = "dict[str, Any]"
"""None, bool, int, float, str, and lists and dicts of these. `Any`: users choose the values."""


@dataclass(frozen=True)
class TensorSpec:
    """Dtype and shape."""

    dtype: DType
    shape: tuple[int, ...]
    """One size per axis, each at least 0; empty for a scalar."""

    @cached_property
    def element_count(self) -> int:
        """The product of the shape; 1 for a scalar."""
        return math.prod(self.shape)

    @cached_property
    def canonical_bytes(self) -> int:
        """Size of the canonical form in bytes."""
        return self.element_count * self.dtype.element_bytes


@plain_dataclass
class Checksum:
    """A checksum of canonical bytes."""

    algorithm: str
    """"xxh3_128" or "crc32c"."""
    value: bytes
    """Big-endian."""


@dataclass(frozen=True)
class Schema:
    """The form that every tensor of a dataset must have. A field that is None allows anything."""

    dtype: str | None = None
    """A dtype's name."""
    shape: tuple[int, ...] | None = None
    """One size per axis; -1 allows any size."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Required keys, each with its type: "boolean", "integer", "number", "text", "list", "map" or "any"."""

    @property
    def is_empty(self) -> bool:
        """Whether it allows everything."""
        return self.dtype is None and self.shape is None and not self.metadata


@dataclass(frozen=True)
class Dataset:
    """A named collection of tensors."""

    number: int
    """Identifies the dataset within the catalogue; never reused, and not shown to users."""
    name: str
    """Unique within the store."""
    policy: StoragePolicy
    """The policy of tensors that have none of their own."""
    schema: Schema
    """The form that inserted tensors must have."""
    created_us: int
    """Microseconds since 1970."""
    retention_s: int = 0
    """How long replaced and deleted tensors stay readable, in seconds."""


@dataclass(frozen=True)
class At:
    """An earlier state of a dataset. Exactly one field is set."""

    snapshot: str | None = None
    """Name of a snapshot of the dataset."""
    generation: int | None = None
    """The state after the change with this generation, and before the next one."""
    time_us: int | None = None
    """The state at this time, in microseconds since 1970."""


@dataclass(frozen=True)
class Snapshot:
    """A named state of a dataset, which stays readable until the snapshot is dropped."""

    dataset: str
    """Name of its dataset."""
    name: str
    """Unique within its dataset."""
    generation: int
    """Its tensors have smaller generations; later changes have larger ones."""
    created_us: int
    """Microseconds since 1970."""


@dataclass(frozen=True)
class Restored:
    """The result of a restore."""

    generation: int
    """The generation of the restored state."""
    restored: int
    """Number of tensors that were brought back, with new generations."""
    deleted: int
    """Number of tensors that were deleted, because the state has none with their ids."""
    unchanged: int
    """Number of tensors that were as in that state already."""


@dataclass(frozen=True)
class Append:
    """An edit that adds values at the end of an axis."""

    axis: int
    """Negative axes count from the last."""


@dataclass(frozen=True)
class Write:
    """An edit that replaces the values of a slice."""

    slices: SliceSet


Edit: TypeAlias = "Append | Write"
"""A change of a stored tensor."""


@dataclass(frozen=True)
class TensorReference:
    """A stored tensor that another one refers to when it is inserted."""

    dataset: str
    """Name of its dataset; empty: the dataset of the insert."""
    id: str
    at: At | None = None
    """The state of its dataset that has it; None: now."""


@plain_dataclass
class NewTensor:
    """A tensor as its writer announces it."""

    id: str
    """Unique within its dataset."""
    spec: TensorSpec
    """Dtype and shape."""
    metadata: Metadata
    """The user's metadata."""
    policy: StoragePolicy | None = None
    """None: the dataset's policy."""
    source_checksum: Checksum | None = None
    """Checksum of the canonical bytes; may instead come with the last segment."""
    if_generation_match: int | None = None
    """The generation to replace; 0: the id must be free; None: replace nothing."""
    replace: bool = False
    """Whether to replace any tensor that has the id."""
    edit: Edit | None = None
    """How the tensor with this id changes; `spec` is then that of the values sent. None: this is a whole tensor."""
    base: TensorReference | None = None
    """The tensor to which chunks are stored as differences where that pays; None: every chunk is stored by itself."""

    @cached_property
    def index(self) -> MetadataIndex:
        """The index entries for the metadata, computed on first use."""
        return index_of(self.metadata)

    @cached_property
    def metadata_json(self) -> str:
        """The metadata as JSON, as the catalogue stores it, computed on first use."""
        return to_json(self.metadata) if self.metadata else "{}"


class Precision(Enum):
    """How exact the values of a read must be."""

    BF16 = "bf16"
    """float32 rounded to bfloat16, where chunks are stored so that this saves reading them whole."""


class Outcome(Enum):
    """The result of an insert for one tensor."""

    INSERTED = "inserted"
    """The id was free."""
    ALREADY_STORED = "already stored"
    """Nothing was stored, since the existing tensor satisfies the request."""
    REPLACED = "replaced"
    """The tensor replaced another one."""
    CHANGED = "changed"
    """Values were appended to the tensor, or written into it."""


@dataclass(frozen=True)
class EncodingShare:
    """The chunks of a tensor or a dataset that have the same encoding."""

    encoding: tuple[dict[str, Any], ...]
    """As JSON, which can be read even if a codec is not installed. Empty: raw."""
    chunks: int
    """Number of chunks."""
    canonical_bytes: int
    """Canonical bytes of these chunks."""
    stored_bytes: int
    """Bytes of these chunks' records."""


@dataclass(frozen=True)
class StorageReport:
    """The measured size and error of a stored tensor."""

    canonical_bytes: int
    """Size before encoding."""
    quantized_bytes: int
    """Size after the quantizer, including its parameters, before filter and compressor."""
    stored_bytes: int
    """Size on disk: records and chunk index."""
    relative_error: float
    """L2 norm of the error divided by the L2 norm of the tensor; 0 if lossless."""
    max_absolute_error: float
    """Largest error of a component."""
    lossy: bool
    """Whether any chunk was quantized."""
    encodings: tuple[EncodingShare, ...]
    """The encodings in use."""
    fallback_reason: str
    """Why the policy could not be followed; empty if it was."""


@plain_dataclass
class Locator:
    """Where a payload is stored, and the checksum of its chunk index."""

    key: str
    """Its key in the chunk store; for an inline payload, just its random name."""
    offset: int
    """Bytes before the payload in its container."""
    length: int
    """Size of records and chunk index together."""
    index_length: int
    """Size of the chunk index, which is at the end of the payload."""
    index_crc32c: int
    """CRC32C of the chunk index."""

    @property
    def payload_key(self) -> str:
        """The random name, which seeds the CRCs of the chunks."""
        return self.key.rpartition("/")[2]


@plain_dataclass
class Tensor:
    """A committed tensor, without its bytes."""

    dataset: str
    """Name of its dataset."""
    id: str
    """Unique within its dataset."""
    generation: int
    """Unique within the catalogue; later commits have larger ones."""
    ordinal: int
    """Its number within its dataset, from 1 in commit order, never reused. 0: it was only validated."""
    spec: TensorSpec
    """Dtype and shape."""
    metadata: Metadata
    """The user's metadata."""
    policy: Mapping[str, Any] | None
    """The insert's own policy, as JSON; None: the dataset's policy applied."""
    chunk_bytes: int
    """Canonical bytes per chunk; the last one may be shorter."""
    source_checksum: Checksum
    """Checksum of the bytes that the writer sent."""
    value_checksum: Checksum
    """Checksum of the bytes that readers get."""
    storage: StorageReport
    """Its measured size and error."""
    values: ValueSummary | None
    """None: its dtype has no summary."""
    created_us: int
    """When it was committed, in microseconds since 1970."""
    locator: Locator
    """Where its payload is."""
    inline_payload: bytes | None = field(default=None, repr=False)
    """The payload, if it is stored in the catalogue and was requested."""
    outcome: Outcome | None = field(default=None, compare=False, repr=False)
    """The outcome, if this is the result of an insert; None: the tensor was read."""


@dataclass(frozen=True)
class DTypeShare:
    """The tensors of a dataset that have the same dtype."""

    dtype: str
    tensors: int
    canonical_bytes: int
    stored_bytes: int


@dataclass(frozen=True)
class DatasetStats:
    """Sums over the tensors of a dataset."""

    tensors: int
    lossy_tensors: int
    canonical_bytes: int
    quantized_bytes: int
    stored_bytes: int
    worst_relative_error: float
    worst_max_absolute_error: float
    dtypes: tuple[DTypeShare, ...]
    encodings: tuple[EncodingShare, ...]
    """The encodings in use, each once (settings included), sorted by stored bytes, the largest first."""
    damages: tuple[DataCorruptError, ...] = ()
    """The first damaged tensors. The sums include no damaged tensors."""
    damaged_tensors: int = 0
    """Number of all damaged tensors."""
    unique_bytes: int = 0
    """The canonical bytes, with those of tensors that share a payload counted once."""
    unique_stored_bytes: int = 0
    """Likewise of the stored bytes."""


@plain_dataclass
class Segment:
    """A run of one tensor's bytes within an insert."""

    item: int
    """Number of the tensor within the stream."""
    offset: int
    """Offset of its first canonical byte within the tensor."""
    decoded_length: int
    """Number of canonical bytes."""
    last: bool
    """Whether it ends its item."""
    tensor: NewTensor | None = None
    """The announced tensor; only in the first segment of an item."""
    source_checksum: Checksum | None = None
    """The tensor's checksum; only in the last segment, if the first one had none."""


@dataclass(frozen=True)
class ByteRange:
    """A run of canonical bytes."""

    offset: int
    length: int | None
    """None: up to the end."""


@dataclass(frozen=True)
class SliceSet:
    """Slices of a tensor, as in `x[axes..., ..., trailing_axes...]`."""

    axes: tuple[slice, ...]
    """Slices of the first axes."""
    trailing_axes: tuple[slice, ...] = ()
    """Slices of the last axes."""


Part: TypeAlias = "ByteRange | SliceSet | None"
"""The part of a tensor to read; None: the whole tensor."""


@plain_dataclass
class Read:
    """A request to read one tensor."""

    id: str
    part: Part = None
    generation: int | None = None
    """The generation that the tensor must have; None: any."""


@dataclass(frozen=True)
class StoreIdentity:
    """The identity of a store, which its catalogue and its chunk store both hold."""

    id: str
    """128 random bits, as 32 hex digits; changes only if a loss is accepted."""
    epoch: int
    """Starts at 1; of two copies of a store, the one with the higher epoch is newer."""
