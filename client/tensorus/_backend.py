"""The seam between the client and where the tensors are: a server, or an engine in this process.

What crosses it is canonical bytes and plain values; arrays stay above it, protobuf and the engine below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from tensorus.errors import DataCorruptError, TensorusError
    from tensorus.types import DatasetInfo, DatasetStats, Policy, PolicyExplanation, Progress, Schema, TensorInfo

__all__ = ["Arrival", "Backend", "Began", "Bytes", "Failed", "InsertOptions", "Listing", "Part", "Sample", "Upload"]


@dataclass(frozen=True)
class Upload:
    """A tensor on its way in."""

    id: str
    dtype: str
    shape: tuple[int, ...]
    canonical_bytes: int
    blocks: Callable[[int], Iterator[memoryview]]
    """Called with a number of bytes, yields the canonical bytes in blocks of at most so many."""
    metadata: Mapping[str, Any]
    policy: Policy | None
    if_generation_match: int | None = None
    replace: bool = False
    """Whether it takes the place of whatever has its id."""


@dataclass(frozen=True)
class Sample:
    """Values that policies are tried on: a tensor, or several."""

    dtype: str
    shape: tuple[int, ...]
    canonical_bytes: int
    blocks: Callable[[int], Iterator[memoryview]]
    """As of `Upload`."""
    tensor_bytes: Sequence[int] = ()
    """Canonical bytes of each tensor, in order; empty: it is one."""


@dataclass(frozen=True)
class InsertOptions:
    """How uploads are inserted."""

    all_or_nothing: bool = False
    validate_only: bool = False


@dataclass(frozen=True)
class Part:
    """Slices of a tensor, all of it without axes; perhaps in another dtype."""

    axes: tuple[slice, ...] = ()
    trailing_axes: tuple[slice, ...] = ()
    dtype: str | None = None
    """What the values are cast to; None: they stay what they are."""


@dataclass(frozen=True)
class Listing:
    """Which tensors of a dataset, and in which order."""

    dataset: str
    where: str = ""
    order_by: str = ""
    limit: int | None = None
    sample: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Began:
    """A tensor begins to arrive."""

    item: int
    info: TensorInfo
    shape: tuple[int, ...]
    """Of what arrives: the whole tensor, or the part."""
    dtype: str | None = None
    """Of what arrives, where that is another part than the whole; None: the tensor's."""
    restarts: bool = False
    """Whether it had begun to arrive before, and does so again from its start."""
    data: memoryview | None = None
    """All of its canonical bytes, where they came with it, as those of small tensors do: then no `Bytes` follow."""
    checksum: bytes | None = None
    """Of all that arrives, where that is the whole tensor: XXH3-128, or CRC32C where that has four bytes; big-endian."""


@dataclass(frozen=True)
class Bytes:
    """Some of its bytes."""

    item: int
    offset: int
    """Canonical bytes from the start of what arrives."""
    data: memoryview
    encoded: bool
    """Whether `data` is a chunk record, or canonical."""
    decoded_length: int
    """Canonical bytes."""


@dataclass(frozen=True)
class Failed:
    """A tensor that does not arrive, or not to its end."""

    item: int
    error: TensorusError


Arrival: TypeAlias = "Began | Bytes | Failed"
"""What reading yields: for every item `Began`, then `Bytes` until all are there; or `Failed`, at any point. Items come one
after the other."""


class Backend(Protocol):
    """What the client asks of a server or an engine. Every method raises `TensorusError`."""

    def create_dataset(
        self, name: str, policy: Policy | None, schema: Schema | None, *, repeatable: bool
    ) -> DatasetInfo:
        """Create a dataset.

        Args:
            repeatable: whether the caller takes a dataset that is there already for what it wanted, so that a call whose
                outcome is unknown may be repeated.
        """

    def get_dataset(self, name: str) -> DatasetInfo:
        """Return a dataset."""

    def list_datasets(self) -> list[DatasetInfo | DataCorruptError]:
        """Return all datasets, those that are intact in order of creation; those that are damaged as errors."""

    def update_dataset(self, name: str, policy: Policy | None, schema: Schema | None) -> DatasetInfo:
        """Replace what is given."""

    def delete_dataset(self, name: str) -> int:
        """Delete a dataset with its tensors, and return how many there were."""

    def dataset_stats(self, name: str) -> DatasetStats:
        """Return sums over a dataset's tensors."""

    def insert(
        self,
        dataset: str,
        uploads: Iterable[Upload],
        options: InsertOptions,
        on_progress: Callable[[Progress], None] | None,
    ) -> Iterator[tuple[int, TensorInfo | TensorusError]]:
        """Store the uploads, and yield each one's position and what became of it, as it is known."""

    def get(self, dataset: str, ids: Sequence[str], part: Part | None, *, with_data: bool) -> Iterator[Arrival]:
        """Read tensors, the same part of each; at most 10,000 ids, as in the contract."""

    def query(self, listing: Listing, *, with_data: bool) -> Iterator[Arrival]:
        """Read the tensors of a listing."""

    def list_tensors(self, listing: Listing) -> Iterator[TensorInfo | DataCorruptError]:
        """Yield the tensors of a listing without their data, page by page; those that are damaged as errors, after a page."""

    def update_metadata(self, dataset: str, tensor_id: str, metadata: Mapping[str, Any]) -> TensorInfo:
        """Replace a tensor's metadata."""

    def delete_tensors(self, dataset: str, ids: Sequence[str]) -> int:
        """Delete tensors, at most 10,000 ids, and return how many existed."""

    def explain(self, sample: Sample, policies: Sequence[Policy]) -> list[PolicyExplanation]:
        """Return what each policy would do to a sample of at most 64 MiB; without any, what each preset would."""

    def close(self) -> None:
        """End all use. Idempotent."""
