"""The interface between the client and a store, which is on a server or in this process.

Only canonical bytes and plain values cross it. Arrays stay above it, protobuf and the engine below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import timedelta
    from typing import Any

    from tensorus._grpc.steps import Call
    from tensorus.access import ServerStatus
    from tensorus.errors import DataCorruptError, TensorusError
    from tensorus.types import (
        Damage,
        DatasetInfo,
        DatasetStats,
        Policy,
        PolicyExplanation,
        Progress,
        RestoreReport,
        Schema,
        SnapshotInfo,
        StoreStats,
        TensorInfo,
        VerifyProgress,
        VerifyReport,
    )
    from tensorus_protos.digest import ChunkedDigest

__all__ = [
    "Append",
    "Arrival",
    "Backend",
    "Began",
    "Bytes",
    "Copies",
    "Failed",
    "Finding",
    "InsertOptions",
    "Known",
    "Listing",
    "Part",
    "Reference",
    "Sample",
    "State",
    "Upload",
    "Write",
]

T = TypeVar("T")


@dataclass(frozen=True)
class Append:
    """An edit that adds values at the end of an axis."""

    axis: int


@dataclass(frozen=True)
class Write:
    """An edit that replaces the values of a slice."""

    axes: tuple[slice, ...]
    """Slices of the first axes, with positive steps."""
    trailing_axes: tuple[slice, ...] = ()
    """Slices of the last axes."""


@dataclass(frozen=True)
class State:
    """A state of a dataset. Exactly one field is set."""

    snapshot: str | None = None
    generation: int | None = None
    time_us: int | None = None
    """Microseconds since 1970."""


@dataclass(frozen=True)
class Reference:
    """A tensor that is stored already."""

    dataset: str
    """Empty: the dataset of the call."""
    id: str
    at: State | None = None
    """The state of its dataset that has it; None: now."""


@dataclass(frozen=True)
class Upload:
    """A tensor to insert."""

    id: str
    dtype: str
    shape: tuple[int, ...]
    canonical_bytes: int
    blocks: Callable[[int], Iterator[memoryview]]
    """Called with a block size in bytes, yields the canonical bytes in blocks of at most that size."""
    metadata: Mapping[str, Any]
    policy: Policy | None
    if_generation_match: int | None = None
    replace: bool = False
    """Whether to replace any tensor that has this id."""
    edit: Append | Write | None = None
    """How the stored tensor with this id changes; None: this is a whole tensor."""
    base: Reference | None = None
    """The tensor to which chunks are stored as differences; None: each is stored by itself."""


Known: TypeAlias = "tuple[Upload, bytes]"
"""A tensor, and the XXH3-128 of its canonical bytes, big-endian."""


@dataclass(frozen=True)
class Sample:
    """Values on which policies are tried: one tensor or several."""

    dtype: str
    shape: tuple[int, ...]
    canonical_bytes: int
    blocks: Callable[[int], Iterator[memoryview]]
    """As in `Upload`."""
    tensor_bytes: Sequence[int] = ()
    """Canonical bytes of each tensor, in order; empty for a single tensor."""
    base: Reference | None = None
    """The stored tensor that the sample, a single tensor or its start, is compared with; None: none."""


@dataclass(frozen=True)
class InsertOptions:
    """Options of an insert."""

    all_or_nothing: bool = False
    validate_only: bool = False


@dataclass(frozen=True)
class Part:
    """The part of a tensor to read, and its dtype. Without axes, the whole tensor."""

    axes: tuple[slice, ...] = ()
    trailing_axes: tuple[slice, ...] = ()
    dtype: str | None = None
    """Dtype to cast the values to; None: no cast."""
    precision: str | None = None
    """How exact the values must be; None: as stored."""

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole tensor, of its own dtype."""
        return not (self.axes or self.trailing_axes) and self.dtype is None


@dataclass(frozen=True)
class Listing:
    """A selection of a dataset's tensors, with an order."""

    dataset: str
    where: str = ""
    order_by: str = ""
    limit: int | None = None
    sample: int | None = None
    seed: int | None = None
    at: State | None = None
    """None: the current state."""


@dataclass(frozen=True)
class Copies:
    """Tensors to copy or move together."""

    dataset: str
    ids: Sequence[tuple[str, str]]
    """The id of each, and that of its copy; empty: the same."""
    to: str
    """The dataset that gets them; empty: the same."""
    at: State | None = None
    replace: bool = False
    move: bool = False


@dataclass(frozen=True)
class Began:
    """The start of a tensor's arrival."""

    item: int
    info: TensorInfo
    shape: tuple[int, ...]
    """Shape of what arrives: the whole tensor, or the part."""
    dtype: str | None = None
    """Dtype of what arrives, if it is cast; None: the tensor's dtype."""
    restarts: bool = False
    """Whether the tensor had begun to arrive before, and now restarts from its beginning."""
    data: memoryview | None = None
    """All canonical bytes, if they came with this message, as for small tensors; no `Bytes` follow then."""
    checksum: bytes | None = None
    """Checksum of the canonical bytes if the whole tensor arrives as it is stored: XXH3-128 (16 bytes) or CRC32C (4 bytes),
    big-endian."""
    has_plan: bool = False
    """Whether no bytes follow, since the server has a plan of the tensor: see `_grpc/direct.py`."""
    digest: Callable[[], ChunkedDigest] | None = None
    """Starts the digest that `checksum` is instead, if it is the tensor digest."""


@dataclass(frozen=True)
class Bytes:
    """Some bytes of a tensor."""

    item: int
    offset: int
    """Offset in canonical bytes from the start of what arrives."""
    data: memoryview
    encoded: bool
    """Whether `data` is a chunk record; otherwise it is canonical bytes."""
    decoded_length: int
    """Length in canonical bytes."""


@dataclass(frozen=True)
class Failed:
    """The failure of a tensor's arrival, before or after it began."""

    item: int
    error: TensorusError


Arrival: TypeAlias = "Began | Bytes | Failed"
"""An event of a read. Each item yields `Began`, then `Bytes` until it is complete; or `Failed`, at any point. Items arrive one
after the other."""


Finding: TypeAlias = "Damage | VerifyProgress | VerifyReport"
"""An event of a verification: each damage once, the progress now and then, at last the report, without the damages."""


class Backend(Protocol):
    """The operations that a client needs from a server or an engine. Every method raises `TensorusError`."""

    def create_dataset(
        self,
        name: str,
        policy: Policy | None,
        schema: Schema | None,
        retention: timedelta | None,
        *,
        repeatable: bool,
    ) -> DatasetInfo:
        """Create a dataset.

        Args:
            repeatable: whether the caller accepts an existing dataset, so that a call with an unknown outcome may be retried.
        """

    def get_dataset(self, name: str) -> DatasetInfo:
        """Return a dataset."""

    def list_datasets(self) -> list[DatasetInfo | DataCorruptError]:
        """Return all datasets: intact ones in order of creation, damaged ones as errors."""

    def update_dataset(
        self, name: str, policy: Policy | None, schema: Schema | None, retention: timedelta | None
    ) -> DatasetInfo:
        """Replace policy, schema and retention; None leaves one unchanged."""

    def delete_dataset(self, name: str, *, drop_snapshots: bool) -> int:
        """Delete a dataset with its tensors, and return the number of tensors."""

    def dataset_stats(self, name: str, at: State | None) -> DatasetStats:
        """Return totals over a dataset's tensors."""

    def create_snapshot(self, dataset: str, name: str) -> SnapshotInfo:
        """Give a dataset's current state a name."""

    def list_snapshots(self, dataset: str) -> list[SnapshotInfo | DataCorruptError]:
        """Return a dataset's snapshots: intact ones oldest first, damaged ones as errors."""

    def drop_snapshot(self, dataset: str, name: str) -> None:
        """Drop a snapshot."""

    def restore(self, dataset: str, at: State, *, discard_newer: bool) -> RestoreReport:
        """Make a dataset's tensors those of an earlier state."""

    def insert(
        self,
        dataset: str,
        uploads: Iterable[Upload],
        options: InsertOptions,
        on_progress: Callable[[Progress], None] | None,
    ) -> Iterator[tuple[int, TensorInfo | TensorusError]]:
        """Store the uploads, and yield the position and outcome of each as soon as it is known."""

    def insert_known(self, dataset: str, announced: Sequence[Known]) -> Mapping[int, TensorInfo | TensorusError]:
        """Insert those of the tensors whose bytes the store has; at most 1,000.

        Returns:
            The outcomes of these, by position. The bytes of the others are missing.
        """

    def get(
        self, dataset: str, ids: Sequence[str], part: Part | None, *, with_data: bool, at: State | None = None
    ) -> Iterator[Arrival]:
        """Read tensors, the same part of each; at most 10,000 ids, as in the contract."""

    def query(self, listing: Listing, *, with_data: bool, precision: str | None = None) -> Iterator[Arrival]:
        """Read the tensors of a listing, at this precision."""

    def list_tensors(self, listing: Listing) -> Iterator[TensorInfo | DataCorruptError]:
        """Yield the tensors of a listing without their data, page by page; damaged ones as errors, at the end of their page."""

    def update_metadata(self, dataset: str, tensor_id: str, metadata: Mapping[str, Any]) -> TensorInfo:
        """Replace a tensor's metadata."""

    def delete_tensors(self, dataset: str, ids: Sequence[str]) -> int:
        """Delete tensors, at most 10,000 ids, and return how many existed."""

    def copy_tensors(self, copies: Copies) -> list[TensorInfo]:
        """Copy or move tensors, all or none, and return the copies in order."""

    def copy_dataset(self, name: str, new_name: str, at: State | None) -> DatasetInfo:
        """Create a dataset with all tensors of another one."""

    def rename_dataset(self, name: str, new_name: str) -> DatasetInfo:
        """Give a dataset another name."""

    def explain(self, sample: Sample, policies: Sequence[Policy]) -> list[PolicyExplanation]:
        """Return the effect of each policy on a sample of at most 64 MiB; without policies, of each preset.

        With a base, one more explanation follows: that of the preset `lossless` with this base.
        """

    def store_stats(self) -> StoreStats:
        """Return the sizes of the store."""

    def verify(self, dataset: str | None, ids: Sequence[str], bytes_per_second: int | None) -> Iterator[Finding]:
        """Verify what is stored.

        Args:
            dataset: None: the whole store.
            ids: of the dataset's tensors; empty: all.
            bytes_per_second: stored bytes that may be read per second; None: any number.
        """

    def server_status(self) -> ServerStatus:
        """Return what serves the store, and who the caller is to it."""

    def ask_access(self, call: Call[T]) -> T:
        """Make a call about tokens, rights or quotas."""

    def close(self) -> None:
        """Close the store or connection. Idempotent."""
