"""Builds an engine on an object store, with the catalogue in PostgreSQL, or in SQLite on one machine."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from tensorus_server.catalogue.identity_check import LOSS_QUARANTINE_S
from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.chunk_store.cache.payloads import CachedPayloads
from tensorus_server.chunk_store.objects.address import StoreAddress
from tensorus_server.engine.codec_pool import CodecPool
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.insert.catalogue_sessions import CatalogueSessions
from tensorus_server.engine.insert.lease_locks import LeaseLocks
from tensorus_server.engine.insert.sessions import InsertSessions
from tensorus_server.engine.insert.tensor_locks import TensorLocks
from tensorus_server.engine.membership import Membership
from tensorus_server.engine.orphans import quarantine_all_orphans
from tensorus_server.engine.recover import recover
from tensorus_server.engine.recovery_sources import ObjectSource
from tensorus_server.errors import InvalidRequestError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorus_server.catalogue.abc import Catalogue, MemberTable
    from tensorus_server.catalogue.postgres import PostgresCatalogue
    from tensorus_server.chunk_store.abc import WriteLog
    from tensorus_server.chunk_store.objects.store import ObjectChunkStore
    from tensorus_server.config import EngineConfig
    from tensorus_server.engine.recover import Recovery

__all__ = ["check_remote_addresses", "open_for_check", "open_remote", "postgres_missing", "recover_remote"]


def check_remote_addresses(config: EngineConfig) -> None:
    """Check the form of the addresses in the settings, without connecting to anything.

    Raises:
        ValueError: one is malformed, or the store cannot be opened as the settings say; the message does not repeat what may
            be a password.
        ImportError: psycopg is not installed.
    """
    assert config.chunks is not None
    if config.read_only:
        raise ValueError(
            "read_only is set, and so is chunks: this version opens only stores in a folder for reading only"
        )
    try:
        StoreAddress.parse(config.chunks)
        if config.catalogue is not None:
            _postgres().check_address(config.catalogue)
    except (InvalidRequestError, StoreUnavailableError) as error:
        raise ValueError(str(error)) from error


def open_remote(config: EngineConfig) -> Engine:
    """Open the store that the settings describe, or create it.

    Raises:
        StoreUnavailableError: it cannot be opened; the message says which part of it, and why.
        ImportError: obstore or psycopg is not installed.
    """
    with ExitStack() as opened:
        writes = _LateWrites()
        chunk_store = _object_store(config, writes)
        opened.callback(chunk_store.close)
        catalogue = _catalogue(config, chunk_store)
        opened.callback(catalogue.close)
        if config.accept_loss:
            quarantine_all_orphans(catalogue, chunk_store, chunk_store.quarantine, quarantine_s=LOSS_QUARANTINE_S)
        membership = Membership(catalogue.members)
        opened.callback(membership.close, 0.0)
        writes.bind(catalogue.members, membership.writes)
        cache = None
        if config.cache_dir is not None:
            cache = CachedPayloads(chunk_store, config.cache_dir, config.cache_bytes, processes=config.cache_processes)
        pool = CodecPool(config.codec_threads)
        # From here on, the engine owns all parts and closes them.
        opened.pop_all()
    return Engine(
        catalogue,
        chunk_store,
        pool,
        InsertSessions(CatalogueSessions(membership)),
        TensorLocks(LeaseLocks(membership)),
        membership=membership,
        cache=cache,
        orphan_age_s=config.orphan_age_s,
        quarantine_s=config.quarantine_s,
        sweeps=config.sweeps,
        shares_payloads=config.shares_payloads,
        direct_reads=config.direct_reads,
    )


def recover_remote(config: EngineConfig) -> Recovery:
    """Recover missing rows in the catalogue of a store from its object store; see `recover`.

    A catalogue that is empty gets a new identity, which the payloads then have, too.

    Raises:
        StoreUnavailableError: a process has the store open, or it cannot be opened.
    """
    with ExitStack() as opened:
        writes = _LateWrites()
        chunk_store = _object_store(config, writes)
        opened.callback(chunk_store.close)
        catalogue = _catalogue(replace(config, accept_loss=True), chunk_store)
        opened.callback(catalogue.close)
        if others := catalogue.members.others():
            raise StoreUnavailableError(f"processes have the store open: {', '.join(others)}; stop them first")
        membership = Membership(catalogue.members)
        opened.callback(membership.close, 0.0)
        writes.bind(catalogue.members, membership.writes)
        packs = chunk_store.packs
        assert packs is not None
        return recover(ObjectSource(chunk_store, chunk_store, packs), catalogue)


def open_for_check(config: EngineConfig) -> ObjectChunkStore:
    """Return the object store of the settings, after it was tried; nothing may be stored in it.

    Raises:
        StoreUnavailableError: it is not reachable, refuses the credentials, or breaks a promise.
        ImportError: obstore is not installed.
    """
    return _object_store(config, _LateWrites())


def _object_store(config: EngineConfig, writes: _LateWrites) -> ObjectChunkStore:
    assert config.chunks is not None
    try:
        from tensorus_server.chunk_store.objects.probe import probe_store  # noqa: PLC0415 - an extra
        from tensorus_server.chunk_store.objects.store import ObjectChunkStore  # noqa: PLC0415
    except ImportError as error:
        raise _missing(error, "an object store", "object-store") from error
    store = ObjectChunkStore(config.chunks, writes=writes, has_other_users=writes.has_others)
    try:
        probe_store(store.client.address)
    except BaseException:
        store.close()
        raise
    return store


def _catalogue(config: EngineConfig, chunk_store: ObjectChunkStore) -> Catalogue:
    if config.catalogue is None:
        try:
            config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StoreUnavailableError(f"cannot open a catalogue in {config.data_dir}: {error.strerror}") from error
        return SqliteCatalogue(
            config.data_dir,
            payloads=_Payloads(chunk_store),
            accept_loss=config.accept_loss,
            delete_grace_s=config.delete_grace_s,
            upload_expiry_s=config.upload_expiry_s,
        )
    return _postgres()(
        config.catalogue,
        payloads=chunk_store,
        accept_loss=config.accept_loss,
        delete_grace_s=config.delete_grace_s,
        upload_expiry_s=config.upload_expiry_s,
    )


def _postgres() -> type[PostgresCatalogue]:
    try:
        from tensorus_server.catalogue.postgres import PostgresCatalogue  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise postgres_missing(error) from error
    return PostgresCatalogue


def postgres_missing(error: ImportError) -> ImportError:
    """Return the error that says how to install what a catalogue in PostgreSQL needs."""
    return _missing(error, "a catalogue in PostgreSQL", "postgres")


def _missing(error: ImportError, what: str, extra: str) -> ImportError:
    return ImportError(
        f"{error.name} is not installed, which {what} needs: pip install 'tensorus[{extra}]'", name=error.name
    )


class _Payloads:
    """What a catalogue in SQLite needs of the object store.

    The commit by which a process leaves the store comes after the chunk store was closed, and may raise the store's epoch. So
    the identity has a client of its own.
    """

    def __init__(self, chunk_store: ObjectChunkStore) -> None:
        from tensorus_server.chunk_store.objects.client import ObjectClient  # noqa: PLC0415 - an extra
        from tensorus_server.chunk_store.objects.identity import IdentityObject  # noqa: PLC0415

        identity = IdentityObject(ObjectClient(chunk_store.client.address))
        self.read_identity = identity.read_identity
        self.write_identity = identity.write_identity
        self.published = chunk_store.published


class _LateWrites:
    """A `WriteLog` that is there before the catalogue is, since the catalogue needs the chunk store to be opened.

    Nothing is written in between but the store's identity, which is in no log.
    """

    def __init__(self) -> None:
        self.log: WriteLog | None = None
        self._members: MemberTable | None = None

    def bind(self, members: MemberTable, log: WriteLog) -> None:
        """Use the catalogue from here on."""
        self._members, self.log = members, log

    def has_others(self) -> bool:
        """Return whether another living process is a member of the store."""
        return self._members is not None and bool(self._members.others())

    @property
    def number(self) -> int | None:
        """See `WriteLog`."""
        return None if self.log is None else self.log.number

    def require(self) -> None:
        """See `WriteLog`."""
        if self.log is not None:
            self.log.require()

    def begin(self, keys: Sequence[str]) -> None:
        """See `WriteLog`."""
        self._bound().begin(keys)

    def take_over(self, payload_key: str) -> int:
        """See `WriteLog`."""
        return self._bound().take_over(payload_key)

    def park(self, payload_key: str) -> None:
        """See `WriteLog`."""
        self._bound().park(payload_key)

    def abandon(self, keys: Sequence[str]) -> list[str]:
        """See `WriteLog`."""
        return self._bound().abandon(keys)

    def forget(self, keys: Sequence[str]) -> None:
        """See `WriteLog`."""
        self._bound().forget(keys)

    def _bound(self) -> WriteLog:
        assert self.log is not None
        return self.log
