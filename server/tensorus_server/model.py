"""The engine's values: what a dataset and a tensor are, apart from protobuf, SQL and files."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from tensorus_codecs.plain_dataclass import plain_dataclass
from tensorus_server.compact_json import to_json
from tensorus_server.filter.metadata_index import index_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tensorus_codecs.dtypes import DType
    from tensorus_codecs.policy import StoragePolicy
    from tensorus_codecs.summary import ValueSummary
    from tensorus_server.errors import DataCorruptError
    from tensorus_server.filter.metadata_index import MetadataIndex

__all__ = [
    "ByteRange",
    "Checksum",
    "DTypeShare",
    "Dataset",
    "DatasetStats",
    "EncodingShare",
    "Locator",
    "Metadata",
    "NewTensor",
    "Outcome",
    "Part",
    "Precision",
    "Read",
    "Schema",
    "Segment",
    "SliceSet",
    "StorageReport",
    "StoreIdentity",
    "Tensor",
    "TensorSpec",
]

Metadata: TypeAlias = "dict[str, Any]"
"""None, bool, int, float, str, and lists and dicts of these; the values are the user's, so their type is open."""


@dataclass(frozen=True)
class TensorSpec:
    """Dtype and shape."""

    dtype: DType
    shape: tuple[int, ...]
    """Sizes, each >= 0; empty: a scalar."""

    @cached_property
    def element_count(self) -> int:
        """The product of the shape; 1 for a scalar."""
        return math.prod(self.shape)

    @cached_property
    def canonical_bytes(self) -> int:
        """Bytes of the canonical form."""
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
    """What every tensor of a dataset must look like; None allows anything."""

    dtype: str | None = None
    """A dtype's name."""
    shape: tuple[int, ...] | None = None
    """One size per axis; -1: any."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Keys that must be present, each with "boolean", "integer", "number", "text", "list", "map" or "any"."""

    @property
    def is_empty(self) -> bool:
        """Whether it allows everything."""
        return self.dtype is None and self.shape is None and not self.metadata


@dataclass(frozen=True)
class Dataset:
    """A named collection of tensors."""

    number: int
    """Within the catalogue; never reused, never shown."""
    name: str
    """Unique."""
    policy: StoragePolicy
    """Of tensors that bring none."""
    schema: Schema
    """What inserts must fit."""
    created_us: int
    """Microseconds since 1970."""


@plain_dataclass
class NewTensor:
    """A tensor as its writer announces it."""

    id: str
    """Unique within its dataset."""
    spec: TensorSpec
    """Dtype and shape."""
    metadata: Metadata
    """The user's."""
    policy: StoragePolicy | None = None
    """None: the dataset's."""
    source_checksum: Checksum | None = None
    """Of the canonical bytes; may also come with the last segment."""
    if_generation_match: int | None = None
    """The generation that this replaces; 0: the id must be free; None: nothing is replaced."""
    replace: bool = False
    """Whether it takes the place of whatever has the id."""

    @cached_property
    def index(self) -> MetadataIndex:
        """What an index is to hold of the metadata. Worked out once, by whoever asks first."""
        return index_of(self.metadata)

    @cached_property
    def metadata_json(self) -> str:
        """The metadata as they are kept. Worked out once, likewise."""
        return to_json(self.metadata) if self.metadata else "{}"


class Precision(Enum):
    """How exact the values of a read must be."""

    BF16 = "bf16"
    """float32 rounded to bfloat16, where chunks are stored so that this saves reading them whole."""


class Outcome(Enum):
    """What an insert did with a tensor."""

    INSERTED = "inserted"
    """It is new."""
    ALREADY_STORED = "already stored"
    """It was there already, and keeps all that was asked for: nothing was stored."""
    REPLACED = "replaced"
    """It took the place of another tensor."""


@dataclass(frozen=True)
class EncodingShare:
    """How many chunks got one encoding: of a tensor, or of a dataset."""

    encoding: tuple[dict[str, Any], ...]
    """As JSON: readable where a codec of it is not installed. Empty: as it is."""
    chunks: int
    """Number of chunks."""
    canonical_bytes: int
    """Of these chunks."""
    stored_bytes: int
    """Of these chunks' records."""


@dataclass(frozen=True)
class StorageReport:
    """What storing did to a tensor; measured."""

    canonical_bytes: int
    """Before."""
    quantized_bytes: int
    """After the quantizer, its parameters included, before filter and compressor."""
    stored_bytes: int
    """On disk: records and chunk index."""
    relative_error: float
    """L2 norm of the error over L2 norm of the tensor; 0 where lossless."""
    max_absolute_error: float
    """Largest error of a component."""
    lossy: bool
    """Whether any chunk was quantized."""
    encodings: tuple[EncodingShare, ...]
    """Which chunks got what."""
    fallback_reason: str
    """Why the policy could not be followed; empty where it was."""


@plain_dataclass
class Locator:
    """Where a payload lies, and what its chunk index must be."""

    key: str
    """Of the chunk store; for an inline payload, its random name alone."""
    offset: int
    """Bytes before the payload."""
    length: int
    """Bytes of records and chunk index."""
    index_length: int
    """Bytes of the chunk index, at the payload's end."""
    index_crc32c: int
    """Of the chunk index."""

    @property
    def payload_key(self) -> str:
        """The random name that seeds the chunks' CRCs."""
        return self.key.rpartition("/")[2]


@plain_dataclass
class Tensor:
    """A committed tensor: everything but its bytes."""

    dataset: str
    """Name of its dataset."""
    id: str
    """Unique within its dataset."""
    generation: int
    """Unique within the catalogue; grows."""
    ordinal: int
    """Its number within its dataset: from 1 in the order of commit, never reused. 0: it was only validated."""
    spec: TensorSpec
    """Dtype and shape."""
    metadata: Metadata
    """The user's."""
    policy: Mapping[str, Any] | None
    """The insert's own, as JSON; None: it followed the dataset's."""
    chunk_bytes: int
    """Canonical bytes per chunk; the last one may be shorter."""
    source_checksum: Checksum
    """Of what the writer sent."""
    value_checksum: Checksum
    """Of what every reader gets."""
    storage: StorageReport
    """What storing did."""
    values: ValueSummary | None
    """None for dtypes without."""
    created_us: int
    """Microseconds since 1970."""
    locator: Locator
    """Where its payload is."""
    inline_payload: bytes | None = field(default=None, repr=False)
    """The payload itself where it is kept in the catalogue and was asked for."""
    outcome: Outcome | None = field(default=None, compare=False, repr=False)
    """What the insert did that this is the result of; None where the tensor was read."""


@dataclass(frozen=True)
class DTypeShare:
    """A dtype's part of a dataset."""

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
    """Which chunks got what: each encoding once, settings included; the largest stored share first."""
    damages: tuple[DataCorruptError, ...] = ()
    """Tensors that are damaged, the first of them: nothing of them is in the sums."""
    damaged_tensors: int = 0
    """How many they are in all."""


@plain_dataclass
class Segment:
    """A run of one tensor's bytes within an insert."""

    item: int
    """Number of the tensor within the stream."""
    offset: int
    """Of its first canonical byte."""
    decoded_length: int
    """Canonical bytes."""
    last: bool
    """Whether it ends its item."""
    tensor: NewTensor | None = None
    """On the first segment of an item."""
    source_checksum: Checksum | None = None
    """On the last segment, where the first did not bring it."""


@dataclass(frozen=True)
class ByteRange:
    """A run of canonical bytes."""

    offset: int
    length: int | None
    """None: to the end."""


@dataclass(frozen=True)
class SliceSet:
    """`x[axes..., ..., trailing_axes...]`."""

    axes: tuple[slice, ...]
    """Of the first axes."""
    trailing_axes: tuple[slice, ...] = ()
    """Of the last axes."""


Part: TypeAlias = "ByteRange | SliceSet | None"
"""What of a tensor to read; None: all."""


@plain_dataclass
class Read:
    """A wish to read one tensor."""

    id: str
    part: Part = None
    generation: int | None = None
    """None: whichever is there."""


@dataclass(frozen=True)
class StoreIdentity:
    """What catalogue and chunk store both carry."""

    id: str
    """128 random bits, as 32 hex digits; never changes, except where a loss is accepted."""
    epoch: int
    """From 1; of two copies of one store, the one with the higher epoch is newer."""
