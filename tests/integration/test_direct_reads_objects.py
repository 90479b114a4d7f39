"""Direct reads from SeaweedFS: whole payloads in segments, small ones in packs, by requests that a server has signed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("obstore", reason="obstore is not installed: pip install 'tensorus[object-store]'")

import tensorus
from support.arrays import assert_same_bits, normal, random_bits
from support.packs import CatalogueLog
from support.seaweed import ACCESS_KEY, SECRET_KEY, new_prefix, shared_seaweed
from support.servers import running_server
from tensorus._grpc.remote import RemoteBackend
from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.chunk_store.abc import PresignedRange
from tensorus_server.chunk_store.objects.store import ObjectChunkStore
from tensorus_server.engine.codec_pool import CodecPool
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.read import plans
from tensorus_server.limits import PACKED_BYTES_MAX
from tensorus_server.processes import server as server_module
from tensorus_server.processes.server import Server

pytestmark = pytest.mark.slow

SEGMENT = 300_000
VALUES = {
    "float32": normal((200_003,), "float32"),
    "uint8": random_bits("uint8", (900_001,)),
    "complex64": normal((70_000,), "complex64"),
    "inline": normal((100,), "float32"),
}
DIRECT = len(VALUES) - 1


@pytest.fixture(params=[PACKED_BYTES_MAX, -1], ids=["packed", "segmented"])
def server(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server whose payloads are in SeaweedFS, and whose rows are here."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setattr(plans, "PLANNED_BYTES_MIN", 0)
    url = shared_seaweed().url(new_prefix())

    def open_engine(*_: Any, **__: Any) -> Engine:
        folder = tmp_path / "catalogue"
        folder.mkdir()
        catalogue = SqliteCatalogue(folder)
        writes = CatalogueLog(catalogue)
        store = ObjectChunkStore(url, writes=writes, packed_bytes_max=request.param, segment_bytes=SEGMENT)
        return Engine(catalogue, store, CodecPool(2), sweeps=False, direct_reads=True)

    monkeypatch.setattr(server_module, "open_engine", open_engine)
    with running_server(tmp_path / "unused") as running:
        yield running


@pytest.mark.parametrize("preset", ["none", "lossless", "maximum"])
def test_tensors_are_those_that_the_server_reads(server: Server, monkeypatch: pytest.MonkeyPatch, preset: str) -> None:
    with tensorus.connect(server.address) as client, tensorus.connect(server.address, direct_reads=False) as plain:
        client.create_dataset("d", policy=tensorus.Policy(preset=preset, chunk_bytes=65536))
        for name, values in VALUES.items():
            client.insert("d", values, id=name)
        client.append("d", "float32", normal((50_000,), "float32"))
        ids = [*VALUES, "float32"]
        wanted = [record.tensor for record in plain.get_many("d", ids, as_="numpy")]
        found = [record.tensor for record in client.get_many("d", ids, as_="numpy")]
        for one, other in zip(found, wanted, strict=True):
            assert_same_bits(one, other)
        backend = client._backend
        assert isinstance(backend, RemoteBackend)
        assert (backend.direct.delivered, backend.direct.failed) == (DIRECT + 1, 0)
        # The store refuses a signature that is not its own, and the server reads instead.
        presign = ObjectChunkStore.presign

        def forged(*arguments: Any) -> list[list[PresignedRange]]:
            pieces = presign(*arguments)
            assert pieces is not None
            return [
                [PresignedRange(one.url[:-1] + "_", one.offset, one.length, 0.0) for one in ranges] for ranges in pieces
            ]

        monkeypatch.setattr(ObjectChunkStore, "presign", forged)
        assert_same_bits(client.get("d", "uint8", as_="numpy"), wanted[1])
        assert (backend.direct.delivered, backend.direct.failed) == (DIRECT + 1, 1)
