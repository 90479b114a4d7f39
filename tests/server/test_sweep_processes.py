"""Two processes sweep one store: what one of them is about to commit is never garbage to the other."""

from __future__ import annotations

import os
import time
from pathlib import Path

from contract.chunk_store_contract import staged
from contract.chunk_store_raw import RawFolder
from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.chunk_store.local import LocalChunkStore
from tensorus_server.sweep import Swept, sweep

ORPHAN_AGE_S = 3600.0


def test_a_payload_that_waited_long_for_the_others_of_its_insert_is_not_swept_while_it_is_committed(
    tmp_path: Path,
) -> None:
    mine, others = LocalChunkStore(tmp_path), LocalChunkStore(tmp_path)
    catalogue = SqliteCatalogue(tmp_path)
    # Of an insert of all or nothing: written long ago, and published only when the last of its tensors is there.
    payload = staged(mine, b"written long ago")
    written_s = time.time() - 2 * ORPHAN_AGE_S
    os.utime(mine._own_tmp / payload.payload_key, (written_s, written_s))
    (key,) = mine.publish([payload])
    # The other process sweeps before the commit.
    assert sweep(catalogue, others, started_s=time.time(), orphan_age_s=ORPHAN_AGE_S) == Swept(0, 0, 0, 0)
    assert key in RawFolder(tmp_path).published()
    catalogue.close()
    mine.close()
    others.close()
