"""Runs a copy: lists both stores, and copies what is missing on several threads.

Tensors of at most 1 MiB are copied in batches, larger ones one by one, in blocks. A thread holds a batch, or the few blocks
that are on their way. The comparison waits while more work is queued than the threads can take soon.

A copy can be repeated at any time: tensors that are there already are skipped, and nothing is replaced unless that was asked
for.
"""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from tensorus._backend import Listing
from tensorus._moving.compare import has_same_checksum, is_same_kind, listed, pairs
from tensorus._moving.exact import copied_metadata, is_same_metadata
from tensorus._moving.incoming import ChangedError, StoppedError, header, plain_checksum
from tensorus._moving.report import Tally
from tensorus._moving.sending import CONFLICTS, Sending
from tensorus._where import starts_with
from tensorus.errors import (
    DataCorruptError,
    DatasetNotFoundError,
    NotImplementedByServerError,
    StorageFullError,
    TensorNotFoundError,
    TensorusError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from tensorus._backend import Backend, State
    from tensorus._moving.report import CopyReport, DatasetCopy
    from tensorus.types import DatasetInfo, TensorInfo

__all__ = ["CopyOptions", "copy_datasets"]

_SMALL_BYTES = 1024 * 1024
"""Largest tensor that is copied in a batch: one block of a transfer."""

_BATCH_BYTES = 8 * 1024 * 1024
_BATCH_TENSORS = 500

_TRIES = 3
"""How often a tensor is copied that changes in the source meanwhile."""

_FATAL = (UnavailableError, StorageFullError)
"""Errors after which the next tensors would fail as well."""


@dataclass(frozen=True)
class CopyOptions:
    """What to copy, and how."""

    datasets: Sequence[str] = ()
    """Empty: all."""
    new_name: str | None = None
    """Name of the only dataset in the destination; None: the same."""
    id_prefix: str = ""
    """Copy only tensors whose ids begin with it."""
    at: State | None = None
    """The state of the datasets to copy; None: the current one."""
    replaces: bool = False
    """Replace other tensors that have the same ids, and settings of datasets that differ."""
    dry_run: bool = False
    """Store nothing."""
    verify: bool = False
    """Let the destination read everything again."""
    threads: int = 4
    """How many tensors, or batches of small ones, are copied at a time."""


@dataclass(frozen=True)
class _Wanted:
    """A tensor to copy."""

    info: TensorInfo
    existing: TensorInfo | None
    """What the destination has under its id."""


def copy_datasets(
    source: Backend,
    destination: Backend | None,
    options: CopyOptions,
    *,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> CopyReport:
    """Copy datasets, and return what was done.

    Args:
        destination: None: it does not exist; for a dry run.
        on_progress: called with the canonical bytes that are done and their total, on any thread, one call at a time.

    Raises:
        DatasetNotFoundError: the source has no such dataset.
        TensorusError: a store cannot be used any more. What was copied is complete, and the same copy goes on from there.
    """
    datasets = _datasets(source, options)
    run = _Run(source, destination, options, Tally(), _Work(options.threads), _Progress(on_progress))
    try:
        for dataset in datasets:
            run.progress.add_total(_bytes_of(source, dataset.name, options))
        for dataset in datasets:
            _DatasetCopier(run, dataset).copy()
        run.work.finish()
    finally:
        run.work.stop()
    verified = options.verify and not options.dry_run and destination is not None
    if verified and destination is not None:
        for of in run.tally.datasets:
            verified = _verify(destination, of, run.tally) and verified
    return run.tally.report(dry_run=options.dry_run, verified=verified)


def _datasets(source: Backend, options: CopyOptions) -> list[DatasetInfo]:
    if options.datasets:
        return [source.get_dataset(name) for name in dict.fromkeys(options.datasets)]
    found = []
    for one in source.list_datasets():
        if isinstance(one, DataCorruptError):
            raise one
        found.append(one)
    return found


def _bytes_of(source: Backend, dataset: str, options: CopyOptions) -> int:
    if options.id_prefix:
        # The sum of a part is not known without listing it.
        return 0
    return source.dataset_stats(dataset, options.at).canonical_bytes


def _verify(destination: Backend, of: DatasetCopy, tally: Tally) -> bool:
    """Let the destination verify a dataset; return whether it can."""
    from tensorus.types import Damage  # noqa: PLC0415 - at the top, for type checkers only

    try:
        for finding in destination.verify(of.destination, (), None):
            if isinstance(finding, Damage):
                tally.problem(of, finding.id or "", "failed", f"in the destination: {finding.message}")
    except NotImplementedByServerError:
        of.notes.append(f"{of.destination} was not verified: the version of the destination is too old for that")
        return False
    return True


class _Progress:
    """Sums up the progress of all threads."""

    def __init__(self, on_progress: Callable[[int, int], None]) -> None:
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._done = self._total = 0

    def add_total(self, total_bytes: int) -> None:
        with self._lock:
            self._total += total_bytes

    def add(self, done_bytes: int) -> None:
        with self._lock:
            self._done += done_bytes
            self._on_progress(self._done, max(self._done, self._total))


class _Work:
    """Threads, and a queue of what they do. The first error that is fatal stops all of it."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tensorus-copy")
        self._queued_max = 2 * threads
        self._futures: set[Future[None]] = set()
        self._stopped = threading.Event()

    def is_stopped(self) -> bool:
        return self._stopped.is_set()

    def submit(self, task: Callable[[], None]) -> None:
        """Queue a task; wait while there are too many. Raises what a task raised."""
        self._take(self._queued_max - 1)
        self._futures.add(self._pool.submit(self._run, task))

    def finish(self) -> None:
        """Wait for all tasks. Raises what a task raised."""
        self._take(0)

    def stop(self) -> None:
        """End what is running at its next block, and wait for it."""
        self._stopped.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, task: Callable[[], None]) -> None:
        if self.is_stopped():
            return
        try:
            task()
        except BaseException:
            # Now rather than when the error is noticed: the next task would try for a minute to reach a server that is gone.
            self._stopped.set()
            raise

    def _take(self, left_max: int) -> None:
        while len(self._futures) > left_max:
            done, self._futures = wait(self._futures, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()


@dataclass(frozen=True)
class _Run:
    """What the copies of all datasets share."""

    source: Backend
    destination: Backend | None
    options: CopyOptions
    tally: Tally
    work: _Work
    progress: _Progress


class _DatasetCopier:
    """The copy of one dataset."""

    def __init__(self, run: _Run, dataset: DatasetInfo) -> None:
        self._source = run.source
        self._destination = run.destination
        self._options = run.options
        self._tally = run.tally
        self._work = run.work
        self._progress = run.progress
        self._dataset = dataset
        self._of = run.tally.begin(dataset.name, run.options.new_name or dataset.name)

    def copy(self) -> None:
        """Compare all tensors, and queue those that must be copied."""
        self._prepare()
        batch: list[TensorInfo] = []
        batch_bytes = 0
        for info, existing in self._pairs():
            if existing is not None or info.canonical_bytes > _SMALL_BYTES:
                if existing is None or not self._is_there(info, existing):
                    self._work.submit(partial(self._copy_one, _Wanted(info, existing)))
                continue
            batch.append(info)
            batch_bytes += info.canonical_bytes
            if len(batch) == _BATCH_TENSORS or batch_bytes >= _BATCH_BYTES:
                self._work.submit(partial(self._copy_batch, batch))
                batch, batch_bytes = [], 0
        if batch:
            self._work.submit(partial(self._copy_batch, batch))

    def _pairs(self) -> Iterator[tuple[TensorInfo, TensorInfo | None]]:
        """Yield the tensors to copy, each with what the destination has under its id."""
        where = starts_with("@id", self._options.id_prefix) if self._options.id_prefix else ""
        ids = Listing(self._dataset.name, where, "id", at=self._options.at)
        copies = Listing(self._of.destination, where, "id")
        there = iter(()) if self._destination is None else listed(self._destination, copies)
        return pairs(self._source.list_tensors(ids), there, self._damaged)

    def _is_there(self, info: TensorInfo, existing: TensorInfo) -> bool:
        """Handle a tensor whose values the destination has, as checksums of the same kind show."""
        if not has_same_checksum(info, existing):
            return False
        self._settle(info, existing)
        return True

    def _settle(self, info: TensorInfo, existing: TensorInfo) -> None:
        """Handle a tensor that the destination has, with the same values."""
        if is_same_metadata(info.metadata, existing.metadata):
            self._done("present", info, existing)
        else:
            self._settle_metadata(info, existing)

    def _prepare(self) -> None:
        """Make the dataset in the destination, and note what differs and what is left behind."""
        try:
            self._of.snapshots = len(self._source.list_snapshots(self._dataset.name))
        except NotImplementedByServerError:
            # An older server has none.
            self._of.snapshots = 0
        if self._destination is None:
            return
        one, name = self._dataset, self._of.destination
        try:
            found = self._destination.get_dataset(name)
        except DatasetNotFoundError:
            if not self._options.dry_run:
                self._destination.create_dataset(name, one.policy, one.schema, one.retention or None, repeatable=True)
            return
        differing = [
            field for field in ("policy", "schema", "retention") if getattr(one, field) != getattr(found, field)
        ]
        if not differing:
            return
        if self._options.replaces:
            if not self._options.dry_run:
                self._destination.update_dataset(name, one.policy, one.schema, one.retention)
        else:
            self._of.notes.append(f"dataset {name} has another {' and '.join(differing)} in the destination")

    def _damaged(self, error: DataCorruptError) -> None:
        self._tally.problem(self._of, error.facts.get("tensor", ""), "failed", str(error))

    def _done(self, outcome: str, info: TensorInfo, copy: TensorInfo | None, *, adds: bool = True) -> None:
        self._tally.count(
            self._of,
            outcome,  # type: ignore[arg-type]  # one of its literals, as every caller gives
            canonical_bytes=info.canonical_bytes,
            source_bytes=info.stored_bytes,
            stored_bytes=0 if copy is None else copy.stored_bytes,
        )
        if adds:
            self._progress.add(info.canonical_bytes)

    def _problem(self, info: TensorInfo, error: TensorusError | str, *, conflict: bool = False) -> None:
        self._tally.problem(self._of, info.id, "conflict" if conflict else "failed", str(error))

    def _settle_metadata(self, info: TensorInfo, existing: TensorInfo) -> None:
        """Handle a tensor with the same values and other metadata."""
        if not self._options.replaces:
            self._problem(info, "the same values are stored with other metadata", conflict=True)
            return
        if not self._options.dry_run and self._destination is not None:
            try:
                self._destination.update_metadata(self._of.destination, info.id, copied_metadata(info))
            except _FATAL:
                raise
            except TensorusError as error:
                self._problem(info, error)
                return
        self._done("updated", info, existing)

    def _copy_one(self, wanted: _Wanted) -> None:
        """Copy a tensor that is large, or whose id is taken. It may change meanwhile: then copy what it is now."""
        info = wanted.info
        try:
            for _ in range(_TRIES):
                try:
                    self._try_one(info, wanted.existing)
                except ChangedError:
                    info = self._now(info)
                else:
                    return
            self._problem(info, "the tensor changes faster than it can be read")
        except StoppedError:
            return
        except TensorNotFoundError:
            self._tally.count(self._of, "gone")
        except _FATAL:
            raise
        except TensorusError as error:
            self._problem(info, error, conflict=isinstance(error, CONFLICTS))

    def _try_one(self, info: TensorInfo, existing: TensorInfo | None) -> None:
        if existing is not None and self._is_settled(info, existing):
            return
        if self._options.dry_run:
            self._done("copied" if existing is None else "replaced", info, None)
        else:
            self._sending().send_one(info, existing)

    def _now(self, info: TensorInfo) -> TensorInfo:
        return header(self._source, self._dataset.name, info.id, self._options.at).info

    def _is_settled(self, info: TensorInfo, existing: TensorInfo) -> bool:
        """Handle a tensor whose id is taken, unless it must be replaced. Checksums of edited tensors are of another kind."""
        assert self._destination is not None
        stop = self._work.is_stopped
        if is_same_kind(info, existing):
            try:
                copied = plain_checksum(self._destination, existing, None, stop)
            except (ChangedError, TensorNotFoundError):
                self._problem(info, "the tensor of this id changed in the destination meanwhile", conflict=True)
                return True
            if plain_checksum(self._source, info, self._options.at, stop) == copied:
                self._settle(info, existing)
                return True
        if self._options.replaces:
            return False
        self._problem(info, "another tensor has this id", conflict=True)
        return True

    def _copy_batch(self, batch: Sequence[TensorInfo]) -> None:
        if self._options.dry_run:
            for info in batch:
                self._done("copied", info, None)
            return
        try:
            self._sending().send_batch(batch)
        except StoppedError:
            return

    def _sending(self) -> Sending:
        assert self._destination is not None
        return Sending(
            self._source,
            self._destination,
            self._dataset,
            self._of,
            self._options.at,
            self._work.is_stopped,
            done=self._done,
            problem=self._problem,
            gone=lambda: self._tally.count(self._of, "gone"),
            progress=self._progress.add,
        )
