"""The file of an audit log: whole lines, of all who write, in whatever file has its name now."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tensorus_server.errors import StoreUnavailableError
from tensorus_server.logs import audit_file
from tensorus_server.logs.audit_file import AuditFile

LINE = json.dumps({"text": "x" * 3000})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


@pytest.fixture
def file(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AuditFile]:
    monkeypatch.setattr(audit_file, "_LOOK_S", 0.0)
    opened = AuditFile(path)
    yield opened
    opened.close()


def test_a_new_file_is_its_owner_s_alone(file: AuditFile, path: Path) -> None:
    file.write(["a", "b"])
    assert path.read_text() == "a\nb\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_was_there_stays(path: Path, file: AuditFile) -> None:
    file.write(["a"])
    again = AuditFile(path)
    again.write(["b"])
    again.close()
    assert path.read_text() == "a\nb\n"


def test_a_file_that_was_moved_or_deleted_is_opened_anew(file: AuditFile, path: Path, tmp_path: Path) -> None:
    file.write(["a"])
    path.rename(tmp_path / "audit.log.1")
    file.write(["b"])
    path.unlink()
    file.write(["c"])
    path.unlink()
    path.write_text("of logrotate\n")
    file.write(["d"])
    assert ((tmp_path / "audit.log.1").read_text(), path.read_text()) == ("a\n", "of logrotate\nd\n")


def test_one_that_was_cut_goes_on_at_its_start(file: AuditFile, path: Path) -> None:
    file.write(["a"])
    os.truncate(path, 0)
    file.write(["b"])
    assert path.read_bytes() == b"b\n"


def test_a_name_that_cannot_be_opened_anew_leaves_the_old_file(
    file: AuditFile, path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.rename(tmp_path / "moved")
    path.mkdir()
    file.write(["a"])
    assert (tmp_path / "moved").read_text() == "a\n"
    assert "cannot open the audit log" in caplog.text


def write_many(path: Path, letter: str) -> None:
    file = AuditFile(path)
    for number in range(200):
        file.write([json.dumps({"by": letter, "number": number, "text": letter * 3000})])


def test_lines_of_several_threads_and_processes_stay_whole(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=write_many, args=(path, letter)) for letter in "ab"]
    threads = [threading.Thread(target=write_many, args=(path, letter)) for letter in "cd"]
    for started in (*others, *threads):
        started.start()
    for started in (*others, *threads):
        started.join(60)
    found = [json.loads(line) for line in path.read_text().splitlines()]
    for letter in "abcd":
        assert [line["number"] for line in found if line["by"] == letter] == list(range(200))


def test_lines_that_cannot_be_written_are_counted_and_the_error_logged_once(
    file: AuditFile, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file.write(["a"])
    with monkeypatch.context() as patched:
        patched.setattr(audit_file.os, "write", full)
        file.write(["b", "c"])
        file.write(["d"])
        assert file.lost == 3
    file.write(["e"])
    first, gap, last = path.read_text().splitlines()
    assert (first, last, file.lost) == ("a", "e", 0)
    assert json.loads(gap).items() >= {"event": "lost", "lines": 3}.items()
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_a_write_that_was_cut_short_breaks_no_later_line(
    file: AuditFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    room = [3]

    def short(descriptor: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written, room[0] = write(descriptor, data[: room[0]]), 0
        return written

    with monkeypatch.context() as patched:
        patched.setattr(audit_file.os, "write", short)
        file.write(["abcdef"])
    file.write(["next"])
    torn, gap, last = path.read_text().splitlines()
    assert (torn, json.loads(gap)["lines"], last) == ("abc", 1, "next")


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/null"), tmp_path / "missing" / "file"):
        with pytest.raises(StoreUnavailableError, match="cannot open the audit log"):
            AuditFile(path)


def test_nothing_is_written_after_the_end(file: AuditFile, path: Path) -> None:
    file.close()
    file.close()
    file.write(["late"])
    assert path.read_text() == ""
