"""The settings for proxies in OPERATIONS.md and REPLICAS.md work as they stand: everything passes through nginx and HAProxy."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import tensorus
from support.arrays import random_bits
from support.certificates import LOCAL, secure_channel, server_pair, signed, the_ca, write_tls
from support.interrupted import wait_until
from support.servers import ServerProcess, running_server
from support.tools import skip
from support.wire import announced, insert, insert_message, open_insert, read_all
from support.workers import HandInsert
from tensorus_codecs.checksum import crc32c
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.v1.tensorus_pb2_grpc import TensorServiceStub
from tensorus_server.processes.server import Server

pytestmark = pytest.mark.timeout(120)

DOCS = Path(__file__).parents[2] / "docs"
LARGE = random_bits("uint8", (20 << 20,))


SHOWN = {
    "OPERATIONS.md": ["127.0.0.1:7733"],
    "REPLICAS.md": ["10.0.0.1:7733", "10.0.0.2:7733", "10.0.0.3:7733"],
}
"""The addresses of servers that each page shows."""


def settings_for(language: str, servers: Sequence[str], port: int) -> str:
    """Return the settings in this language, of the page with as many servers, with the addresses of a test in theirs' place."""
    (page,) = [page for page, shown in SHOWN.items() if len(shown) == len(servers)]
    (found,) = re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    block = str(found)
    for shown, here in zip([*SHOWN[page], "8080"], [*servers, str(port)], strict=True):
        assert block.count(shown) == 1
        block = block.replace(shown, here)
    return block


def with_tls(language: str, block: str, server: str, port: int, folder: Path) -> str:
    """Return settings with the lines for TLS that the page shows, in the places of those without.

    Args:
        folder: of the files of TLS.
    """
    page = (DOCS / "OPERATIONS.md").read_text(encoding="utf-8")
    shown = page.partition("replace two lines. nginx:")[2].partition("`proxy.pem` has")[0]
    of_nginx, _, of_haproxy = shown.partition("HAProxy:")
    for lines in (of_nginx if language == "nginx" else of_haproxy).strip("\n").split("\n\n"):
        here = lines.replace("8080", str(port)).replace("127.0.0.1:7733", server).replace("/etc/tls", str(folder))
        (name,) = re.findall(r"^ *(\w+) ", here.splitlines()[0])
        block, count = re.subn(rf"^ *{name} .*$", here, block, flags=re.MULTILINE)
        assert count == 1
    return block


def nginx(folder: Path, servers: Sequence[str], port: int, *, tls: Path | None = None) -> list[str]:
    """Return what runs nginx with the documented blocks in an otherwise empty configuration."""
    block = settings_for("nginx", servers, port)
    if tls is not None:
        block = with_tls("nginx", block, servers[0], port, tls)
    paths = "".join(
        f"{kind}_temp_path {folder / kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder / 'pid'}; error_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{paths}{block}}}\n"
    )
    return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def haproxy(folder: Path, servers: Sequence[str], port: int, *, tls: Path | None = None) -> list[str]:
    """Return what runs HAProxy with the documented settings."""
    block = settings_for("haproxy", servers, port)
    if tls is not None:
        block = with_tls("haproxy", block, servers[0], port, tls)
    (folder / "haproxy.cfg").write_text(block)
    return ["haproxy", "-f", str(folder / "haproxy.cfg")]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextmanager
def running(command: list[str], port: int) -> Iterator[str]:
    """Run a proxy; yields its address."""

    def listens() -> bool:
        assert process.poll() is None
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            wait_until(listens)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


Program = Callable[..., list[str]]
"""Takes a folder, the servers' addresses, the port, and the folder of files of TLS; returns a command."""


@pytest.fixture(params=[nginx, haproxy], ids=["nginx", "haproxy"])
def program(request: Any) -> Program:
    """Returns what runs a proxy."""
    found: Program = request.param
    if shutil.which(found.__name__) is None:
        skip(f"{found.__name__} is not installed (apt-get install {found.__name__})")
    return found


@contextmanager
def proxy(program: Program, tmp_path: Path, servers: Sequence[str], *, tls: Path | None = None) -> Iterator[str]:
    """Run a proxy in front of these servers; yields its address.

    Args:
        tls: folder with its certificate and the servers' CA; None: nothing is encrypted.
    """
    folder = tmp_path / "proxy"
    folder.mkdir()
    # nginx as root gives its workers up to another user, who has to get at its temporary files.
    for parent in (folder, *folder.parents[:3]):
        parent.chmod(0o755)
    port = free_port()
    with running(program(folder, servers, port, tls=tls), port) as address:
        yield address


@pytest.fixture
def proxied(program: Program, tmp_path: Path, fresh_server: Server) -> Iterator[str]:
    """The address of a proxy in front of a server."""
    with proxy(program, tmp_path, [fresh_server.address]) as address:
        yield address


def test_everything_passes_through_a_proxy(proxied: str) -> None:
    with tensorus.connect(proxied, retry_timeout_s=0) as client:
        client.create_dataset("d", preset="none")
        interruptions: list[int] = []
        client.insert("d", LARGE, id="large", on_progress=lambda told: interruptions.append(told.interruptions))
        assert max(interruptions, default=0) == 0
        client.insert_many("d", [tensorus.NewTensor(np.arange(n), f"t{n}") for n in range(50)])
        assert np.array_equal(client.get("d", "large", as_="numpy"), LARGE)
        assert len(list(client.query("d", as_="numpy"))) == 51
        assert len(list(client.list("d"))) == 51
        with pytest.raises(tensorus.errors.TensorNotFoundError):
            client.get("d", "missing")


def test_everything_passes_through_a_proxy_with_tls_on_both_sides(program: Program, tmp_path: Path) -> None:
    ca = the_ca()
    tls = write_tls(tmp_path / "tls", server_pair(), client_ca=ca.cert)
    pair = signed("proxy", by=ca, names=LOCAL)
    (tmp_path / "tls" / "proxy.pem").write_bytes(pair.cert + pair.key)
    with (
        running_server(tmp_path / "store", tls=tls) as server,
        proxy(program, tmp_path, [server.address], tls=tmp_path / "tls") as address,
        secure_channel(address, ca) as channel,
    ):
        stub = TensorServiceStub(channel)
        stub.CreateDataset(pb.CreateDatasetRequest(name="d"))
        data = LARGE[: 1 << 20].tobytes()
        (status,) = insert(stub, [open_insert("d"), insert_message(data, tensor=announced("t", [len(data)]))])
        assert status.status.code == 0
        assert read_all(stub, "d", "t") == data


def test_an_interrupted_insert_is_resumed_through_a_proxy(proxied: str, small_limits: None) -> None:
    data = LARGE[: 1 << 20].tobytes()
    with tensorus.connect(proxied) as client, grpc.insecure_channel(proxied) as channel:
        client.create_dataset("d", policy=tensorus.Policy(preset="none", chunk_bytes=64 * 1024))
        first = HandInsert(channel, "d", "resumed")
        first.opened()
        tensor = announced("resumed", [len(data)])
        first.send(insert_message(data[: 1 << 19], last=False, tensor=tensor))
        first.wait_committed(1)
        first.call.cancel()
        second = HandInsert(channel, "d", "resumed")
        (left,) = second.opened().items
        checksum = pb.Checksum(algorithm="crc32c", value=crc32c(data).to_bytes(4, "big"))
        rest = data[left.committed_bytes :]
        second.send(insert_message(rest, offset=left.committed_bytes, tensor=tensor, source_checksum=checksum))
        (result,) = second.finish()
        assert result.status.code == 0
        assert client.get("d", "resumed", as_="numpy").tobytes() == data


def test_nothing_fails_if_one_of_several_servers_behind_a_proxy_is_killed(program: Program, tmp_path: Path) -> None:
    with ExitStack() as stack:
        servers = [ServerProcess(tmp_path / "store") for _ in range(3)]
        for server in servers:
            stack.callback(server.kill)
        address = stack.enter_context(proxy(program, tmp_path, [server.address for server in servers]))
        with tensorus.connect(address) as client:
            client.create_dataset("d", preset="none")
            killer = Killer(address)
            killer.insert_while(servers[0].kill)
            for number in range(20):
                client.insert("d", np.arange(number + 1), id=f"t{number}")
                assert np.array_equal(client.get("d", f"t{number}", as_="numpy"), np.arange(number + 1))
            servers[1].terminate()
            assert np.array_equal(client.get("d", "large", as_="numpy"), LARGE)
            assert len(list(client.query("d", as_="numpy"))) == 21


class Killer:
    """Inserts a large tensor, and kills what may serve it when a part of it is durable."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._begun = threading.Event()
        self._failure: BaseException | None = None

    def insert_while(self, kill: Callable[[], None]) -> None:
        """Insert the tensor; its call survives whatever `kill` does in the middle of it."""
        thread = threading.Thread(target=self._insert)
        thread.start()
        assert self._begun.wait(30)
        kill()
        thread.join(60)
        assert not thread.is_alive()
        assert self._failure is None

    def _insert(self) -> None:
        try:
            with tensorus.connect(self._address, tune_allocator=False) as client:
                client.insert("d", LARGE, id="large", on_progress=lambda _: self._begun.set())
        except BaseException as error:  # noqa: BLE001 - the main thread fails with it
            self._failure = error
            self._begun.set()
