"""A port that several processes of one server listen on, and nobody else.

With SO_REUSEPORT the kernel spreads a port's connections among all sockets that listen on it. It lets every process of the
same user in, a second server too, which then takes its share of the connections in silence. So the supervisor takes the port
for itself first, and holds it as long as it lives:

    1  a socket binds and listens without SO_REUSEPORT: only one process of the machine can, and none where another one listens
    2  it lets others in that have SO_REUSEPORT, which no other supervisor's first socket has
    3  a second socket, with SO_REUSEPORT, binds and does not listen: no connection ever comes to it
    4  the first socket is closed

At every moment one of the two is there, and refuses whoever tries the first step. That goes on when all workers are dead. The
second socket binds with SO_REUSEADDR, since connections of the server before may still be waiting for their end, and gives it
up then: two sockets that have it, neither of which listens, would not exclude each other.

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

_CHOICES = 10
"""Ports that are tried where the system chooses, and a host has several addresses: one may be taken at another address."""

_NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""Of the addresses of a name, those that this machine does not have are left out, as gRPC does."""


class ReservedPort:
    """A port of this machine, held until `close`."""

    def __init__(self, listen: str) -> None:
        """Take the port at every address of the host.

        Args:
            listen: HOST:PORT; with port 0 the system chooses one.

        Raises:
            StoreUnavailableError: another process has the port, this user may not take it, or the host is unknown or not
                this machine's; the message says which.
        """
        host, _, port = listen.rpartition(":")
        self._held = ExitStack()
        with _refusals(listen):
            self.port = self._reserve(_addresses(host), int(port))
        self.address = f"{host}:{self.port}"

    def close(self) -> None:
        """Let others have it. Idempotent."""
        self._held.close()

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def _reserve(self, addresses: list[tuple[int, str]], port: int) -> int:
        for left in reversed(range(_CHOICES if port == 0 else 1)):
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
                    # What the system chose for the first address has to be had at the others, too.
                    held = taken.enter_context(_hold(family, address, held.getsockname()[1] if held else port))
                except OSError as error:
                    if error.errno not in _NOT_HERE:
                        raise
                    missing = error
            if held is None:
                raise missing or OSError(errno.EADDRNOTAVAIL, "the host has no address")
            self._held = taken.pop_all()
            found: int = held.getsockname()[1]
        return found


def require_port(listen: str) -> None:
    """Do nothing where a process could listen on HOST:PORT just now, at the addresses that this machine has of the host.

    Raises:
        StoreUnavailableError: as of `ReservedPort`.
    """
    host, _, port = listen.rpartition(":")
    with _refusals(listen):
        refused: list[OSError] = []
        addresses = _addresses(host)
        for family, address in addresses:
            try:
                with _socket(family) as probe:
                    probe.bind((address, int(port)))
                    probe.listen(1)
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                refused.append(error)
        if len(refused) == len(addresses):
            raise refused[0] if refused else OSError(errno.EADDRNOTAVAIL, "the host has no address")


@contextmanager
def _refusals(listen: str) -> Iterator[None]:
    """Say of errors of the system what they mean for who wants to listen there."""
    try:
        yield
    except OSError as error:
        host = listen.rpartition(":")[0]
        if isinstance(error, socket.gaierror):
            reason = f"the host {host!r} is unknown ({error.strerror})"
        elif error.errno == errno.EADDRINUSE:
            reason = "is another server there?"
        elif error.errno in _NOT_HERE:
            reason = f"{host!r} is not an address of this machine"
        else:
            reason = error.strerror or str(error)
        raise StoreUnavailableError(f"cannot listen on {listen}: {reason}") from error


def _addresses(host: str) -> list[tuple[int, str]]:
    """Return families and addresses of a host, each once."""
    found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses: list[tuple[int, str]] = [(family, str(address[0])) for family, *_, address in found]
    if any(address in {"0.0.0.0", "::"} for _, address in addresses):  # noqa: S104 - asked for by who runs the server
        # As gRPC does: one socket for both families, where there are both.
        return [(socket.AF_INET6, "::")] if socket.has_dualstack_ipv6() else [(socket.AF_INET, "0.0.0.0")]  # noqa: S104
    return list(dict.fromkeys(addresses))


def _hold(family: int, address: str, port: int) -> socket.socket:
    """Return a socket that has the port at one address and does not listen."""
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
