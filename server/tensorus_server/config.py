"""How a server is set up; every setting with its unit, its default and where that comes from."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

__all__ = ["EngineConfig", "ServerConfig"]


@dataclass(frozen=True)
class EngineConfig:
    """Of one store."""

    data_dir: Path
    """Folder of the store; made if it is not there."""
    codec_threads: int | None = None
    """Threads that encode and decode; None: one per processor."""
    reserve_bytes: int = 1024**3
    """Free space that inserts leave on the disk, at least: for reads, deletes and the catalogue. 1 GiB."""
    reserve_share: float = 0.02
    """The same as a share of the disk; the larger of the two counts."""
    delete_grace_s: float = 3600.0
    """How long the payload of a deleted tensor stays, for readers that began before. At least as long as the longest Get."""
    upload_expiry_s: float = 3600.0
    """How long after its last mark an interrupted insert can be resumed: longer than a restart or a night's network takes to
    come back costs only space."""
    orphan_age_s: float = 86400.0
    """How old a payload that no row knows must be for the daily listing to move it to quarantine: longer than commits take."""
    quarantine_s: float = 86400.0
    """How long it stays there before it is deleted."""
    sweeps: bool = True
    """Whether garbage is collected in the background."""
    in_memory: bool = False
    """Whether the catalogue, with the small tensors, is kept in memory, and nothing is synced: for a store that nobody else
    opens, and that ends with its process. The large tensors are in `data_dir`."""
    accept_loss: bool = False
    """Whether to open a store whose catalogue lacks rows, and to move the payloads that it does not know to quarantine, for a
    week; otherwise it is refused."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work; names the key."""
        if self.codec_threads is not None and self.codec_threads < 1:
            raise ValueError(f"codec_threads is {self.codec_threads}, must be at least 1")
        if self.reserve_bytes < 0 or not 0 <= self.reserve_share < 1:
            raise ValueError("reserve_bytes must not be negative, and reserve_share must be at least 0 and below 1")


@dataclass(frozen=True)
class ServerConfig:
    """Of one server on one store."""

    engine: EngineConfig
    """The store."""
    listen: str = "127.0.0.1:7733"
    """Host and port; port 0 lets the system choose one."""
    streams_max: int = 64
    """Insert, Get and Query calls at once, waiting ones included; more are refused with TOO_MANY_STREAMS."""
    memory_budget_bytes: int = 1024**3
    """What streams may hold together: an Insert borrows 24 MiB, a Get or Query of more than 256 KiB 12 MiB, and waits for it.
    1 GiB: 42 Inserts at work, more than processors of most machines can serve at once."""
    grace_s: float = 30.0
    """How long calls may go on after the server was told to stop."""
    workers: int = 1
    """Processes that serve the port and the store together, each with its share of streams, memory and codec threads. More than
    one needs Linux."""
    memory_wait_s: float = 10.0
    """How long a stream waits for memory before it is refused with TOO_MANY_STREAMS. Below the 15 s for which clients retry by
    default, so that they hear why."""
    stall_timeout_s: float = 60.0
    """After which a stream on which nothing moves is ended with STREAM_STALLED. A message of 1 MiB, which is what our clients
    send, needs a network of 18 kB/s to arrive in that time."""
    keepalive_s: float = 30.0
    """After which a connection on which nothing moves is pinged. One that does not answer within 20 s is closed: a client that
    lost its power or its network is gone within a minute."""
    connections_max: int | None = None
    """Connections at once, of each worker; more are closed as they come. None: half of the descriptors that the process may
    have, so that the other half is left for files."""
    shares_port: bool = False
    """Whether other processes may listen on the port, too: of the workers of one server."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work; names the key."""
        host, _, port = self.listen.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"listen is {self.listen!r}, must be HOST:PORT, for example 127.0.0.1:7733")
        if self.streams_max < 1:
            raise ValueError(f"streams_max is {self.streams_max}, must be at least 1")
        if self.memory_budget_bytes < 1:
            raise ValueError(f"memory_budget_bytes is {self.memory_budget_bytes}, must be at least 1")
        for name in ("memory_wait_s", "stall_timeout_s", "keepalive_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name):g}, must be above 0")
        if self.connections_max is not None and self.connections_max < 1:
            raise ValueError(f"connections_max is {self.connections_max}, must be at least 1")
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}, must be at least 1")
        if self.workers > 1 and sys.platform != "linux":
            raise ValueError(
                f"workers is {self.workers}, must be 1 on {sys.platform}: only on Linux can processes share a port as they must"
            )

    def of_worker(self, listen: str) -> Self:
        """Return what each of the workers is set up with: its share of what they have together, rounded up.

        Args:
            listen: where all of them listen, with the port that was reserved.
        """

        def share(total: int) -> int:
            return -(-total // self.workers)

        return replace(
            self,
            engine=replace(self.engine, codec_threads=share(self.engine.codec_threads or os.cpu_count() or 1)),
            listen=listen,
            streams_max=share(self.streams_max),
            memory_budget_bytes=share(self.memory_budget_bytes),
            workers=1,
            shares_port=True,
        )

    def to_json(self) -> str:
        """Return it as text, for another process."""
        fields = asdict(self)
        fields["engine"]["data_dir"] = str(self.engine.data_dir)
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return what `to_json` made a text of."""
        fields = json.loads(text)
        engine = fields.pop("engine")
        data_dir = Path(engine.pop("data_dir"))
        return cls(EngineConfig(data_dir, **engine), **fields)
