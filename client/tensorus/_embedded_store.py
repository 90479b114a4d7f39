"""What the backend that is an engine does with datasets and with the store as a whole, and its life.

`embedded.py` has the tensors.
"""

from __future__ import annotations

import math
import re
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

from tensorus._forks import leave_behind, watch
from tensorus._from_engine import (
    damage_info,
    dataset_info,
    progress_info,
    report_info,
    restore_info,
    snapshot_info,
    stats_info,
    store_stats_info,
    tensor_info,
)
from tensorus._grpc.calls_copies import copies_request
from tensorus._grpc.convert_access import status_from
from tensorus._grpc.convert_dataset import policy_to, schema_to
from tensorus._grpc.convert_history import retention_to, state_to
from tensorus.errors import DataCorruptError, TensorusError, UnavailableError, error_for
from tensorus_server.access.rights import LOCAL_CALLER, Rights
from tensorus_server.app import open_engine
from tensorus_server.config import EngineConfig
from tensorus_server.engine.verify.verification import Target
from tensorus_server.errors import facts_of, reason_of
from tensorus_server.rpc.access_calls import AccessCalls
from tensorus_server.rpc.convert import policy_from, schema_from
from tensorus_server.rpc.convert_history import at_from, retention_from
from tensorus_server.rpc.copy_calls import run_copies
from tensorus_server.rpc.server_status import server_status

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence
    from datetime import timedelta

    from tensorus._backend import Copies, Finding, State
    from tensorus._grpc.steps import Call
    from tensorus.access import ServerStatus
    from tensorus.types import (
        DatasetInfo,
        DatasetStats,
        Policy,
        RestoreReport,
        Schema,
        SnapshotInfo,
        StoreStats,
        TensorInfo,
    )
    from tensorus_codecs.policy import StoragePolicy
    from tensorus_server import model
    from tensorus_server.engine.engine import Engine

__all__ = ["EmbeddedStore", "as_tensorus_errors", "engine_state", "error_of_ours"]

T = TypeVar("T")

_PROGRESS_EVERY_S = 0.5
"""How often a verification tells its progress: as often as a server does."""


class EmbeddedStore:
    """The part of `EmbeddedBackend` that reads and writes no tensors."""

    def __init__(self, path: str | os.PathLike[str], configure: Callable[[Path], EngineConfig] = EngineConfig) -> None:
        """Open the store in `path`, or create it.

        Args:
            configure: makes the engine's settings for a folder.
        """
        with as_tensorus_errors():
            config = configure(Path(path))
            self._opened: Engine | None = open_engine(config)
        self._place = config.describe()
        self._opened_s = time.time()
        watch(self)

    @classmethod
    def in_folder(cls, path: str | os.PathLike[str], *, read_only: bool) -> Self:
        """Open a store in a folder, or create it unless it is to be read only."""
        return cls(path, partial(EngineConfig, read_only=read_only))

    @classmethod
    def temporary(cls, path: Path) -> Self:
        """Open a store in memory; in the folder, which is removed when the process ends, are its large tensors."""
        return cls(path, partial(EngineConfig, in_memory=True))

    @classmethod
    def beyond_one_machine(
        cls,
        path: str | os.PathLike[str] | None,
        catalogue: str | None,
        chunks: str | None,
        cache_dir: str | os.PathLike[str] | None,
        cache_bytes: int,
        *,
        read_only: bool = False,
    ) -> Self:
        """Open a store with parts that are not in a folder; arguments and errors as of `tensorus.open`."""
        if path is None and (catalogue is None or chunks is None):
            raise ValueError("name the folder of the store, or both of its parts with catalogue and chunks")
        settings: dict[str, Any] = {
            "catalogue": catalogue,
            "chunks": chunks,
            "cache_dir": None if cache_dir is None else Path(cache_dir),
            "cache_bytes": cache_bytes,
            "read_only": read_only,
        }
        # Where both parts are elsewhere, nothing is in the folder.
        return cls(path or ".", lambda folder: EngineConfig(folder, **settings))

    def after_fork(self) -> None:
        """See `ForkAware`. Neither the engine's threads nor its connections to SQLite may be used here."""
        leave_behind(self._opened)
        self._opened = None

    def __reduce__(self) -> NoReturn:
        """Refuse: an engine is of the process that opened it."""
        raise TypeError(
            "a client of a store in this process cannot be pickled: open the store in the process that uses it, or serve it"
        )

    def create_dataset(
        self,
        name: str,
        policy: Policy | None,
        schema: Schema | None,
        retention: timedelta | None,
        *,
        repeatable: bool,  # noqa: ARG002 - an engine in this process always answers
    ) -> DatasetInfo:
        """See `Backend`."""
        with as_tensorus_errors():
            retention_s = _retention_s(retention, name) or 0
            return dataset_info(self._engine.create_dataset(name, _policy(policy), _schema(schema), retention_s))

    def get_dataset(self, name: str) -> DatasetInfo:
        """See `Backend`."""
        with as_tensorus_errors():
            return dataset_info(self._engine.get_dataset(name))

    def list_datasets(self) -> list[DatasetInfo | DataCorruptError]:
        """See `Backend`."""
        with as_tensorus_errors():
            found: list[model.Dataset | Exception] = []
            token = ""
            while True:
                page, token = self._engine.list_datasets(page_token=token)
                found += page
                if not token:
                    break
        return [_damage(dataset) if isinstance(dataset, Exception) else dataset_info(dataset) for dataset in found]

    def update_dataset(
        self, name: str, policy: Policy | None, schema: Schema | None, retention: timedelta | None
    ) -> DatasetInfo:
        """See `Backend`."""
        with as_tensorus_errors():
            retention_s = _retention_s(retention, name)
            return dataset_info(self._engine.update_dataset(name, _policy(policy), _schema(schema), retention_s))

    def delete_dataset(self, name: str, *, drop_snapshots: bool) -> int:
        """See `Backend`."""
        with as_tensorus_errors():
            return self._engine.delete_dataset(name, drop_snapshots=drop_snapshots)

    def dataset_stats(self, name: str, at: State | None) -> DatasetStats:
        """See `Backend`."""
        with as_tensorus_errors():
            return stats_info(self._engine.dataset_stats(name, engine_state(at, name)))

    def create_snapshot(self, dataset: str, name: str) -> SnapshotInfo:
        """See `Backend`."""
        with as_tensorus_errors():
            return snapshot_info(self._engine.snapshots.create(dataset, name))

    def list_snapshots(self, dataset: str) -> list[SnapshotInfo | DataCorruptError]:
        """See `Backend`."""
        with as_tensorus_errors():
            found: list[model.Snapshot | Exception] = []
            token = ""
            while True:
                page, token = self._engine.snapshots.page(dataset, page_token=token)
                found += page
                if not token:
                    break
        return [_damage(one) if isinstance(one, Exception) else snapshot_info(one) for one in found]

    def drop_snapshot(self, dataset: str, name: str) -> None:
        """See `Backend`."""
        with as_tensorus_errors():
            self._engine.snapshots.drop(dataset, name)

    def restore(self, dataset: str, at: State, *, discard_newer: bool) -> RestoreReport:
        """See `Backend`."""
        with as_tensorus_errors():
            state = at_from(state_to(at), dataset=dataset)
            return restore_info(self._engine.snapshots.restore(dataset, state, discard_newer=discard_newer))

    def copy_tensors(self, copies: Copies) -> list[TensorInfo]:
        """See `Backend`."""
        with as_tensorus_errors():
            return list(map(tensor_info, run_copies(self._engine.copies, copies_request(copies))))

    def copy_dataset(self, name: str, new_name: str, at: State | None) -> DatasetInfo:
        """See `Backend`."""
        with as_tensorus_errors():
            copied, _ = self._engine.copies.copy_dataset(name, new_name, at=engine_state(at, name))
            return dataset_info(copied)

    def rename_dataset(self, name: str, new_name: str) -> DatasetInfo:
        """See `Backend`."""
        with as_tensorus_errors():
            return dataset_info(self._engine.copies.rename_dataset(name, new_name))

    def server_status(self) -> ServerStatus:
        """See `Backend`."""
        with as_tensorus_errors():
            status = server_status(self._engine, Rights(), LOCAL_CALLER, started_s=self._opened_s, store=self._place)
            return status_from(status)

    def ask_access(self, call: Call[T]) -> T:
        """See `Backend`. Whoever can open the store may do everything in it."""
        with as_tensorus_errors():
            method = getattr(AccessCalls(self._engine.access), re.sub(r"(?<!^)(?=[A-Z])", "_", call.name).lower())
            return call.value(method(call.request))

    def store_stats(self) -> StoreStats:
        """See `Backend`."""
        with as_tensorus_errors():
            return store_stats_info(self._engine.store_stats())

    def verify(self, dataset: str | None, ids: Sequence[str], bytes_per_second: int | None) -> Iterator[Finding]:
        """See `Backend`."""
        with as_tensorus_errors():
            verification = self._engine.verify(Target(dataset or "", ids, bytes_per_second))
            shown_s = -math.inf
            for damage in verification:
                if damage is not None:
                    yield damage_info(damage)
                if time.monotonic() - shown_s >= _PROGRESS_EVERY_S:
                    yield progress_info(verification.progress)
                    shown_s = time.monotonic()
            yield progress_info(verification.progress)
            yield report_info(verification.progress)

    def close(self) -> None:
        """See `Backend`."""
        if self._opened is not None:
            self._opened.close()

    @property
    def _engine(self) -> Engine:
        if self._opened is None:
            raise UnavailableError(
                "the store was opened before this process was forked: open it in the child, such as in `worker_init_fn`, "
                "or serve it and connect",
                reason="UNAVAILABLE",
            )
        return self._opened


def _policy(policy: Policy | None) -> StoragePolicy | None:
    return None if policy is None else policy_from(policy_to(policy))


def engine_state(at: State | None, dataset: str) -> model.At | None:
    """Return a state of a dataset as the engine takes it, by way of the contract, so that both clients refuse alike."""
    return None if at is None else at_from(state_to(at), dataset=dataset)


def _retention_s(retention: timedelta | None, dataset: str) -> int | None:
    return None if retention is None else retention_from(retention_to(retention), dataset=dataset)


def _schema(schema: Schema | None) -> model.Schema | None:
    return None if schema is None else schema_from(schema_to(schema))


@contextmanager
def as_tensorus_errors() -> Iterator[None]:
    """Turn what the engine raises into errors of ours; what nobody foresaw is an internal error, as it is of a server."""
    try:
        yield
    except TensorusError:
        raise
    except Exception as error:
        raise error_of_ours(error) from error


def _damage(error: Exception) -> DataCorruptError:
    found = error_of_ours(error)
    assert isinstance(found, DataCorruptError), found
    return found


def error_of_ours(error: Exception) -> TensorusError:
    """Return the client's error of the same reason."""
    reason = reason_of(error)
    message = f"{type(error).__name__}: {error}" if reason == "INTERNAL" else str(error)
    return error_for(reason, message, facts_of(error))
