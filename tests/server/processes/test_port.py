"""A reserved port: its workers may listen on it, and nobody else at any moment."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.cases import each
from tensorus_server.errors import StoreUnavailableError
from tensorus_server.processes import port as port_module
from tensorus_server.processes.port import ReservedPort, require_port


@pytest.fixture
def reserved() -> Iterator[ReservedPort]:
    with ReservedPort("127.0.0.1:0") as found:
        yield found


def bound(port: int, *, host: str = "127.0.0.1", shares: bool = False) -> socket.socket:
    """Return a socket that listens as a server does: with SO_REUSEADDR, and SO_REUSEPORT where it shares the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shares))
        made.bind((host, port))
        made.listen()
    except OSError:
        made.close()
        raise
    return made


def test_the_system_chooses_a_port_where_none_is_named(reserved: ReservedPort) -> None:
    assert reserved.port > 0
    assert reserved.address == f"127.0.0.1:{reserved.port}"


def test_workers_listen_on_it_one_beside_the_other(reserved: ReservedPort) -> None:
    with bound(reserved.port, shares=True), bound(reserved.port, shares=True):
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_server_that_does_not_share_is_refused(reserved: ReservedPort, workers: int, host: str) -> None:
    listening = [bound(reserved.port, shares=True) for _ in range(workers)]
    with pytest.raises(OSError, match="Address already in use"):
        bound(reserved.port, host=host)
    for worker in listening:
        worker.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_another_supervisor_is_refused_whether_or_not_workers_listen(reserved: ReservedPort, workers: int) -> None:
    listening = [bound(reserved.port, shares=True) for _ in range(workers)]
    with pytest.raises(
        StoreUnavailableError, match=rf"^cannot listen on {reserved.address}: is another server there\?$"
    ):
        ReservedPort(reserved.address)
    for worker in listening:
        worker.close()


@pytest.mark.parametrize("shares", [False, True])
def test_a_port_that_somebody_listens_on_is_refused(*, shares: bool) -> None:
    with bound(0, shares=shares) as foreign, pytest.raises(StoreUnavailableError, match="is another server there"):
        ReservedPort(f"127.0.0.1:{foreign.getsockname()[1]}")


def test_no_connection_comes_to_the_reservation(reserved: ReservedPort) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", reserved.port), timeout=10)
    with bound(reserved.port, shares=True) as worker:
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", reserved.port), timeout=10):
                worker.accept()[0].close()


def test_it_is_free_after_the_reservation(reserved: ReservedPort) -> None:
    reserved.close()
    reserved.close()
    bound(reserved.port).close()


def test_connections_of_the_server_before_are_in_nobodys_way() -> None:
    with bound(0) as before:
        port = before.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port), timeout=10)
        accepted, _ = before.accept()
        # Who closes first keeps the connection in TIME_WAIT for a minute.
        accepted.close()
        client.close()
    with ReservedPort(f"127.0.0.1:{port}"):
        bound(port, shares=True).close()


class TestHosts:
    """A name may be several addresses."""

    def test_all_addresses_of_a_name_are_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        both = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "127.0.0.2")]
        monkeypatch.setattr(port_module, "_addresses", lambda _: both)
        with ReservedPort("localhost:0") as reserved:
            for _, host in both:
                with pytest.raises(OSError, match="Address already in use"):
                    bound(reserved.port, host=host)
            bound(reserved.port, host="127.0.0.3").close()

    def test_one_of_them_that_is_taken_is_enough_to_be_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        both = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "127.0.0.2")]
        monkeypatch.setattr(port_module, "_addresses", lambda _: both)
        with bound(0, host="127.0.0.2") as foreign:
            port = foreign.getsockname()[1]
            with pytest.raises(StoreUnavailableError, match="is another server there"):
                ReservedPort(f"localhost:{port}")
            # Nothing is kept of what could be had.
            bound(port).close()

    def test_an_address_of_another_machine_is_left_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        addresses = [(socket.AF_INET, "192.0.2.1"), (socket.AF_INET, "127.0.0.1")]
        monkeypatch.setattr(port_module, "_addresses", lambda _: addresses)
        with ReservedPort("both:0") as reserved, pytest.raises(OSError, match="Address already in use"):
            bound(reserved.port)
        monkeypatch.setattr(port_module, "_addresses", lambda _: addresses[:1])
        with pytest.raises(StoreUnavailableError, match="cannot listen on both:"):
            ReservedPort("both:0")

    @pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])
    def test_every_address_of_the_machine_is_taken_in_both_families(self, host: str) -> None:
        if not socket.has_dualstack_ipv6():
            pytest.skip("this machine has no IPv6")
        with ReservedPort(f"{host}:0") as reserved:
            for other in ("127.0.0.1", "::1", "0.0.0.0", "::"):
                with pytest.raises(OSError, match="Address already in use"):
                    bound(reserved.port, host=other)

    def test_brackets_are_around_an_address_of_the_sixth_version(self) -> None:
        if not socket.has_dualstack_ipv6():
            pytest.skip("this machine has no IPv6")
        with ReservedPort("[::1]:0") as reserved:
            assert reserved.address == f"[::1]:{reserved.port}"
            bound(reserved.port, host="::1", shares=True).close()

    def test_a_name_of_nobody_is_refused(self) -> None:
        with pytest.raises(StoreUnavailableError, match=r"cannot listen on nobody\.invalid:80"):
            ReservedPort("nobody.invalid:80")


def test_of_many_that_want_a_port_at_once_one_has_it() -> None:
    def attempt(address: str) -> ReservedPort | None:
        try:
            return ReservedPort(address)
        except StoreUnavailableError:
            return None

    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            with ReservedPort("127.0.0.1:0") as free:
                address = free.address
            (found,) = [reserved for reserved in pool.map(attempt, [address] * 8) if reserved is not None]
            found.close()


class TestRequirePort:
    """What a server that shares its port with nobody asks before it opens its store."""

    @each("host", ["127.0.0.1", "localhost", "0.0.0.0"])
    def test_a_free_port_stays_free(self, host: str) -> None:
        require_port(f"{host}:0")
        with bound(0) as free:
            port = free.getsockname()[1]
        require_port(f"{host}:{port}")
        bound(port).close()

    @pytest.mark.parametrize("shares", [False, True])
    def test_one_that_somebody_listens_on_is_refused(self, *, shares: bool) -> None:
        with bound(0, shares=shares) as foreign:
            listen = f"127.0.0.1:{foreign.getsockname()[1]}"
            with pytest.raises(StoreUnavailableError, match=rf"^cannot listen on {listen}: is another server there\?$"):
                require_port(listen)

    def test_one_that_a_supervisor_holds_is_refused(self, reserved: ReservedPort) -> None:
        with pytest.raises(StoreUnavailableError, match="is another server there"):
            require_port(reserved.address)

    def test_an_address_of_another_machine_is_left_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        addresses = [(socket.AF_INET, "192.0.2.1"), (socket.AF_INET, "127.0.0.1")]
        monkeypatch.setattr(port_module, "_addresses", lambda _: addresses)
        require_port("both:0")
        monkeypatch.setattr(port_module, "_addresses", lambda _: addresses[:1])
        with pytest.raises(
            StoreUnavailableError, match=r"^cannot listen on both:0: 'both' is not an address of this machine$"
        ):
            require_port("both:0")

    @pytest.mark.parametrize("check", [require_port, ReservedPort])
    def test_one_that_this_user_may_not_have_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, check: Callable[[str], object]
    ) -> None:
        def refuse(*_: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(socket.socket, "bind", refuse)
        with pytest.raises(
            StoreUnavailableError, match=r"^cannot listen on 127\.0\.0\.1:80: this user may not use the port; .*CAP_NET"
        ):
            check("127.0.0.1:80")

    @each("host", ["ä" * 70, "a" * 70 + ".example", "a..b"])
    def test_a_name_that_cannot_be_one_is_refused(self, host: str) -> None:
        with pytest.raises(
            StoreUnavailableError, match=r"cannot listen on .*: (the host .* is unknown|.* is not the name)"
        ):
            require_port(f"{host}:0")

    def test_one_that_is_taken_in_the_sixth_version_is_refused(self) -> None:
        if not socket.has_dualstack_ipv6():
            pytest.skip("this machine has no IPv6")
        with bound(0, host="::1") as foreign:
            listen = f"[::1]:{foreign.getsockname()[1]}"
            with pytest.raises(StoreUnavailableError, match="is another server there"):
                require_port(listen)
