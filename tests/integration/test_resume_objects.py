"""An insert into an object store that another server goes on with: it reads a record of what is stored, and no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("obstore", reason="obstore is not installed: pip install 'tensorus[object-store]'")

from support.arrays import assert_same_bits, canonical, normal
from support.engine import Reports, announce, insert, read
from support.marks import mark_tensors
from support.seaweed import ACCESS_KEY, SECRET_KEY, new_prefix, shared_seaweed
from support.verifying import verified
from tensorus_codecs.checksum import crc32c
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.chunk_store.objects.store import ObjectChunkStore
from tensorus_server.engine.codec_pool import CodecPool
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.insert.catalogue_sessions import CatalogueSessions
from tensorus_server.engine.insert.options import InsertOptions
from tensorus_server.engine.insert.sessions import InsertSessions
from tensorus_server.engine.membership import Membership
from tensorus_server.engine.verify.verification import Target
from tensorus_server.model import Checksum, Segment, TensorReference

pytestmark = pytest.mark.slow

CHUNK = 32 * 1024
MARK_EVERY = 4 * CHUNK
VALUES = normal((500_001,), "float32")
REQUEST = InsertOptions(request_id="request")


class Replica:
    """An engine that shares its catalogue and its objects with others."""

    def __init__(self, folder: Path, url: str, patch: pytest.MonkeyPatch) -> None:
        """Open it, and count what it reads from the store."""
        self.read_bytes = 0
        catalogue = SqliteCatalogue(folder)
        membership = Membership(catalogue.members)
        self.store = ObjectChunkStore(url, writes=membership.writes, packed_bytes_max=-1, segment_bytes=2 * CHUNK)
        sessions = InsertSessions(CatalogueSessions(membership))
        self.engine = Engine(catalogue, self.store, CodecPool(2), sessions, membership=membership, sweeps=False)
        for name in ("get", "get_all"):
            patch.setattr(self.store.client, name, self._counted(getattr(self.store.client, name)))

    def _counted(self, method: Any) -> Any:
        def counted(*arguments: Any) -> bytes:
            data: bytes = method(*arguments)
            self.read_bytes += len(data)
            return data

        return counted


@pytest.mark.parametrize("with_base", [False, True], ids=["alone", "with a base"])
@pytest.mark.parametrize("preset", ["none", "lossless", "maximum"])
def test_each_replica_reads_one_record_of_what_others_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preset: str, *, with_base: bool
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    mark_tensors(monkeypatch, above_bytes=10_000, every_bytes=MARK_EVERY)
    url = shared_seaweed().url(new_prefix())
    replicas = [Replica(tmp_path, url, monkeypatch) for _ in range(3)]
    try:
        first = replicas[0].engine
        first.create_dataset("d", StoragePolicy(preset=preset, chunk_bytes=CHUNK))
        base = None
        if with_base:
            insert(first, "d", "base", np.where(np.arange(VALUES.size) % 40 == 0, 0, VALUES).astype(np.float32))
            base = TensorReference("d", "base")
        new = announce("t", VALUES, base=base)
        data = memoryview(canonical(VALUES))
        checksum = Checksum("crc32c", crc32c(data).to_bytes(4, "big"))
        stops = [data.nbytes // 3, 2 * data.nbytes // 3, data.nbytes]
        for replica, stop in zip(replicas, stops, strict=True):
            reports = Reports()
            with replica.engine.sessions.held("request", lambda: None):
                stream = replica.engine.open_insert("d", reports, REQUEST)
                at = next((left.committed_bytes for left in stream.resumable), 0)
                before = replica.read_bytes
                is_last = stop == data.nbytes
                piece = data[at:stop]
                stream.receive(Segment(0, at, piece.nbytes, is_last, new, checksum if is_last else None), piece)
                if is_last:
                    stream.finish()
                else:
                    stream.abort()
            if base is None and at:
                assert 0 < replica.read_bytes - before <= CHUNK + 4096
        tensor = reports.tensor(0)
        assert tensor.source_checksum == checksum
        whole = insert(replicas[1].engine, "d", "whole", VALUES, base=base)
        assert (tensor.storage, tensor.values) == (whole.storage, whole.values)
        assert_same_bits(read(first, "d", "t"), read(first, "d", "whole"))
        assert verified(first, Target("d", ("t",))).damages == []
    finally:
        for replica in replicas:
            replica.engine.close()
