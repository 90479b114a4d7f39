"""The settings for proxies in OPERATIONS.md work as they stand there: everything passes through nginx and HAProxy."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import tensorus
from support.arrays import random_bits
from support.interrupted import wait_until
from support.tools import skip
from support.wire import announced, insert_message
from support.workers import HandInsert
from tensorus_codecs.checksum import crc32c
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server.processes.server import Server

pytestmark = pytest.mark.timeout(120)

OPERATIONS = (Path(__file__).parents[2] / "docs" / "OPERATIONS.md").read_text(encoding="utf-8")
LARGE = random_bits("uint8", (20 << 20,))


def documented(language: str) -> str:
    """Return the settings that OPERATIONS.md shows in this language."""
    (block,) = re.findall(rf"```{language}\n(.*?)```", OPERATIONS, flags=re.DOTALL)
    return str(block)


def settings_for(block: str, server: str, port: int) -> str:
    """Return the settings with the ports of a test in the place of those that are shown."""
    for shown, here in (("127.0.0.1:7733", server), ("8080", str(port))):
        assert block.count(shown) == 1
        block = block.replace(shown, here)
    return block


def nginx(folder: Path, server: str, port: int) -> list[str]:
    """Return what runs nginx with the documented server block in an otherwise empty configuration."""
    block = settings_for(documented("nginx"), server, port)
    paths = "".join(
        f"{kind}_temp_path {folder / kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder / 'pid'}; error_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{paths}{block}}}\n"
    )
    return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def haproxy(folder: Path, server: str, port: int) -> list[str]:
    """Return what runs HAProxy with the documented settings."""
    (folder / "haproxy.cfg").write_text(settings_for(documented("haproxy"), server, port))
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


@pytest.fixture(params=[nginx, haproxy], ids=["nginx", "haproxy"])
def proxied(request: Any, tmp_path: Path, fresh_server: Server) -> Iterator[str]:
    """The address of a proxy in front of a server."""
    program: Callable[[Path, str, int], list[str]] = request.param
    if shutil.which(program.__name__) is None:
        skip(f"{program.__name__} is not installed (apt-get install {program.__name__})")
    folder = tmp_path / "proxy"
    folder.mkdir()
    # nginx as root gives its workers up to another user, who has to get at its temporary files.
    for parent in (folder, *folder.parents[:3]):
        parent.chmod(0o755)
    port = free_port()
    with running(program(folder, fresh_server.address, port), port) as address:
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
