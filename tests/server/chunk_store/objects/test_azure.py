"""The same store in Azure's blob storage, by its emulator."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.chunk_store_contract import content, staged
from server.chunk_store.objects.test_writing import KIB, MIB, written
from support.azurite import ACCOUNT, KEY, Azurite
from support.write_log import MemoryWriteLog
from tensorus_server.chunk_store.abc import PayloadMissingError, new_payload_key
from tensorus_server.chunk_store.objects.probe import probe_store
from tensorus_server.chunk_store.objects.store import ObjectChunkStore
from tensorus_server.model import StoreIdentity


@pytest.fixture
def azurite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Azurite]:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
    with Azurite(tmp_path / "azurite") as running:
        yield running


def test_a_store_in_azure_writes_reads_lists_resumes_and_deletes(azurite: Azurite) -> None:
    log = MemoryWriteLog()
    store = ObjectChunkStore(azurite.url("a/b"), writes=log, segment_bytes=300 * KIB, packed_bytes_max=100 * KIB)
    assert probe_store(store.client.address).creates_once
    store.write_identity(StoreIdentity("ab" * 16, 3))
    assert store.read_identity() == StoreIdentity("ab" * 16, 3)
    payload = os.urandom(MIB)
    large = written(store, payload)
    small = store.publish([staged(store, b"one"), staged(store, b"two")])
    assert log.shared.commit([large, *small], log.number) == []
    assert content(store, large, MIB) == payload
    assert [content(store, key, 3) for key in small] == [b"one", b"two"]
    assert [stored.key for stored in store.published()] == [large]
    assert [[part.key for part in store.packs.parts(stored.pack)] for stored in store.packs.packs()] == [small]
    writer = store.begin(payload_key := new_payload_key())
    writer.append([payload[:1000]])
    writer.keep().result(60)
    writer.park()
    writer, reader = store.resume(payload_key, 1000)
    with reader:
        assert reader.read(0, 1000) == payload[:1000]
    writer.drop()
    signed = store.presign(large, [(5, 10)], 60.0)
    assert signed is not None
    ((piece,),) = signed
    request = urllib.request.Request(
        piece.url, headers={"Range": f"bytes={piece.offset}-{piece.offset + piece.length - 1}"}
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.read() == payload[5:15]
    store.delete(large)
    with pytest.raises(PayloadMissingError):
        store.open(large)
    assert list(store.client.objects("t")) == []
    assert store.close(10)
