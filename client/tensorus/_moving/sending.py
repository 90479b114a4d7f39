"""Stores tensors of the source in the destination, and checks that they arrived with the same values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from tensorus._asking import ASK_BYTES_MIN
from tensorus._backend import InsertOptions, Upload
from tensorus._moving.exact import STORED_BEFORE, copied_metadata, exact_policy, lossless_policy
from tensorus._moving.incoming import Incoming, StoppedError, small_tensors
from tensorus.errors import (
    AlreadyExistsError,
    DataCorruptError,
    GenerationMismatchError,
    InternalError,
    InvalidPolicyError,
    LimitExceededError,
    NotImplementedByServerError,
    StorageFullError,
    TensorNotFoundError,
    TensorusError,
    UnavailableError,
    UnsupportedCodecError,
)
from tensorus.types import Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tensorus._backend import Backend, State
    from tensorus._moving.report import DatasetCopy
    from tensorus.types import DatasetInfo, Progress, TensorInfo

__all__ = ["CONFLICTS", "Sending"]

_UNKNOWN_POLICY = (InvalidPolicyError, UnsupportedCodecError)
_LOSSLESS = "lossless"

CONFLICTS = (AlreadyExistsError, GenerationMismatchError)
"""Errors of an insert whose id is taken."""


class _Done(Protocol):
    def __call__(self, outcome: str, info: TensorInfo, copy: TensorInfo | None, *, adds: bool = True) -> None: ...


class _Problem(Protocol):
    def __call__(self, info: TensorInfo, error: TensorusError | str, *, conflict: bool = False) -> None: ...


@dataclass(frozen=True)
class Sending:
    """Sends tensors of one dataset, from one thread."""

    source: Backend
    destination: Backend
    dataset: DatasetInfo
    """In the source."""
    of: DatasetCopy
    at: State | None
    is_stopped: Callable[[], bool]
    done: _Done
    """Called for each tensor that the destination has, with its outcome, and what it is there."""
    problem: _Problem
    """Called for each tensor that was not copied."""
    gone: Callable[[], None]
    """Called for each tensor that was deleted from the source meanwhile."""
    progress: Callable[[int], None]
    """Called with further canonical bytes that were sent."""

    def send_one(self, info: TensorInfo, existing: TensorInfo | None) -> None:
        """Send a tensor of any size, and report its outcome; `existing` is replaced.

        Raises:
            ChangedError, StoppedError: see `Incoming.blocks`.
            TensorusError: it cannot be read or stored.
        """
        policy = exact_policy(info, self.dataset.policy)
        incoming = Incoming(self.source, info, self.at, self.is_stopped)
        upload = self._upload(info, policy, incoming.blocks, existing)
        known = self._known(upload, info)
        if known is not None and existing is None and known.value_checksum == info.value_checksum:
            self.done("present" if not known.inserted else "shared", info, known)
            return
        sent_bytes = 0

        def show(progress: Progress) -> None:
            nonlocal sent_bytes
            self.progress(max(0, progress.done_bytes - sent_bytes))
            sent_bytes = max(sent_bytes, progress.done_bytes)

        copy = self._insert(upload, show)
        if copy.value_checksum != incoming.checksum:
            copy = self._insert_losslessly(upload, info, copy, incoming.checksum)
        self.progress(info.canonical_bytes - min(sent_bytes, info.canonical_bytes))
        self.done(self._outcome(copy, existing), info, copy, adds=False)

    def send_batch(self, infos: Sequence[TensorInfo]) -> None:
        """Send small tensors whose ids the destination does not have, and report the outcome of each.

        Raises:
            StoppedError: the copy was stopped.
            UnavailableError, StorageFullError: a store cannot be used any more.
        """
        if self.is_stopped():
            raise StoppedError
        read: list[tuple[TensorInfo, Upload, str]] = []
        for position, found in small_tensors(self.source, self.dataset.name, [one.id for one in infos], self.at):
            if isinstance(found, TensorusError):
                self._unreadable(infos[position], found)
                continue
            policy = exact_policy(found.info, self.dataset.policy)
            read.append((found.info, self._upload(found.info, policy, _blocks_of(found.data), None), found.checksum))
        uploads = [upload for _, upload, _ in read]
        outcomes = dict(self.destination.insert(self.of.destination, uploads, InsertOptions(), None))
        for position, (info, upload, checksum) in enumerate(read):
            try:
                copy = self._known_policy(outcomes.get(position), upload)
                if copy.value_checksum != checksum:
                    copy = self._insert_losslessly(upload, info, copy, checksum)
            except (UnavailableError, StorageFullError):
                raise
            except TensorusError as error:
                self.problem(info, error, conflict=isinstance(error, CONFLICTS))
            else:
                self.done(self._outcome(copy, None), info, copy)

    def _unreadable(self, info: TensorInfo, error: TensorusError) -> None:
        if isinstance(error, UnavailableError):
            raise error
        if isinstance(error, TensorNotFoundError):
            self.gone()
        else:
            self.problem(info, error)

    def _upload(
        self,
        info: TensorInfo,
        policy: Policy,
        blocks: Callable[[int], Iterator[memoryview]],
        existing: TensorInfo | None,
    ) -> Upload:
        return Upload(
            info.id,
            info.dtype,
            info.shape,
            info.canonical_bytes,
            blocks,
            copied_metadata(info),
            policy,
            if_generation_match=None if existing is None else existing.generation,
        )

    def _known(self, upload: Upload, info: TensorInfo) -> TensorInfo | None:
        """Insert a tensor without its bytes, if the destination has these; None: they must be sent.

        The checksum of an edited tensor is of another kind, which no destination knows.
        """
        if info.canonical_bytes < ASK_BYTES_MIN or upload.if_generation_match is not None:
            return None
        try:
            found = self.destination.insert_known(
                self.of.destination, [(upload, bytes.fromhex(info.value_checksum))]
            ).get(0)
        except NotImplementedByServerError:
            return None
        if isinstance(found, TensorusError):
            if isinstance(found, CONFLICTS):
                raise found
            return None
        return found

    def _insert(self, upload: Upload, on_progress: Callable[[Progress], None] | None = None) -> TensorInfo:
        outcomes = dict(self.destination.insert(self.of.destination, [upload], InsertOptions(), on_progress))
        return self._known_policy(outcomes.get(0), upload)

    def _known_policy(self, outcome: TensorInfo | TensorusError | None, upload: Upload) -> TensorInfo:
        """Return a stored tensor, or raise its error. A preset that an older store does not know becomes "lossless"."""
        policy = upload.policy
        if isinstance(outcome, LimitExceededError) and STORED_BEFORE in upload.metadata:
            # What a copy has in addition may not fit beside large metadata.
            own = {key: value for key, value in upload.metadata.items() if key != STORED_BEFORE}
            return self._insert(replace(upload, metadata=own))
        if isinstance(outcome, _UNKNOWN_POLICY) and policy is not None and policy.preset != _LOSSLESS:
            return self._insert(replace(upload, policy=Policy(preset=_LOSSLESS, chunk_bytes=policy.chunk_bytes)))
        return _stored(outcome, upload)

    def _insert_losslessly(self, upload: Upload, info: TensorInfo, copy: TensorInfo, checksum: str) -> TensorInfo:
        """Store a tensor again whose values the first encoding altered, such as the payload of a NaN.

        Raises:
            AlreadyExistsError: the tensor was there before.
            DataCorruptError: its values are different all the same.
        """
        if not copy.inserted:
            raise AlreadyExistsError("another tensor has this id", reason="ALREADY_EXISTS")
        again = replace(upload, policy=lossless_policy(info, self.dataset.policy), if_generation_match=copy.generation)
        found = self._insert(again)
        if found.value_checksum != checksum:
            raise DataCorruptError(
                f"the destination has other values than were sent: checksum {found.value_checksum}, expected {checksum}",
                reason="DATA_CORRUPT",
            )
        return found

    def _outcome(self, copy: TensorInfo, existing: TensorInfo | None) -> str:
        if not copy.inserted:
            return "present"
        return "copied" if existing is None else "replaced"


def _stored(outcome: TensorInfo | TensorusError | None, of: Upload) -> TensorInfo:
    """Return a stored tensor, or raise its error."""
    if outcome is None:
        raise InternalError(f"the insert ended without a result [tensor={of.id}]")
    if isinstance(outcome, TensorusError):
        raise outcome
    return outcome


def _blocks_of(data: bytes) -> Callable[[int], Iterator[memoryview]]:
    view = memoryview(data)
    return lambda block_bytes: (view[start : start + block_bytes] for start in range(0, view.nbytes, block_bytes))
