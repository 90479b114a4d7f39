"""Reserves a port for the processes of one server, so that no other server can share it.

With SO_REUSEPORT, the kernel distributes a port's connections over all sockets that listen on it. Any process of the same user
may listen, so a second server started by mistake would silently take a share of the connections. To prevent that, the
supervisor first takes the port exclusively and then holds it as long as it lives:

    1  a first socket binds and listens without SO_REUSEPORT, which fails if any other process listens on the port
    2  the first socket sets SO_REUSEPORT: sockets that also set it may now bind, which excludes other supervisors' first ones
    3  a second socket, with SO_REUSEPORT, binds but does not listen, so it never receives a connection
    4  the first socket is closed

At every moment one of the two sockets is open and makes step 1 fail for others, even when all workers are dead. The second
socket binds with SO_REUSEADDR, because connections of an earlier server may still be in TIME_WAIT. It then clears the option,
because two sockets with SO_REUSEADDR do not exclude each other while neither listens.

Source: socket(7); inet_csk_bind_conflict in Linux's net/ipv4/inet_connection_sock.c.
"""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Self

from tensorus_server.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ReservedPort", "require_port"]

_ATTEMPTS_MAX = 10
"""Attempts with port 0 on a host with several addresses: the port that is free at the first one may be taken at another."""

_NOT_LOCAL = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""Errors for addresses that this machine does not have. They are skipped if the name has others, as gRPC does."""


class ReservedPort:
    """A port of this machine, held until `close`."""

    def __init__(self, listen: str) -> None:
        """Reserve the port at every address of the host.

        Args:
            listen: HOST:PORT; with port 0 the system chooses one.

        Raises:
            StoreUnavailableError: another process has the port, this user may not bind it, or the host is unknown or not
                this machine; the message says which.
        """
        host, _, port = listen.rpartition(":")
        self._held = ExitStack()
        with _explaining_errors(listen):
            self.port = self._reserve(_addresses(host), int(port))
        self.address = f"{host}:{self.port}"

    def close(self) -> None:
        """Release the port. Idempotent."""
        self._held.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release the port."""
        self.close()

    def _reserve(self, addresses: list[tuple[int, str]], port: int) -> int:
        for left in reversed(range(_ATTEMPTS_MAX if port == 0 else 1)):
            try:
                return self._reserve_all(addresses, port)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or not left:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _reserve_all(self, addresses: list[tuple[int, str]], port: int) -> int:
        missing: OSError | None = None
        with ExitStack() as taken:
            held: socket.socket | None = None
            for family, address in addresses:
                try:
                    # The port that the system chose for the first address must be free at the others, too.
                    held = taken.enter_context(_hold(family, address, held.getsockname()[1] if held else port))
                except OSError as error:
                    if error.errno not in _NOT_LOCAL:
                        raise
                    missing = error
            if held is None:
                raise missing or OSError(errno.EADDRNOTAVAIL, "the host has no address")
            self._held = taken.pop_all()
            found: int = held.getsockname()[1]
        return found


def require_port(listen: str) -> None:
    """Check that a process could listen on HOST:PORT now, at those of the host's addresses that this machine has.

    Raises:
        StoreUnavailableError: it could not; the reasons are those of `ReservedPort`.
    """
    host, _, port = listen.rpartition(":")
    with _explaining_errors(listen):
        refused: list[OSError] = []
        addresses = _addresses(host)
        for family, address in addresses:
            try:
                with _socket(family) as probe:
                    probe.bind((address, int(port)))
                    probe.listen(1)
            except OSError as error:
                if error.errno not in _NOT_LOCAL:
                    raise
                refused.append(error)
        if len(refused) == len(addresses):
            raise refused[0] if refused else OSError(errno.EADDRNOTAVAIL, "the host has no address")


@contextmanager
def _explaining_errors(listen: str) -> Iterator[None]:
    """Turn errors of the system into a StoreUnavailableError that says why nobody can listen there."""
    try:
        yield
    except UnicodeError as error:
        # Python refuses such names before it looks them up.
        host = listen.rpartition(":")[0]
        raise StoreUnavailableError(f"cannot listen on {listen}: {host!r} is not the name of a host") from error
    except OSError as error:
        host = listen.rpartition(":")[0]
        if isinstance(error, socket.gaierror):
            reason = f"the host {host!r} is unknown ({error.strerror})"
        elif error.errno == errno.EADDRINUSE:
            reason = "is another server there?"
        elif error.errno in _NOT_LOCAL:
            reason = f"{host!r} is not an address of this machine"
        elif error.errno in {errno.EACCES, errno.EPERM}:
            reason = "this user may not use the port; those below 1024 usually need the capability CAP_NET_BIND_SERVICE"
        else:
            reason = error.strerror or str(error)
        raise StoreUnavailableError(f"cannot listen on {listen}: {reason}") from error


def _addresses(host: str) -> list[tuple[int, str]]:
    """Return family and address of each distinct address of a host."""
    found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses: list[tuple[int, str]] = [(family, str(address[0])) for family, *_, address in found]
    if any(address in {"0.0.0.0", "::"} for _, address in addresses):  # noqa: S104 - the operator asked for it
        # As gRPC does: one socket serves both families if the system supports that.
        return [(socket.AF_INET6, "::")] if socket.has_dualstack_ipv6() else [(socket.AF_INET, "0.0.0.0")]  # noqa: S104
    return list(dict.fromkeys(addresses))


def _hold(family: int, address: str, port: int) -> socket.socket:
    """Reserve a port at one address, as the module describes; return the second socket, which is bound and does not listen."""
    with _socket(family) as first:
        first.bind((address, port))
        first.listen(1)
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held = _socket(family)
        try:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            held.bind(first.getsockname())
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        except BaseException:
            held.close()
            raise
    return held


def _socket(family: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    options: list[tuple[Any, ...]] = [(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)]
    if family == socket.AF_INET6:
        options.append((socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0))
    for option in options:
        made.setsockopt(*option)
    return made
