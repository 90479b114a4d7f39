"""The values that go into Tensorus and come out of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tensorus._lazy import LazyFields

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from types import EllipsisType

__all__ = [
    "AsArray",
    "DTypeShare",
    "DatasetInfo",
    "DatasetStats",
    "EncodingShare",
    "Index",
    "Metadata",
    "NewTensor",
    "OnConflict",
    "Policy",
    "PolicyExplanation",
    "Progress",
    "Record",
    "Schema",
    "TensorInfo",
    "ValueSummary",
]

Metadata: TypeAlias = "dict[str, Any]"
"""None, bool, int, float, str, and lists and dicts of these. `Any`: which of them is the user's to know."""

Index: TypeAlias = "int | slice | EllipsisType | tuple[int | slice | EllipsisType, ...]"
"""What `get(index=...)` takes: what NumPy's basic indexing does, without None."""

AsArray: TypeAlias = Literal["torch", "numpy"]
"""Which kind of array to return."""


OnConflict: TypeAlias = Literal["error", "replace"]
"""What an insert does where another tensor has its id: fail, or take its place."""


@dataclass(frozen=True)
class Policy:
    """How tensors are to be stored. At most one of `preset` and `encoding`; neither: the server's default preset."""

    preset: str | None = None
    """A named policy: "none", "fast", "lossless", "archive", "balanced", "bf16", "maximum", "extreme", "auto", "fp16_only",
    "int8_only"."""
    encoding: Sequence[str | Mapping[str, Any]] | None = None
    """A chain of codecs: ids, or `{"id": ..., "configuration": {...}}`. For example `["fp16", "zstd"]`."""
    max_relative_error: float | None = None
    """L2 norm of the error over L2 norm, at most, for every chunk; a chunk that would break it gets a finer encoding,
    at last a lossless one. The preset "auto" takes the smallest that keeps it."""
    max_absolute_error: float | None = None
    """Largest error of an element, at most; likewise."""
    chunk_bytes: int | None = None
    """Canonical bytes per chunk, a multiple of 16 from 4096 to 2 MiB; None: 1 MiB."""


@dataclass(frozen=True)
class Schema:
    """What every tensor of a dataset must look like; None allows anything."""

    dtype: str | None = None
    """A dtype's name, such as "float32"."""
    shape: Sequence[int | None] | None = None
    """One size per axis; None: any."""
    metadata: Mapping[str, type | None] = field(default_factory=dict)
    """Keys that must be present, with bool, int, float, str, list, dict, or None for any type."""


@dataclass(frozen=True)
class EncodingShare:
    """How many chunks got one encoding: of a tensor, or of a dataset."""

    codecs: tuple[str, ...]
    """Ids of the codecs, in the order in which they encoded; empty: stored as it is."""
    chunks: int
    """Number of chunks."""
    canonical_bytes: int
    """Of these chunks."""
    stored_bytes: int
    """Of these chunks' records, without the chunk index."""


class _Ratios:
    """What storing saved, and who did: of whatever has the three sizes."""

    canonical_bytes: int
    quantized_bytes: int
    stored_bytes: int

    @property
    def ratio(self) -> float:
        """Canonical bytes over bytes on disk: `quantizer_ratio` times `compressor_ratio`; 1 where empty."""
        return _ratio(self.canonical_bytes, self.stored_bytes)

    @property
    def quantizer_ratio(self) -> float:
        """Canonical bytes over bytes after the quantizer, what it contributed; 1 where lossless or empty."""
        return _ratio(self.canonical_bytes, self.quantized_bytes)

    @property
    def compressor_ratio(self) -> float:
        """Bytes after the quantizer over bytes on disk: what filter and compressor contributed; 1 where empty.

        All framing counts against them: below 1 where it is more than they saved.
        """
        return _ratio(self.quantized_bytes, self.stored_bytes)


@dataclass(frozen=True)
class ValueSummary:
    """A tensor's values at a glance. The first five are over finite values, and None where there are none."""

    min: float | None
    max: float | None
    mean: float | None
    standard_deviation: float | None
    l2_norm: float | None
    zero_count: int
    nan_count: int
    infinity_count: int


@dataclass(frozen=True)
class TensorInfo(_Ratios, LazyFields):
    """Everything about a stored tensor but its values; sizes and errors are measured."""

    dataset: str
    id: str
    dtype: str
    """NumPy's or ml_dtypes' name; `dtype_<number>` where this version does not know it."""
    shape: tuple[int, ...]
    metadata: Metadata
    generation: int
    """Unique within the store; another one after an overwrite."""
    ordinal: int
    """Its number within the dataset: from 1 in the order of commit, never reused; another one after an overwrite."""
    canonical_bytes: int
    """Of the values as they are: dense, without framing."""
    quantized_bytes: int
    """After the quantizer, its parameters included, before filter and compressor."""
    stored_bytes: int
    """On disk, all framing included."""
    lossy: bool
    """Whether any value was quantized."""
    relative_error: float
    """L2 norm of the error over L2 norm of the tensor; 0 where lossless."""
    max_absolute_error: float
    """Largest error of an element."""
    encodings: tuple[EncodingShare, ...]
    """Which chunks got what."""
    fallback_reason: str
    """Why the policy could not be followed; empty where it was."""
    values: ValueSummary | None
    """None for dtypes without."""
    source_checksum: str
    """XXH3-128 of the canonical bytes as they were sent, in hexadecimal."""
    value_checksum: str
    """XXH3-128 of the canonical bytes that `get` returns, in hexadecimal; the same where lossless."""
    created: datetime
    """When it was committed, UTC."""
    inserted: bool = field(default=False, compare=False)
    """Whether the insert that returned this stored it. False: the same tensor was there already, with all that was asked for;
    always in what reads return. After a lost connection an insert may find its own tensor there: that is False, too."""


@dataclass(frozen=True)
class DatasetInfo:
    """A dataset."""

    name: str
    policy: Policy
    """Of tensors that bring none."""
    schema: Schema
    created: datetime
    """UTC."""


@dataclass(frozen=True)
class DTypeShare:
    """A dtype's part of a dataset."""

    dtype: str
    tensors: int
    canonical_bytes: int
    stored_bytes: int


@dataclass(frozen=True)
class DatasetStats(_Ratios):
    """Sums over a dataset's tensors."""

    tensors: int
    lossy_tensors: int
    canonical_bytes: int
    quantized_bytes: int
    stored_bytes: int
    worst_relative_error: float
    """The largest of its tensors'."""
    worst_max_absolute_error: float
    """The largest of its tensors'."""
    dtypes: tuple[DTypeShare, ...]
    encodings: tuple[EncodingShare, ...]
    """Which chunks got what: the same codecs once, whatever their settings; the largest stored share first."""
    damaged_tensors: int = 0
    """Tensors that are damaged where the store keeps what it knows of them: nothing of them is in the sums."""
    damaged_ids: tuple[str, ...] = ()
    """Their ids, or the first of them."""


@dataclass(frozen=True)
class PolicyExplanation(_Ratios):
    """What a policy would do to a sample of values; measured, on the machine that would store them."""

    policy: Policy
    canonical_bytes: int
    """Of the sample."""
    quantized_bytes: int
    """After the quantizer, its parameters included, before filter and compressor."""
    stored_bytes: int
    """On disk, all framing included."""
    lossy: bool
    """Whether any value was quantized."""
    relative_error: float
    """L2 norm of the error over L2 norm of the sample; 0 where lossless."""
    max_absolute_error: float
    """Largest error of an element."""
    encodings: tuple[EncodingShare, ...]
    """Which chunks got what."""
    fallback_reason: str
    """Why the policy could not be followed; empty where it was."""
    encode_bytes_per_second: float
    """Canonical bytes that one core encodes in a second, as an insert does; 0 where the sample is empty."""
    decode_bytes_per_second: float
    """Canonical bytes that one core decodes in a second, as a read does; 0 where the sample is empty."""
    worst_relative_error: float = 0.0
    """Of a sample of several tensors, the largest of theirs; of one, its own. 0 from servers that do not tell."""


@dataclass(frozen=True)
class Record:
    """A tensor that came out of a query."""

    info: TensorInfo
    tensor: Any
    """A torch tensor or NumPy array; None where only headers were asked for."""


@dataclass(frozen=True)
class NewTensor:
    """A tensor for `insert_many`, with what `insert` takes beside it."""

    tensor: Any
    """A torch tensor, a NumPy array, or anything with `__array__` or `__dlpack__`."""
    id: str | None = None
    """None: a random one."""
    metadata: Mapping[str, Any] | None = None
    policy: Policy | None = None
    """None: the dataset's."""
    if_generation_match: int | None = None
    """The generation of the tensor that this replaces; 0: there must be none; None: as `on_conflict` says."""
    on_conflict: OnConflict | None = None
    """What to do where another tensor has the id; None: as `insert_many` says."""


@dataclass(frozen=True)
class Progress:
    """How far a transfer is."""

    id: str | None
    """Of the tensor; None: of all tensors of an `insert_many`."""
    done_bytes: int
    """Canonical bytes that the other side has taken, or that have arrived."""
    total_bytes: int | None
    """Canonical bytes of the tensor, or of the part that is read; None where nobody knows yet."""
    interruptions: int = 0
    """How often the transfer was interrupted and went on: told at each, before it does."""


def _ratio(before_bytes: int, after_bytes: int) -> float:
    return before_bytes / after_bytes if before_bytes and after_bytes else 1.0
