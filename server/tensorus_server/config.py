"""The settings of a store and of a server; each has its unit, its default, and the reason for the default."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar, get_args, get_type_hints

__all__ = ["EngineConfig", "LogConfig", "ServerConfig", "TlsConfig", "without_password"]

_Config = TypeVar("_Config")

_HOST = re.compile(r"[^][:]+|\[[^][]*:[^][]*\]")
"""The hosts in addresses that gRPC understands."""


@dataclass(frozen=True)
class EngineConfig:
    """The settings of one store."""

    data_dir: Path
    """Folder of the store; created if it does not exist."""
    codec_threads: int | None = None
    """Threads that encode and decode; None: one per processor."""
    reserve_bytes: int = 1024**3
    """Minimum free space that inserts leave on the disk for reads, deletes and the catalogue. 1 GiB."""
    reserve_share: float = 0.02
    """The same as a share of the disk; the larger of the two applies."""
    delete_grace_s: float = 3600.0
    """How long a deleted tensor's payload stays for reads in progress. Must be at least as long as the longest Get."""
    upload_expiry_s: float = 3600.0
    """How long after its last mark an interrupted insert can be resumed. It should outlast a restart or a network outage; a
    larger value only costs disk space."""
    orphan_age_s: float = 86400.0
    """Minimum age at which the daily listing moves a payload without a row to quarantine; far longer than a commit takes."""
    quarantine_s: float = 86400.0
    """How long a payload stays in quarantine before it is deleted."""
    sweeps: bool = True
    """Whether garbage is collected in the background."""
    in_memory: bool = False
    """Whether the catalogue, with the small tensors, is in memory and nothing is synced. This is for a private store that ends
    with its process. Large tensors are in `data_dir`."""
    shares_payloads: bool = True
    """Whether tensors with equal bytes share one payload. Bytes count as equal if their XXH3-128 and CRC32C are equal, which
    somebody who is allowed to insert could bring about on purpose for two tensors of their own."""
    catalogue: str | None = None
    """URL of the PostgreSQL database with the catalogue, such as "postgresql://host/db"; None: SQLite in `data_dir`. May hold a
    password: see `describe`."""
    chunks: str | None = None
    """URL of the object store with the payloads, such as "s3://bucket/prefix"; None: files in `data_dir`."""
    cache_dir: Path | None = None
    """Folder of the cache of an object store's payloads; None: no cache."""
    cache_bytes: int = 16 * 1024**3
    """Size of that cache. 16 GiB."""
    cache_processes: int = 1
    """Processes that share its folder; each gets a share of the size."""
    direct_reads: bool = True
    """Whether clients may read payloads from the object store themselves, if it can sign URLs."""
    accept_loss: bool = False
    """Whether to open a store whose catalogue lacks rows, and to move payloads without a row to quarantine for a week. If
    False, such a store is refused."""
    read_only: bool = False
    """Whether the store is open for reading only. Then nothing on the disk is changed or created, every call that writes fails,
    and the store may be on a disk that cannot be written."""

    def __post_init__(self) -> None:
        """Refuse invalid settings; the message names the key."""
        if self.codec_threads is not None and self.codec_threads < 1:
            raise ValueError(f"codec_threads is {self.codec_threads}, must be at least 1")
        if self.reserve_bytes < 0 or not 0 <= self.reserve_share < 1:
            raise ValueError("reserve_bytes must not be negative, and reserve_share must be at least 0 and below 1")
        if self.read_only and (self.in_memory or self.accept_loss):
            raise ValueError("read_only is set, and so is in_memory or accept_loss, which must write")
        self._require_places()

    def _require_places(self) -> None:
        if self.catalogue is not None and not self.catalogue.startswith(("postgresql://", "postgres://")):
            # The value is not repeated: it may be another form of address, with a password anywhere in it.
            raise ValueError("catalogue must be the URL of a PostgreSQL database: postgresql://HOST/DATABASE")
        if self.catalogue is not None and self.chunks is None:
            raise ValueError(
                "a catalogue in PostgreSQL needs an object store: name one with chunks, for example s3://BUCKET"
            )
        if self.chunks is not None and "://" not in self.chunks:
            raise ValueError(f"chunks is {self.chunks!r}, must be a URL, for example s3://BUCKET/PREFIX")
        if self.cache_dir is not None and self.chunks is None:
            raise ValueError("cache_dir is set, but payloads in data_dir need no cache: it is for an object store")
        if self.cache_bytes < 1:
            raise ValueError(f"cache_bytes is {self.cache_bytes}, must be at least 1")

    def describe(self) -> str:
        """Return where the store is, without passwords."""
        if self.chunks is None:
            return str(self.data_dir)
        catalogue = str(self.data_dir / "catalogue.db") if self.catalogue is None else without_password(self.catalogue)
        return f"{self.chunks.partition('?')[0]} with the catalogue {catalogue}"


@dataclass(frozen=True)
class TlsConfig:
    """The files with which a server encrypts its connections, all PEM. It reads them again when they change."""

    cert: Path
    """The certificate of the server, then the ones between it and its CA."""
    key: Path
    """The key of that certificate, without a password."""
    client_ca: Path | None = None
    """CAs: only clients with a certificate of one of them can connect. None: clients need no certificate."""


@dataclass(frozen=True)
class LogConfig:
    """What a server says about itself and its calls, and where."""

    format: str = "text"
    """"text" for people, or "json": one object per line. To the error stream."""
    level: str = "info"
    """The lowest level that is logged: debug, info, warning or error. Debug has every refused call, without a limit."""
    access: bool = False
    """Whether each call that succeeds has a line, too. 6,000 small calls a second would be 150 GB a day."""
    audit_file: Path | None = None
    """The file of the audit log; None: there is none."""

    def __post_init__(self) -> None:
        """Refuse invalid settings; the message names the key."""
        if self.format not in {"text", "json"}:
            raise ValueError(f"log_format is {self.format!r}, must be text or json")
        if self.level not in {"debug", "info", "warning", "error"}:
            raise ValueError(f"log_level is {self.level!r}, must be debug, info, warning or error")


@dataclass(frozen=True)
class ServerConfig:
    """The settings of one server, which serves one store."""

    engine: EngineConfig
    """The store."""
    listen: str = "127.0.0.1:7733"
    """Host and port; port 0 lets the system choose one."""
    streams_max: int = 64
    """Largest number of concurrent Insert, Get and Query calls, including queued ones; more get TOO_MANY_STREAMS."""
    memory_budget_bytes: int = 1024**3
    """Memory that all streams share. An Insert reserves 24 MiB, and a Get or Query of more than 256 KiB reserves 12 MiB; each
    waits until that is free. 1 GiB is enough for 42 Inserts, more than most machines' processors can serve at once."""
    grace_s: float = 30.0
    """How long calls may continue after the server was told to stop."""
    workers: int = 1
    """Processes that serve the port and the store together, each with its share of streams, memory and codec threads. More than
    one requires Linux."""
    memory_wait_s: float = 10.0
    """How long a stream waits for memory before it fails with TOO_MANY_STREAMS. Must be below the 15 s for which clients retry
    by default, so that they get the reason."""
    stall_timeout_s: float = 60.0
    """A stream on which nothing moves for this long is ended with STREAM_STALLED. To send a message of 1 MiB, the size that our
    clients send, in that time, a network needs 18 kB/s."""
    tls: TlsConfig | None = None
    """The certificates; None: connections are not encrypted."""
    authenticates: bool | None = None
    """Whether callers must prove who they are, and may do only what was granted to them. None: see `exposure.settled`; until
    then, it is not decided."""
    insecure: bool = False
    """Whether a network may reach the server although it lacks TLS or authentication."""
    keepalive_s: float = 30.0
    """A connection that is idle for this long is pinged, and closed if no answer comes within 20 s. So a client that lost power
    or its network is detected within a minute."""
    connections_max: int | None = None
    """Largest number of connections of each worker; further ones are closed at once. None: half of the descriptors that the
    process may have, so that the other half is left for files."""
    oidc_issuer: str | None = None
    """URL of an OpenID Connect issuer whose tokens are accepted, too; None: only the store's own tokens and certificates."""
    oidc_audience: str | None = None
    """What the issuer's tokens must have in `aud`."""
    metrics_listen: str | None = None
    """Host and port of the endpoint for Prometheus; None: there is none. Port 0 lets the system choose one. It has no TLS, asks
    nobody who they are, and shows neither names nor values."""
    traces: bool = False
    """Whether calls are traced with OpenTelemetry, which is set up by its own environment variables."""
    shares_port: bool = False
    """Whether this process is a worker that shares the port with others of the same server."""
    logs: LogConfig = LogConfig()
    """The log and the audit log."""

    def __post_init__(self) -> None:
        """Refuse invalid settings; the message names the key."""
        _require_address("listen", self.listen, "127.0.0.1:7733")
        if self.metrics_listen is not None:
            _require_address("metrics_listen", self.metrics_listen, "127.0.0.1:7734")
        if self.streams_max < 1:
            raise ValueError(f"streams_max is {self.streams_max}, must be at least 1")
        if self.memory_budget_bytes < 1:
            raise ValueError(f"memory_budget_bytes is {self.memory_budget_bytes}, must be at least 1")
        for name in ("memory_wait_s", "stall_timeout_s", "keepalive_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name):g}, must be above 0")
        if self.connections_max is not None and self.connections_max < 1:
            raise ValueError(f"connections_max is {self.connections_max}, must be at least 1")
        self._require_provider()
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}, must be at least 1")
        if self.workers > 1 and sys.platform != "linux":
            raise ValueError(
                f"workers is {self.workers}, must be 1 on {sys.platform}: only Linux lets processes share a port"
            )

    def _require_provider(self) -> None:
        if (self.oidc_issuer is None) != (self.oidc_audience is None):
            raise ValueError("oidc_issuer and oidc_audience need each other")
        if self.oidc_issuer is not None and self.authenticates is False:
            raise ValueError("oidc_issuer is set, but no caller is asked who it is (auth is false)")

    def of_worker(self, listen: str) -> Self:
        """Return the settings of each worker, with its share of the server's streams, memory and threads, rounded up.

        Args:
            listen: the address of all workers, with the port that was reserved.
        """

        def share(total: int) -> int:
            return -(-total // self.workers)

        return replace(
            self,
            engine=replace(
                self.engine,
                codec_threads=share(self.engine.codec_threads or os.cpu_count() or 1),
                cache_processes=self.workers,
            ),
            listen=listen,
            streams_max=share(self.streams_max),
            memory_budget_bytes=share(self.memory_budget_bytes),
            workers=1,
            shares_port=True,
        )

    def to_json(self) -> str:
        """Return the settings as JSON, for another process. They may hold a password."""
        # Paths are the only values that JSON lacks.
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse the result of `to_json`."""
        return _from_fields(cls, json.loads(text))


def _from_fields(kind: type[_Config], fields: dict[str, Any]) -> _Config:
    """Return a dataclass from what `asdict` and JSON made of it. `Any`: JSON."""
    values = {}
    for name, hint in get_type_hints(kind).items():
        value = fields[name]
        # The type of a field that may be None comes first, without it.
        inner = next(iter(get_args(hint)), hint)
        if value is not None and isinstance(inner, type) and is_dataclass(inner):
            value = _from_fields(inner, value)
        elif value is not None and inner is Path:
            value = Path(value)
        values[name] = value
    return kind(**values)


def _require_address(name: str, address: str, example: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{name} is {address!r}, must be HOST:PORT, for example {example}")
    if not _HOST.fullmatch(host):
        # gRPC takes "::1:7733" for an address and adds port 443.
        raise ValueError(f"{name} is {address!r}: an IPv6 address must be in brackets, for example [::1]:7733")


def without_password(url: str) -> str:
    """Return a database's URL without the password that it may hold, in the authority or in the query."""
    # First those in the query, which may have an "@", too.
    url = re.sub(r"(?<=[?&])((?:ssl)?password=)[^&]*", r"\1***", url)
    authority, at, rest = url.rpartition("@")
    scheme, _, user = authority.partition("://")
    return f"{scheme}://{user.partition(':')[0]}{at}{rest}" if at else url
