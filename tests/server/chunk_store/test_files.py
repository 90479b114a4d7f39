"""Syncs: each system's own call that makes bytes durable, and no other one after it has failed."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tensorus_server.chunk_store.files import Files

F_FULLFSYNC = 51
"""Of macOS; Linux has no such number."""


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    opened = Files().create(tmp_path / "file")
    yield opened
    os.close(opened)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The syncs that the operating system was asked for."""
    made: list[str] = []
    monkeypatch.setattr(os, "fdatasync", lambda _: made.append("fdatasync"))
    monkeypatch.setattr(os, "fsync", lambda _: made.append("fsync"))
    return made


def macos(monkeypatch: pytest.MonkeyPatch, calls: list[str], error_number: int | None = None) -> None:
    """Let the system be macOS: it has no fdatasync, and F_FULLFSYNC, which fails if a number is given."""

    def control(descriptor: int, command: int) -> int:
        assert command == F_FULLFSYNC
        calls.append("F_FULLFSYNC")
        if error_number is not None:
            raise OSError(error_number, os.strerror(error_number))
        return 0

    monkeypatch.delattr(os, "fdatasync")
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", F_FULLFSYNC, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", control)


def test_linux_syncs_data_alone_and_folders_whole(tmp_path: Path, descriptor: int, calls: list[str]) -> None:
    Files().sync_data(descriptor)
    Files().sync_folder(tmp_path)
    assert calls == ["fdatasync", "fsync"]


def test_macos_has_the_disk_write_its_cache(
    tmp_path: Path, descriptor: int, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    macos(monkeypatch, calls)
    Files().sync_data(descriptor)
    Files().sync_folder(tmp_path)
    assert calls == ["F_FULLFSYNC", "F_FULLFSYNC"]


@pytest.mark.parametrize("error_number", [errno.ENOTSUP, errno.EINVAL, errno.ENOTTY])
def test_a_file_system_of_macos_without_full_syncs_is_synced_as_far_as_it_can(
    tmp_path: Path, descriptor: int, calls: list[str], monkeypatch: pytest.MonkeyPatch, error_number: int
) -> None:
    macos(monkeypatch, calls, error_number)
    Files().sync_data(descriptor)
    Files().sync_folder(tmp_path)
    assert calls == ["F_FULLFSYNC", "fsync", "F_FULLFSYNC", "fsync"]


@pytest.mark.parametrize("error_number", [errno.EIO, errno.ENOSPC])
def test_a_failed_sync_is_not_tried_again_by_another_call(
    descriptor: int, calls: list[str], monkeypatch: pytest.MonkeyPatch, error_number: int
) -> None:
    # The kernel forgets the bytes that it could not write: a second sync would succeed without them.
    macos(monkeypatch, calls, error_number)
    with pytest.raises(OSError, match=os.strerror(error_number)):
        Files().sync_data(descriptor)
    assert calls == ["F_FULLFSYNC"]


def test_a_system_with_neither_has_fsync(descriptor: int, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fdatasync")
    Files().sync_data(descriptor)
    assert calls == ["fsync"]
