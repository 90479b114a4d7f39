"""A store on a cluster of SeaweedFS, of which servers are killed: what was published is there, through every gateway."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.seaweed import ACCESS_KEY, SECRET_KEY
from support.seaweed_cluster import SeaweedCluster
from support.write_log import MemoryWriteLog, SharedLog
from tensorus_server.chunk_store.abc import new_payload_key
from tensorus_server.errors import StoreUnavailableError

pytestmark = pytest.mark.long

WRITERS = 4
SECONDS = 30.0


def test_what_is_published_survives_servers_that_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    from tensorus_server.chunk_store.objects.store import ObjectChunkStore  # noqa: PLC0415 - after the check

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    with SeaweedCluster(tmp_path / "cluster") as cluster:
        log = SharedLog()
        stores = [ObjectChunkStore(cluster.url(number, "p"), writes=MemoryWriteLog(log)) for number in range(2)]
        published: dict[str, bytes] = {}
        lock, ended = threading.Lock(), threading.Event()

        def write(number: int) -> None:
            while not ended.is_set():
                payload = os.urandom((100_000, 12_000_000)[number % 2])
                try:
                    writer = stores[number % 2].begin(new_payload_key())
                    writer.append([payload])
                    (key,) = stores[number % 2].publish([writer.finish()])
                except StoreUnavailableError:
                    continue
                with lock:
                    published[key] = payload[:1000] + payload[-1000:]

        with ThreadPoolExecutor(WRITERS) as threads:
            writing = [threads.submit(write, number) for number in range(WRITERS)]
            time.sleep(SECONDS / 3)
            cluster.kill("volume-1")
            time.sleep(SECONDS / 3)
            cluster.start_volume(1)
            cluster.kill("gateway-1")
            time.sleep(SECONDS / 3)
            ended.set()
            for one in writing:
                one.result(120)
        assert len(published) > 10
        # Through the gateway that is left, whichever wrote it.
        for key, ends in published.items():
            with stores[0].open(key) as reader:
                assert reader.read(0, 1000) + reader.read(reader.length - 1000, 1000) == ends
        for store in stores:
            store.close(60)
