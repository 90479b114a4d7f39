"""The servers of one store, and which of them a call goes to. Nothing here knows gRPC.

An address may list several servers, or be a name that resolves to several. Each call says what it is about; the servers are
ordered by a hash of that and of their own addresses (rendezvous hashing), and the first one that works takes the call. So all
clients ask the same server for the same tensor, whose cache then holds it; if a server is added or removed, only what it takes
over moves.

A server that fails is left alone for a while, longer each time, and the next one in the order takes its calls. Then a thread
looks whether it takes connections again; no call waits for that. Only if no server is known to work does a call wait, for at
most `_CONNECT_S`.

With a single server, none of this happens: gRPC connects, and tells what is wrong.
"""

from __future__ import annotations

import hashlib
import ipaddress
import random
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tensorus._forks import watch
from tensorus.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorus.errors import TensorusError

__all__ = ["Server", "Servers", "is_servers_fault", "require_address"]

_CONNECT_S = 1.0
"""How long a server may take to accept a connection: several times the longest round trip on earth."""
_RESOLVE_S = 2.0
"""How long the names may take to be resolved; after that gRPC resolves them itself."""
_RESOLVE_AGAIN_S = 10.0
"""How long the result is used if a server fails."""
_FIRST_LEFT_S = 0.5
_LONGEST_LEFT_S = 30.0

_FAULTS = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "DRAINING", "STORE_UNAVAILABLE"})
_BROKEN_REASONS = frozenset({"INTERNAL", "UNKNOWN"})
"""Of a connection that broke; the server's own errors of these reasons have a `number`."""

_GRPC_LIST = re.compile(r"ipv[46]:")
_HOST_AND_PORT = re.compile(r"(?:dns:///)?(\[[^\[\]]+\]|[^:/\[\]]+):(\d{1,5})")


@dataclass(eq=False)
class Server:
    """One server, and what is known of it. Only `Servers` changes it."""

    target: str
    """What gRPC connects to."""
    authority: str | None = None
    """The name and port that the address was resolved from, which proxies may need; None: `target` says it."""
    endpoint: tuple[str, int] | None = field(default=None, repr=False)
    """Host and port; None: only gRPC knows how to connect."""
    is_up: bool = False
    """Whether it has answered, or accepted a connection, since it last failed."""
    is_probed: bool = False
    """Whether a thread is trying to connect."""
    failures: int = 0
    """Since it last answered."""
    left_until_s: float = 0.0
    why: str = "not tried yet"
    """It is not up."""


class Servers:
    """The servers that an address names. Thread-safe; after a fork, the child knows nothing of them."""

    def __init__(self, address: str) -> None:
        """Resolve no name yet.

        Raises:
            UnavailableError: the address is empty, or no text.
        """
        require_address(address)
        self._given = [address] if _GRPC_LIST.match(address) else [part.strip() for part in address.split(",")]
        for part in self._given:
            require_address(part)
        self._changed = threading.Condition()
        self._servers = [_as_given(part) for part in dict.fromkeys(self._given)]
        self._has_names = any(_is_name(server) for server in self._servers)
        self._resolved_s: float | None = None if self._has_names else 0.0
        watch(self)

    def after_fork(self) -> None:
        """See `ForkAware`."""
        self._changed = threading.Condition()
        self._servers = [Server(server.target, server.authority, server.endpoint) for server in self._servers]

    @property
    def count(self) -> int:
        """How many there are, as far as is known."""
        return len(self._servers)

    def pick(self, key: str) -> Server:
        """Return the server for a call. May take as long as it takes to connect.

        Args:
            key: what the call is about.

        Raises:
            UnavailableError: none of several servers can be reached; names them all.
        """
        self._resolve()
        server = self._pick(key, may_wait=True)
        if server is None:
            raise self._unreachable()
        return server

    def pick_at_once(self, key: str) -> Server | None:
        """Return the server for a call; None: it takes `pick` to find one."""
        return None if self._resolved_s is None else self._pick(key, may_wait=False)

    def answered(self, server: Server, failures: int) -> None:
        """Note that a server works.

        Args:
            failures: what `Server.failures` was when the call began: an old call says nothing about a newer failure.
        """
        if not server.is_up or server.failures:
            with self._changed:
                if server.failures == failures:
                    server.is_up, server.failures, server.left_until_s = True, 0, 0.0

    def failed(self, server: Server, error: TensorusError) -> None:
        """Note why a call failed; if that is the server's fault, it is left for a while."""
        if not is_servers_fault(error):
            return
        with self._changed:
            if self._has_names and time.monotonic() - (self._resolved_s or 0.0) > _RESOLVE_AGAIN_S:
                self._resolved_s = None
            self._leave(server, str(error))

    def _pick(self, key: str, *, may_wait: bool) -> Server | None:
        """Return the first server in the order of `key` that works; None: there is none, or only a wait could tell."""
        if len(self._servers) == 1:
            return self._servers[0]
        ordered = _in_order(key, self._servers)
        with self._changed:
            now_s = time.monotonic()
            give_up_s = now_s + 2 * _CONNECT_S
            for server in ordered:
                if not server.is_up and server.left_until_s <= now_s:
                    self._probe(server)
            while True:
                for server in ordered:
                    if server.is_up:
                        return server
                    if server.is_probed and not server.failures:
                        # The first time, it is worth waiting for: its cache is the right one.
                        break
                else:
                    return self._any(ordered, give_up_s, may_wait=may_wait)
                if not may_wait or not self._changed.wait(max(give_up_s - time.monotonic(), 0.0)):
                    return None

    def _any(self, ordered: Sequence[Server], give_up_s: float, *, may_wait: bool) -> Server | None:
        """Return whichever server works first, although all have failed. The lock is held."""
        if not may_wait:
            return None
        for server in ordered:
            self._probe(server)
        while True:
            for server in ordered:
                if server.is_up:
                    return server
            left_s = give_up_s - time.monotonic()
            if left_s <= 0 or not any(server.is_probed for server in ordered):
                return None
            self._changed.wait(left_s)

    def _probe(self, server: Server) -> None:
        """Let a thread try to connect. The lock is held."""
        if server.is_probed:
            return
        if server.endpoint is None:
            server.is_up = True
            return
        server.is_probed = True
        try:
            threading.Thread(target=self._connect, args=(server,), name="tensorus-connect", daemon=True).start()
        except RuntimeError as error:
            server.is_probed = False
            self._leave(server, str(error))

    def _connect(self, server: Server) -> None:
        """See whether a server accepts a connection. It is closed again: gRPC makes its own."""
        why = None
        try:
            socket.create_connection(server.endpoint or ("", 0), _CONNECT_S).close()
        except OSError as error:
            why = error.strerror or str(error)
        except BaseException as error:  # noqa: BLE001 - whoever waits for this must be told
            why = repr(error)
        with self._changed:
            server.is_probed = False
            if why is None:
                server.is_up = True
            else:
                self._leave(server, why)
            self._changed.notify_all()

    def _leave(self, server: Server, why: str) -> None:
        """Leave a server alone for a while. The lock is held."""
        left_s = min(_FIRST_LEFT_S * 2 ** min(server.failures, 10), _LONGEST_LEFT_S)
        server.failures += 1
        server.is_up, server.why = False, why
        server.left_until_s = time.monotonic() + left_s * random.uniform(0.5, 1.0)  # noqa: S311 - no secret

    def _unreachable(self) -> UnavailableError:
        with self._changed:
            told = ", ".join(f"{server.target} ({server.why})" for server in self._servers)
        return UnavailableError(f"no server can be reached: {told}", reason="UNAVAILABLE")

    def _resolve(self) -> None:
        """Resolve the names, unless that was done lately."""
        if self._resolved_s is not None:
            return
        found: list[Server] = []

        def resolve() -> None:
            found.extend(server for part in self._given for server in _resolved(_as_given(part)))

        # A name server that does not answer would hold the call up for longer than the caller allows.
        thread = threading.Thread(target=resolve, name="tensorus-resolve", daemon=True)
        thread.start()
        thread.join(_RESOLVE_S)
        with self._changed:
            self._resolved_s = time.monotonic()
            if not thread.is_alive() and found:
                known = {server.target: server for server in self._servers}
                self._servers = list({s.target: known.get(s.target, s) for s in found}.values())


def require_address(address: str) -> None:
    """Refuse what gRPC would try to resolve for ever.

    Raises:
        UnavailableError: the address is empty, or no text.
    """
    if not address or not address.isprintable():
        raise UnavailableError(
            f"address is {address!r}, must be such as 'localhost:7733' or 'a:7733,b:7733'", reason="UNAVAILABLE"
        )


def is_servers_fault(error: TensorusError) -> bool:
    """Return whether another server may do better: this one is away, stops, or cannot use its store."""
    return error.reason in _FAULTS or (error.reason in _BROKEN_REASONS and "number" not in error.facts)


def _in_order(key: str, servers: Sequence[Server]) -> list[Server]:
    """Return the servers in the order in which a call is to try them."""
    return sorted(
        servers,
        key=lambda server: hashlib.blake2b(f"{server.target}\0{key}".encode(errors="replace"), digest_size=8).digest(),
    )


def _as_given(part: str) -> Server:
    found = _HOST_AND_PORT.fullmatch(part)
    return Server(part, endpoint=None if found is None else (found[1].strip("[]"), int(found[2])))


def _is_name(server: Server) -> bool:
    if server.endpoint is None:
        return False
    try:
        ipaddress.ip_address(server.endpoint[0])
    except ValueError:
        return True
    return False


def _resolved(server: Server) -> list[Server]:
    """Return the servers behind a name that has several addresses of one kind; otherwise the server itself.

    An address of IPv4 and one of IPv6 are one server, as `localhost` has; gRPC tries both.
    """
    if not _is_name(server) or server.endpoint is None:
        return [server]
    host, port = server.endpoint
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        # gRPC says what is wrong with it.
        return [server]
    of_kind = {kind: list(dict.fromkeys(str(to[0]) for of, *_, to in found if of == kind)) for kind in _KINDS}
    hosts = max(of_kind.values(), key=len)
    if len(hosts) < 2:
        return [server]
    return [Server(f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}", f"{host}:{port}", (ip, port)) for ip in hosts]


_KINDS = (socket.AF_INET, socket.AF_INET6)
