"""The value types of the public API: what calls take and what they return."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tensorus._lazy import LazyFields

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from types import EllipsisType

__all__ = [
    "AsArray",
    "At",
    "DTypeShare",
    "Damage",
    "DatasetInfo",
    "DatasetStats",
    "EncodingShare",
    "Index",
    "Metadata",
    "NewTensor",
    "OnConflict",
    "Policy",
    "PolicyExplanation",
    "Precision",
    "Progress",
    "Record",
    "RestoreReport",
    "Schema",
    "SnapshotInfo",
    "StoreStats",
    "TensorInfo",
    "ValueSummary",
    "VerifyProgress",
    "VerifyReport",
]

Metadata: TypeAlias = "dict[str, Any]"
"""None, bool, int, float, str, and lists and dicts of these. `Any`, because only the user knows which of them."""

Index: TypeAlias = "int | slice | EllipsisType | tuple[int | slice | EllipsisType, ...]"
"""The argument of `get(index=...)`: NumPy basic indexing without None."""

AsArray: TypeAlias = Literal["torch", "numpy"]
"""The kind of array to return."""

Precision: TypeAlias = Literal["bf16"]
"""How exact the values of a read must be: "bf16" allows float32 to be rounded to bfloat16."""

At: TypeAlias = "str | int | datetime"
"""A state of a dataset: the name of a snapshot, a generation, or a time. A time without a time zone is local time."""

Base: TypeAlias = "str | tuple[str, str] | tuple[str, str, At] | TensorInfo"
"""A stored tensor: its id in the same dataset; dataset and id, or dataset, id and state; or the description of it."""

OnConflict: TypeAlias = Literal["error", "replace"]
"""What an insert does if another tensor has its id: fail, or replace it."""


@dataclass(frozen=True)
class Policy:
    """How tensors are stored. Set at most one of `preset` and `encoding`; with neither, the server's default preset applies."""

    preset: str | None = None
    """A named policy: "none", "fast", "lossless", "archive", "balanced", "bf16", "maximum", "extreme", "auto", "fp16_only",
    "int8_only"."""
    encoding: Sequence[str | Mapping[str, Any]] | None = None
    """A chain of codecs: ids, or `{"id": ..., "configuration": {...}}`. For example `["fp16", "zstd"]`."""
    max_relative_error: float | None = None
    """Limit of L2 norm of the error divided by L2 norm of the values, for every chunk. A chunk that would exceed it gets a more
    exact encoding, as a last resort a lossless one. The preset "auto" takes the smallest encoding within the limit."""
    max_absolute_error: float | None = None
    """Limit of the error of every element; enforced in the same way."""
    chunk_bytes: int | None = None
    """Canonical bytes per chunk, a multiple of 16 from 4096 to 2 MiB; None: 1 MiB."""


@dataclass(frozen=True)
class Schema:
    """The dtype, shape and metadata that every tensor of a dataset must have. None allows anything."""

    dtype: str | None = None
    """A dtype's name, such as "float32"."""
    shape: Sequence[int | None] | None = None
    """One size per axis; None allows any size."""
    metadata: Mapping[str, type | None] = field(default_factory=dict)
    """Required keys and the type of each: bool, int, float, str, list or dict; None allows any type."""


@dataclass(frozen=True)
class EncodingShare:
    """The chunks of a tensor or dataset that have one and the same encoding."""

    codecs: tuple[str, ...]
    """Ids of the codecs in encoding order; empty: stored as is."""
    chunks: int
    """Number of chunks."""
    canonical_bytes: int
    """Canonical bytes of these chunks."""
    stored_bytes: int
    """Bytes of these chunks' records, without the chunk index."""


class _Ratios:
    """Compression ratios, for classes with the three sizes: in total, by the quantizer, and by filter and compressor."""

    canonical_bytes: int
    quantized_bytes: int
    stored_bytes: int

    @property
    def ratio(self) -> float:
        """Canonical bytes divided by bytes on disk: `quantizer_ratio` times `compressor_ratio`. 1 if empty."""
        return _ratio(self.canonical_bytes, self.stored_bytes)

    @property
    def quantizer_ratio(self) -> float:
        """Canonical bytes divided by bytes after the quantizer: the quantizer's contribution. 1 if lossless or empty."""
        return _ratio(self.canonical_bytes, self.quantized_bytes)

    @property
    def compressor_ratio(self) -> float:
        """Bytes after the quantizer divided by bytes on disk: the contribution of filter and compressor. 1 if empty.

        Includes all framing, so it is below 1 if the framing outweighs the savings.
        """
        return _ratio(self.quantized_bytes, self.stored_bytes)


@dataclass(frozen=True)
class ValueSummary:
    """Statistics of a tensor's values. The first five cover finite values only, and are None if there are none."""

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
    """Everything about a stored tensor except its values. Sizes and errors are measured, not estimated."""

    dataset: str
    id: str
    dtype: str
    """The name that NumPy or ml_dtypes uses; `dtype_<number>` if this version does not know the dtype."""
    shape: tuple[int, ...]
    metadata: Metadata
    chunk_bytes: int
    """Canonical bytes per chunk; the last chunk may be shorter."""
    generation: int
    """Version of the tensor, unique within the store. Replacing or editing the tensor changes it."""
    ordinal: int
    """Number within the dataset, from 1 in commit order; never reused. Replacing or editing the tensor changes it."""
    canonical_bytes: int
    """Size of the values: dense, uncompressed, without framing."""
    quantized_bytes: int
    """Size after the quantizer, including its parameters, before filter and compressor."""
    stored_bytes: int
    """Size on disk, including all framing."""
    lossy: bool
    """Whether any value was quantized."""
    relative_error: float
    """L2 norm of the error divided by L2 norm of the tensor; 0 if lossless."""
    max_absolute_error: float
    """Largest error of any element."""
    encodings: tuple[EncodingShare, ...]
    """The encodings of its chunks."""
    fallback_reason: str
    """Why the policy could not be applied; empty if it was."""
    values: ValueSummary | None
    """None for dtypes without statistics."""
    source_checksum: str
    """XXH3-128 of the canonical bytes as they were sent, in hexadecimal; their CRC32C if the insert was resumed."""
    value_checksum: str
    """XXH3-128 of the canonical bytes that `get` returns, in hexadecimal; equals `source_checksum` if lossless.

    If the tensor was edited, both are its tensor digest: an XXH3-128 that is computed from those of its chunks. If its insert
    was resumed, only this one is."""
    created: datetime
    """Time of the commit, UTC."""
    inserted: bool = field(default=False, compare=False)
    """Whether the insert that returned this object stored the tensor. False if the same tensor was already stored as requested,
    also when an insert that was repeated after a lost connection finds its own tensor. Always True in results of edits,
    and False in those of reads."""
    coarse_error: float = field(default=0.0, compare=False)
    """Upper bound of the error of the read with `precision` that returned this object, against the stored values: L2 norm of
    the error divided by L2 norm of the values, and likewise for each value, except values closer to zero than 2**-126. 0 if the
    values are exactly those that are stored, and without `precision`. Errors of lossy storage (`relative_error`) are in other
    chunks, so both together are at most the square root of the sum of their squares."""


@dataclass(frozen=True)
class DatasetInfo:
    """A dataset."""

    name: str
    policy: Policy
    """Applies to tensors inserted without a policy of their own."""
    schema: Schema
    created: datetime
    """Time of creation, UTC."""
    retention: timedelta = timedelta(0)
    """How long tensors stay readable after they were replaced, changed or deleted; zero: not at all."""


@dataclass(frozen=True)
class SnapshotInfo:
    """A named state of a dataset, which stays readable until the snapshot is dropped."""

    name: str
    """Unique within the dataset."""
    dataset: str
    generation: int
    """Tensors of the snapshot have smaller generations, later changes have larger ones."""
    created: datetime
    """Time of creation, UTC."""


@dataclass(frozen=True)
class RestoreReport:
    """The result of a restore."""

    restored: int
    """Number of tensors that were brought back. They have new generations and ordinals."""
    deleted: int
    """Number of tensors that were deleted, because the state has none with their ids."""
    unchanged: int
    """Number of tensors that were as in that state already."""
    generation: int
    """The generation of the restored state."""


@dataclass(frozen=True)
class DTypeShare:
    """The tensors of a dataset that have one dtype."""

    dtype: str
    tensors: int
    canonical_bytes: int
    stored_bytes: int


@dataclass(frozen=True)
class DatasetStats(_Ratios):
    """Totals over a dataset's tensors."""

    tensors: int
    lossy_tensors: int
    canonical_bytes: int
    quantized_bytes: int
    stored_bytes: int
    worst_relative_error: float
    """Largest `relative_error` of any tensor."""
    worst_max_absolute_error: float
    """Largest `max_absolute_error` of any tensor."""
    dtypes: tuple[DTypeShare, ...]
    encodings: tuple[EncodingShare, ...]
    """The encodings of all chunks, one entry per chain of codecs regardless of settings, largest stored size first."""
    damaged_tensors: int = 0
    """Tensors whose catalogue rows are damaged; the totals leave them out."""
    damaged_ids: tuple[str, ...] = ()
    """Ids of damaged tensors; only the first ones if there are many."""
    unique_bytes: int = 0
    """`canonical_bytes`, with those of tensors that share their bytes counted once. 0: an older server does not tell."""
    unique_stored_bytes: int = 0
    """Likewise of `stored_bytes`: what the tensors take on disk."""


@dataclass(frozen=True)
class StoreStats:
    """Sizes of a whole store, in bytes."""

    datasets: int
    tensors: int
    canonical_bytes: int
    """Size of the values of all tensors: dense, uncompressed, without framing."""
    stored_bytes: int
    """Size on disk of all tensors, including all framing. Chunks that a `write` replaced are not included. They take space
    until no tensor needs the payload that they are in."""
    catalogue_bytes: int
    """Size of the catalogue, including the small tensors that are stored in it."""
    garbage_payloads: int
    """Payloads of deleted, replaced and edited tensors that wait until readers no longer need them. Tensors of a
    dataset that was just deleted join them within seconds or minutes."""
    garbage_bytes: int
    """Their size, which `tensorus gc --now` would free."""
    garbage_bytes_estimated: bool
    """Whether there were too many of them to measure each."""
    garbage_until: datetime | None
    """When the last of them may be deleted, UTC; None: there are none."""
    quarantined_payloads: int
    """Payloads that belong to nothing, and are in quarantine."""
    quarantined_bytes: int
    quarantined_until: datetime | None
    """When the last of them may be deleted, UTC; None: there are none."""
    uploads: int
    """Tensors of which a part is stored, and whose insert was interrupted or is still open."""
    upload_bytes: int
    """Size on disk of these parts."""
    disk_free_bytes: int | None
    """Free space on the store's disk; None: the store has none."""
    disk_total_bytes: int | None
    unique_bytes: int = 0
    """`canonical_bytes`, with those of tensors that share their bytes counted once. 0: an older server does not tell."""
    unique_stored_bytes: int = 0
    """Likewise of `stored_bytes`: what the tensors take on disk."""
    past_tensors: int = 0
    """Replaced and deleted tensors that are kept, for snapshots or by the retention of their datasets."""
    past_stored_bytes: int = 0
    """Size on disk of those that no current tensor shares."""
    snapshots: int = 0
    """Snapshots of all datasets."""


@dataclass(frozen=True)
class Damage:
    """Something stored that is damaged."""

    dataset: str
    id: str | None
    """Id of the tensor; None: the dataset's own row is damaged."""
    generation: int | None
    """Of the tensor. Pass it as `if_generation_match` to replace the tensor. None: it is not known, or `id` is None."""
    chunk: int | None
    """Number of the damaged chunk; None: the damage is not in a single chunk."""
    file: str
    """The damaged file, as a path within the store's folder; empty if it is not known."""
    reason: str
    """"DATA_CORRUPT", or "STORE_UNAVAILABLE" for a file that cannot be opened."""
    message: str


@dataclass(frozen=True)
class VerifyProgress:
    """The progress of a verification."""

    tensors: int
    """Tensors that were verified so far."""
    stored_bytes: int
    """Their size on disk."""
    total_tensors: int | None
    """Tensors at the start; None: not known."""
    total_stored_bytes: int | None
    """Their size on disk; None: not known."""
    damages: int
    """Damages found so far."""
    interruptions: int = 0
    """How often the connection was interrupted so far. The verification resumes by itself."""


@dataclass(frozen=True)
class VerifyReport:
    """The result of a verification."""

    tensors: int
    """Tensors that were verified, damaged ones included. Those that were deleted meanwhile are not."""
    stored_bytes: int
    """Their size on disk."""
    damaged_tensors: int
    undecoded_tensors: int
    """Tensors that need a codec which the server does not have: only the checksums of their chunks were verified."""
    orphans: int | None
    """Payloads that no tensor refers to, left by a crash. They are no damage: the server removes them. None: not counted, since
    only a part of the store was verified."""
    damage_count: int
    """Number of all damages."""
    damages: tuple[Damage, ...] = ()
    """The damages; only the first 10,000 if there are more."""

    @property
    def is_intact(self) -> bool:
        """Whether no damage was found."""
        return not self.damage_count


@dataclass(frozen=True)
class PolicyExplanation(_Ratios):
    """The effect of a policy on a sample of values, measured on the machine that would store them."""

    policy: Policy
    canonical_bytes: int
    """Size of the sample."""
    quantized_bytes: int
    """Size after the quantizer, including its parameters, before filter and compressor."""
    stored_bytes: int
    """Size on disk, including all framing."""
    lossy: bool
    """Whether any value was quantized."""
    relative_error: float
    """L2 norm of the error divided by L2 norm of the sample; 0 if lossless."""
    max_absolute_error: float
    """Largest error of any element."""
    encodings: tuple[EncodingShare, ...]
    """The encodings of the sample's chunks."""
    fallback_reason: str
    """Why the policy could not be applied; empty if it was."""
    encode_bytes_per_second: float
    """Canonical bytes that one core encodes per second, as an insert does; 0 if the sample is empty."""
    decode_bytes_per_second: float
    """Canonical bytes that one core decodes per second, as a read does; 0 if the sample is empty."""
    worst_relative_error: float = 0.0
    """Largest relative error of any tensor in the sample. 0 if the server does not report it."""
    has_base: bool = False
    """Whether the sample was stored as the differences to the base. The speeds do not include reading the base."""


@dataclass(frozen=True)
class Record:
    """A tensor returned by `query` or `get_many`."""

    info: TensorInfo
    tensor: Any
    """A torch tensor or NumPy array; None if the query was made without data."""


@dataclass(frozen=True)
class NewTensor:
    """A tensor for `insert_many`, with its own arguments of `insert`."""

    tensor: Any
    """A torch tensor, a NumPy array, or anything with `__array__` or `__dlpack__`."""
    id: str | None = None
    """Unique within the dataset. None: a random id."""
    metadata: Mapping[str, Any] | None = None
    policy: Policy | None = None
    """None: the dataset's policy."""
    if_generation_match: int | None = None
    """Generation that the stored tensor must have to be replaced. 0: the id must not exist. None: `on_conflict` decides."""
    on_conflict: OnConflict | None = None
    """What to do if another tensor has this id. None: the `on_conflict` of `insert_many`."""
    base: Base | None = None
    """The tensor to which the values are stored as differences, as for `insert`."""


@dataclass(frozen=True)
class Progress:
    """The progress of a transfer."""

    id: str | None
    """Id of the tensor; None for the total of an `insert_many`."""
    done_bytes: int
    """Canonical bytes that the server has accepted (insert), or that have arrived (read)."""
    total_bytes: int | None
    """Canonical bytes of the tensor, or of the part that is read; None while unknown."""
    interruptions: int = 0
    """How often the transfer was interrupted so far. Each interruption is reported before the transfer resumes."""


def _ratio(before_bytes: int, after_bytes: int) -> float:
    return before_bytes / after_bytes if before_bytes and after_bytes else 1.0
