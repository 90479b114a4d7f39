"""Certificates that are read again: what changes them, what does not, and what is logged of it."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path

import pytest

from support.certificates import server_pair, the_ca, write_tls
from tensorus_server.config import TlsConfig
from tensorus_server.errors import StoreUnavailableError
from tensorus_server.processes import credentials
from tensorus_server.processes.credentials import WatchedCertificates


@pytest.fixture
def config(tmp_path: Path) -> TlsConfig:
    return write_tls(tmp_path / "tls", server_pair())


class Clock:
    """Takes the place of the module `time`."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Clock:
    caplog.set_level(logging.INFO, credentials.__name__)
    made = Clock()
    monkeypatch.setattr(credentials, "time", made)
    return made


def later(watched: WatchedCertificates, clock: Clock, seconds: float = 1.0) -> bool:
    """Return whether gRPC gets new certificates for a handshake that comes later."""
    clock.now_s += seconds
    return watched._next_configuration() is not None


def test_files_that_do_not_change_are_nothing_new(config: TlsConfig, clock: Clock) -> None:
    watched = WatchedCertificates(config)
    config.cert.write_bytes(config.cert.read_bytes())
    assert [later(watched, clock) for _ in range(3)] == [False, False, False]


def test_a_new_pair_is_used_once(config: TlsConfig, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    watched = WatchedCertificates(config)
    write_tls(config.cert.parent, server_pair(lasts=timedelta(days=50)))
    assert [later(watched, clock) for _ in range(3)] == [True, False, False]
    assert 49.9 < watched.days_left < 50
    (record,) = caplog.records
    assert record.getMessage().startswith("new TLS certificate: CN=the server, valid until ")


def test_files_are_read_once_a_second_at_most(config: TlsConfig, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = WatchedCertificates(config)
    reads: list[TlsConfig] = []
    real = credentials.read
    monkeypatch.setattr(credentials, "read", lambda found: reads.append(found) or real(found))
    for _ in range(100):
        later(watched, clock, 0.01)
    assert len(reads) <= 1


def test_symbolic_links_may_be_swapped(tmp_path: Path, clock: Clock) -> None:
    # As Kubernetes does: the files are links into a folder that is itself a link, which is replaced by a rename.
    for number in (1, 2):
        write_tls(tmp_path / f"v{number}", server_pair())
    (tmp_path / "data").symlink_to("v1")
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).symlink_to(f"data/{name}")
    watched = WatchedCertificates(TlsConfig(tmp_path / "cert.pem", tmp_path / "key.pem"))
    (tmp_path / "new").symlink_to("v2")
    (tmp_path / "new").replace(tmp_path / "data")
    assert later(watched, clock)


def test_a_new_client_ca_alone_is_a_change(tmp_path: Path, clock: Clock) -> None:
    config = write_tls(tmp_path / "tls", server_pair(), client_ca=the_ca().cert)
    watched = WatchedCertificates(config)
    assert config.client_ca is not None
    config.client_ca.write_bytes(the_ca().cert + server_pair().cert)
    assert later(watched, clock)


def test_half_of_a_change_is_waited_for_without_a_word(
    config: TlsConfig, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    watched = WatchedCertificates(config)
    new = server_pair()
    config.cert.write_bytes(new.cert[:100])
    assert not later(watched, clock)
    config.cert.write_bytes(new.cert)
    assert not later(watched, clock)
    config.key.write_bytes(new.key)
    assert later(watched, clock)
    assert [record.levelno for record in caplog.records] == [logging.INFO]


@pytest.mark.parametrize("fault", ["mismatched", "missing", "expired"])
def test_what_stays_wrong_is_logged_once_and_changes_nothing(
    config: TlsConfig, clock: Clock, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    watched = WatchedCertificates(config)
    before, key = watched.days_left, config.key.read_bytes()
    if fault == "mismatched":
        config.key.write_bytes(server_pair().key)
    elif fault == "missing":
        config.key.unlink()
    else:
        write_tls(config.cert.parent, server_pair(lasts=timedelta(seconds=-1)))
    assert not any(later(watched, clock) for _ in range(10))
    assert before - 0.1 < watched.days_left <= before
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().endswith(": the server continues with the certificates that it has")
    if fault != "expired":
        # What was there before comes back, and then the same fault is news.
        config.key.write_bytes(key)
        later(watched, clock)
        config.key.write_bytes(server_pair().key)
        assert not any(later(watched, clock) for _ in range(3))
        assert len(caplog.records) == 2


@pytest.mark.parametrize(
    ("lasts", "expected"),
    [
        (timedelta(days=14, hours=1), []),
        (timedelta(days=13), [(logging.WARNING, "expires in 13.0 days")]),
    ],
)
def test_a_certificate_is_warned_about_once_a_day_when_two_weeks_are_left(
    tmp_path: Path,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    lasts: timedelta,
    expected: list[tuple[int, str]],
) -> None:
    watched = WatchedCertificates(write_tls(tmp_path / "tls", server_pair(lasts=lasts)))
    for _ in range(25):
        later(watched, clock, 3600.0)
    found = [(record.levelno, record.getMessage()[-len("expires in 13.0 days") :]) for record in caplog.records]
    assert found == expected * 2


def test_a_certificate_that_expires_while_it_is_used_is_an_error(
    config: TlsConfig, clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = WatchedCertificates(config)
    monkeypatch.setattr(WatchedCertificates, "days_left", property(lambda _: -0.5))
    for _ in range(3):
        later(watched, clock)
    (record,) = caplog.records
    assert (record.levelno, "has expired: clients refuse to connect" in record.getMessage()) == (logging.ERROR, True)


def test_one_that_is_not_valid_yet_is_warned_about(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    WatchedCertificates(write_tls(tmp_path / "tls", server_pair(begins=timedelta(hours=3))))
    assert "is not valid before" in caplog.text


def test_a_server_does_not_begin_with_files_that_it_cannot_use(config: TlsConfig) -> None:
    config.key.write_bytes(server_pair().key)
    with pytest.raises(StoreUnavailableError, match="does not belong"):
        WatchedCertificates(config)
