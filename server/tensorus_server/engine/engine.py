"""The engine: everything Tensorus does, without a network. The gRPC service and `tensorus.open` both use it."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from itertools import takewhile
from typing import TYPE_CHECKING

from tensorus_codecs.policy import StoragePolicy
from tensorus_server.background import WorkerPool, close_parts
from tensorus_server.chunk_store.abc import PayloadBusyError
from tensorus_server.engine.access import Access
from tensorus_server.engine.collection import Collection
from tensorus_server.engine.copies import Copies
from tensorus_server.engine.health import Health
from tensorus_server.engine.insert.committer import Committer
from tensorus_server.engine.insert.content import EqualTensors
from tensorus_server.engine.insert.known import insert_known
from tensorus_server.engine.insert.one_by_one import OneByOne
from tensorus_server.engine.insert.sessions import InsertSessions
from tensorus_server.engine.insert.stream import InsertOptions, InsertServices, InsertStream
from tensorus_server.engine.insert.tensor_locks import TensorLocks
from tensorus_server.engine.insert.uploads import progress_of, tensors_of
from tensorus_server.engine.meters import EngineMeters
from tensorus_server.engine.paging import checked_page_size, decode_place, encode_token, take_all
from tensorus_server.engine.purge import Purger
from tensorus_server.engine.read.plans import Plans
from tensorus_server.engine.read.reader import TensorReader
from tensorus_server.engine.reads import Reads
from tensorus_server.engine.snapshots import Snapshots
from tensorus_server.engine.store_stats import store_stats
from tensorus_server.engine.sweeper import Sweeper
from tensorus_server.engine.validate import (
    require_dataset_name,
    require_metadata,
    require_policy_fit,
    require_retention,
    require_schema,
    require_schema_fit,
)
from tensorus_server.engine.verify.verification import Verification
from tensorus_server.engine.writing import writing
from tensorus_server.errors import (
    LimitExceededError,
    SessionExpiredError,
    StoreUnavailableError,
)
from tensorus_server.limits import IDS_PER_DELETE_MAX, PAGE_SIZE_DEFAULT
from tensorus_server.model import Schema

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tensorus_server.catalogue.abc import Catalogue
    from tensorus_server.chunk_store.abc import ChunkStore, PayloadStore
    from tensorus_server.chunk_store.cache.payloads import CachedPayloads
    from tensorus_server.engine.codec_pool import CodecPool
    from tensorus_server.engine.insert.stream import ItemProgress, ItemResult
    from tensorus_server.engine.membership import Membership
    from tensorus_server.engine.store_stats import StoreStats
    from tensorus_server.engine.verify.verification import Target
    from tensorus_server.errors import (
        DataCorruptError,
    )
    from tensorus_server.model import At, Dataset, DatasetStats, Metadata, NewTensor, Tensor

__all__ = ["Engine"]

_SEAL_THREADS = 8
"""Large tensors that may wait for their last fsync at the same time. These threads wait for the disk and use little CPU."""

_SWEEP_EVERY_S = 60.0

_SWEEP_SHARED_EVERY_S = 10.0
"""If several machines share the store, one of them sweeps, and more often: what a process that died had begun is to be gone
soon."""

_CLOSE_TIMEOUT_S = 60.0
"""How long `close` waits in total for work in progress."""

_log = logging.getLogger(__name__)


class Engine(Reads, Collection):
    """One open store. Thread-safe."""

    def __init__(
        self,
        catalogue: Catalogue,
        chunk_store: ChunkStore,
        pool: CodecPool,
        sessions: InsertSessions | None = None,
        tensor_locks: TensorLocks | None = None,
        *,
        membership: Membership | None = None,
        cache: CachedPayloads | None = None,
        orphan_age_s: float = 86400.0,
        quarantine_s: float = 86400.0,
        sweeps: bool = True,
        in_memory: bool = False,
        shares_payloads: bool = True,
        direct_reads: bool = False,
    ) -> None:
        """Take ownership of the parts, which `close` closes, and start sweeping in the background.

        If the catalogue is open for reading only, no thread is started, and every method that writes raises `ReadOnlyError`.

        Args:
            sessions: None: no other process serves the same inserts.
            tensor_locks: None: no other process edits tensors of the store.
            membership: of this process, if processes on other machines share the store; then sessions and locks must be
                the catalogue's (`CatalogueSessions`, `LeaseLocks`). None: all its processes are on this machine.
            cache: of the chunk store's payloads, through which they are read; None: they are read where they are.
            orphan_age_s, quarantine_s, sweeps, in_memory, shares_payloads: see `EngineConfig`.
            direct_reads: whether clients get presigned requests, by which they read from the chunk store themselves.
        """
        self._catalogue = catalogue
        self._chunk_store = chunk_store
        self._cache = cache
        payloads: PayloadStore = chunk_store if cache is None else cache
        self._payloads = payloads
        self._pool = pool
        self._orphan_age_s = orphan_age_s
        self._quarantine_s = quarantine_s
        self._health = Health(catalogue.check_writable)
        self._equals = EqualTensors(catalogue.tensors, chunk_store, enabled=shares_payloads)
        writes = not catalogue.read_only
        self._committer = Committer(catalogue, chunk_store, payloads, self._health, self._equals, start=writes)
        self._seal_pool = WorkerPool(_SEAL_THREADS, "seal")
        self._reader = TensorReader(catalogue, payloads, pool)
        self._plans = Plans(self._reader, chunk_store, enabled=direct_reads)
        self._tensor_locks = tensor_locks or TensorLocks()
        committer, seal_pool, health, reader = self._committer, self._seal_pool, self._health, self._reader
        self._services = InsertServices(
            *(catalogue, chunk_store, pool, committer, seal_pool, health, reader, self._tensor_locks, self.find),
            shares_sessions=membership is not None,
        )
        self._membership = membership
        self._one_by_one = OneByOne(self._services) if in_memory else None
        self._sessions = sessions or InsertSessions()
        self._purger = Purger(catalogue, self._health, start=writes)
        self._snapshots = Snapshots(catalogue, self._purger.wake)
        self._copies = Copies(catalogue, self._snapshots)
        self.access = Access(catalogue.access)
        """Tokens, rights and quotas."""
        self._closing = threading.Event()
        every_s = _SWEEP_EVERY_S if membership is None else _SWEEP_SHARED_EVERY_S
        self._sweeper = Sweeper(
            self._sweep_round, catalogue.check_present, self._health, self._closing, every_s=every_s
        )
        self.meters = EngineMeters(chunk_store.meters, self._sweeper.meters, committer, catalogue, cache)
        """What its parts have done and do."""
        if membership is not None:
            membership.start(lambda error: self._health.fail("the membership ended", error))
        if sweeps and writes:
            self._sweeper.start()

    @writing
    def create_dataset(
        self,
        name: str,
        policy: StoragePolicy | None = None,
        schema: Schema | None = None,
        retention_s: int = 0,
        *,
        owner: str = "",
    ) -> Dataset:
        """Create a dataset. Without a policy it uses the default preset; without a schema it accepts any tensor.

        Args:
            retention_s: how long replaced and deleted tensors stay readable, in seconds.
            owner: the principal whose quota its tensors count against; empty: nobody's.

        Raises:
            InvalidRequestError: the retention is negative or too long.
            InvalidNameError, InvalidShapeError, InvalidMetadataError, UnsupportedDTypeError: the name or the schema is invalid.
            InvalidPolicyError: the policy's quantizer does not apply to the schema's dtype.
            AlreadyExistsError: the name is taken.
        """
        require_dataset_name(name)
        policy, schema = policy or StoragePolicy(), schema or Schema()
        require_schema(schema)
        require_policy_fit(policy, schema, dataset=name)
        require_retention(retention_s, dataset=name)
        return self._catalogue.datasets.create(name, policy, schema, retention_s, owner=owner)

    def get_dataset(self, name: str) -> Dataset:
        """Return the dataset.

        Raises:
            DatasetNotFoundError: it does not exist.
            DataCorruptError: its row in the catalogue is damaged.
        """
        return self._catalogue.datasets.get(name)

    def list_datasets(
        self,
        *,
        page_size: int = 0,
        page_token: str = "",
        take: Callable[[Dataset | DataCorruptError], bool] = take_all,
        is_visible: Callable[[str], bool] | None = None,
    ) -> tuple[list[Dataset | DataCorruptError], str]:
        """Return one page of datasets in order of creation, and the token of the next page; see `list_page`.

        A damaged dataset is returned as an error in its place.

        Args:
            is_visible: whether the dataset with a name is listed; None: all are. A page may then be short, or empty.

        Raises:
            InvalidPageTokenError: the token was not issued by this server.
            LimitExceededError: the page is too large.
        """
        size = checked_page_size(page_size, "datasets")
        after = decode_place(page_token, "datasets") if page_token else 0
        page = self._catalogue.datasets.page(after, size)
        shown = [entry for entry in page.datasets if is_visible is None or is_visible(_name_of(entry[1]))]
        taken = list(takewhile(lambda entry: take(entry[1]), shown))
        last = taken[-1][0] if len(taken) < len(shown) else page.next
        return [found for _, found in taken], "" if last is None else encode_token(["datasets", last])

    @writing
    def update_dataset(
        self, name: str, policy: StoragePolicy | None, schema: Schema | None, retention_s: int | None = None
    ) -> Dataset:
        """Replace the policy, the schema and the retention, unless they are None; stored tensors do not change.

        Args:
            retention_s: how long replaced and deleted tensors stay readable, in seconds. Counts for those of before, too.

        Raises:
            InvalidRequestError: the retention is negative or too long.
            DatasetNotFoundError: the dataset does not exist.
            InvalidShapeError, InvalidMetadataError, UnsupportedDTypeError: the schema is invalid.
            InvalidPolicyError: the policy's quantizer does not apply to the schema's dtype.
        """
        if schema is not None:
            require_schema(schema)
        if retention_s is not None:
            require_retention(retention_s, dataset=name)
        if policy is None or schema is None:
            before = self._catalogue.datasets.get(name)
            require_policy_fit(policy or before.policy, schema or before.schema, dataset=name)
        else:
            require_policy_fit(policy, schema, dataset=name)
        updated = self._catalogue.datasets.update(name, policy, schema, retention_s)
        if retention_s is not None:
            self._purger.wake()
        return updated

    @writing
    def delete_dataset(self, name: str, *, drop_snapshots: bool = False) -> int:
        """Delete the dataset with its tensors and return how many it had; their space is freed in the background.

        Args:
            drop_snapshots: whether to delete it even if it has snapshots, which are then dropped.

        Raises:
            DatasetNotFoundError: it does not exist.
            HasSnapshotsError: it has snapshots.
        """
        deleted = self._catalogue.datasets.delete(name, drop_snapshots=drop_snapshots)
        self._purger.wake()
        return deleted

    def dataset_stats(self, name: str, at: At | None = None) -> DatasetStats:
        """Return sums over the dataset's tensors.

        Args:
            at: the state of the dataset; None: the current one.

        Raises:
            DatasetNotFoundError: it does not exist.
            SnapshotNotFoundError, StateNotKeptError: see `Snapshots.generation_of`.
        """
        return self._catalogue.datasets.stats(name, self._generation_of(name, at))

    @writing
    def open_insert(
        self,
        dataset: str,
        report: Callable[[Sequence[ItemResult | ItemProgress]], None],
        options: InsertOptions | None = None,
    ) -> InsertStream:
        """Start a streamed insert; see `InsertStream`. If it has a request id, the caller must hold its session meanwhile.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            InvalidRequestError: the request id belongs to an insert into another dataset.
            StoreUnavailableError: the store takes no writes until a restart, or its folder was removed.
        """
        self._health.require()
        self._catalogue.check_present()
        return InsertStream(self._catalogue.datasets.get(dataset), self._services, report, options or InsertOptions())

    @writing
    def insert_known(
        self, dataset: str, announced: Sequence[NewTensor], *, is_visible: Callable[[str], bool] | None = None
    ) -> list[Tensor | Exception | None]:
        """Insert tensors whose bytes the store has already; see `known.insert_known`.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            LimitExceededError: there are too many tensors.
            StorageFullError, StoreUnavailableError: the store takes no inserts.
        """
        self._health.require()
        self._catalogue.check_present()
        self._chunk_store.require_space()
        found = self._catalogue.datasets.get(dataset)
        return insert_known(self._catalogue, self._equals, found, announced, is_visible=is_visible)

    @writing
    def insert_one(self, dataset: str, new: NewTensor, canonical: memoryview) -> Tensor | None:
        """Store one small tensor on the fast path; return None if it does not apply, and nothing was stored.

        The caller then uses `open_insert`, which handles every tensor and reports every error.

        Args:
            canonical: all canonical bytes of the tensor.
        """
        return None if self._one_by_one is None else self._one_by_one.insert(dataset, new, canonical)

    @property
    def sessions(self) -> InsertSessions:
        """The sessions of inserts in progress."""
        return self._sessions

    def insert_status(
        self, request_id: str, *, page_token: str = "", take: Callable[[ItemProgress], bool] = take_all
    ) -> tuple[list[ItemProgress], bool, str]:
        """Return the progress of an insert's marked items, page by page; see `list_page`.

        Returns:
            A page of items, whether all items of the insert are complete, and the token of the next page.

        Raises:
            SessionExpiredError: the insert is unknown.
            InvalidPageTokenError: the token was not issued by this server.
        """
        after = decode_place(page_token, "insert") if page_token else -1
        uploads = self._catalogue.uploads.find(request_id)
        going_on = self._sessions.is_held(request_id)
        if not uploads and not going_on:
            raise SessionExpiredError(
                f"nothing is known of insert {request_id}: it expired, or left nothing, or never began"
            )
        finished = not going_on and all(upload.generation is not None for upload in uploads)
        rest = [upload for upload in uploads if upload.item > after]
        page = rest[:PAGE_SIZE_DEFAULT]
        # All uploads of a request belong to one dataset.
        dataset = self._catalogue.datasets.find(page[0].dataset_number) if page else None
        tensors = {} if dataset is None else tensors_of(self._catalogue, dataset.name, page)
        items = list(takewhile(take, (progress_of(upload, tensors.get(upload.item)) for upload in page)))
        return items, finished, encode_token(["insert", items[-1].item]) if len(items) < len(rest) else ""

    @writing
    def cancel_insert(self, request_id: str) -> None:
        """End an insert and drop its unfinished items; complete tensors stay. Idempotent.

        Raises:
            StoreUnavailableError: its stream did not end in time.
        """
        self._sessions.end(request_id)
        for payload_key in self._catalogue.uploads.drop(request_id):
            with suppress(PayloadBusyError):
                self._chunk_store.drop_kept(payload_key)

    @property
    def read_only(self) -> bool:
        """Whether every method that writes raises `ReadOnlyError`."""
        return self._catalogue.read_only

    @property
    def snapshots(self) -> Snapshots:
        """The snapshots of datasets."""
        return self._snapshots

    @property
    def copies(self) -> Copies:
        """Copies, moves and renames tensors and datasets."""
        return self._copies

    @writing
    def update_metadata(self, dataset: str, tensor_id: str, metadata: Metadata) -> Tensor:
        """Replace a tensor's metadata and return the tensor.

        Raises:
            DatasetNotFoundError, TensorNotFoundError: the dataset or the tensor does not exist.
            InvalidMetadataError, LimitExceededError: the metadata is invalid or too large.
            SchemaMismatchError: the metadata does not fit the dataset's schema.
        """
        require_metadata(metadata, dataset=dataset, tensor=tensor_id)
        schema = self._catalogue.datasets.get(dataset).schema
        if schema.metadata:
            spec = self.get_tensor(dataset, tensor_id).spec
            require_schema_fit(tensor_id, spec, metadata, Schema(metadata=schema.metadata), dataset=dataset)
        return self._catalogue.tensors.replace_metadata(dataset, tensor_id, metadata)

    @writing
    def delete_tensors(self, dataset: str, ids: Sequence[str]) -> list[str]:
        """Delete tensors and return the ids that existed.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            LimitExceededError: the request has too many ids.
        """
        if len(ids) > IDS_PER_DELETE_MAX:
            raise LimitExceededError(
                f"number of ids is {len(ids)}, limit is {IDS_PER_DELETE_MAX} (ids_per_delete_max)",
                dataset=dataset,
                limit=IDS_PER_DELETE_MAX,
            )
        return self._catalogue.tensors.delete(dataset, ids)

    def check_writable(self) -> None:
        """Check that the store takes writes.

        Raises:
            StoreUnavailableError: it takes none until a restart.
        """
        self._committer.check()
        self._health.require()

    def verify(self, target: Target, resume_token: str = "") -> Verification:
        """Return a verification of the target; see `Verification`."""
        return Verification(
            self._catalogue,
            self._chunk_store,
            target,
            resume_token,
            closing=self._closing,
            uncommitted=lambda: self._committer.uncommitted,
        )

    def store_stats(self) -> StoreStats:
        """Return the sizes of the whole store; see `store_stats`."""
        return store_stats(self._catalogue, self._chunk_store)

    def close(self, timeout_s: float = _CLOSE_TIMEOUT_S) -> None:
        """Commit pending tensors and close every part. Idempotent. Streams should have ended; open ones fail.

        Raises:
            StoreUnavailableError: a part did not close in time. The log has the stacks of its threads, which keep their
                resources until the process ends. Nothing that was committed is lost.
        """
        if self._closing.is_set():
            return
        self._closing.set()
        steps: dict[str, Callable[[float], bool]] = {
            "sweeper": self._sweeper.join,
            "purger": self._purger.close,
            "seals": self._seal_pool.close,
            "committer": self._committer.close,
            "sessions": self._sessions.close,
            "edits": self._tensor_locks.close,
            "codecs": self._pool.close,
            "cache": self._cache.close if self._cache is not None else _is_absent,
            "chunk store": self._chunk_store.close,
            "membership": self._membership.close if self._membership is not None else _is_absent,
            "catalogue": self._close_catalogue,
        }
        if hanging := close_parts(steps, timeout_s):
            raise StoreUnavailableError(f"the store did not close within {timeout_s:.0f} s: {', '.join(hanging)}")

    def _close_catalogue(self, timeout_s: float) -> bool:
        self._catalogue.close(timeout_s)
        return True


def _name_of(found: Dataset | DataCorruptError) -> str:
    return found.facts.get("dataset", "") if isinstance(found, Exception) else found.name


def _is_absent(_: float) -> bool:
    """Close a part that this store has not."""
    return True
