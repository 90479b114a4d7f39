"""Bits flipped over every page of a catalogue: no payload is deleted, and no wrong field is returned.

After each flip the store opens, or is refused with a message; what is read is what was written, or an error of the contract.
`HYPOTHESIS_PROFILE=long` looks longer.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorus
from support.servers import engine_config
from tensorus.embedded import EmbeddedBackend
from tensorus.errors import DataCorruptError, LimitExceededError, NotFoundError, UnavailableError
from tensorus.types import TensorInfo
from tensorus_server.catalogue.sqlite import index_check

IS_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
FLIPS_PER_PAGE = 60 if IS_LONG else 1
PAGE_BYTES = 4096
TENSORS = 200 if IS_LONG else 60
LARGE_EVERY = 20

ORDERS = ["created", "id desc", "nbytes", "stored_bytes desc"]


@pytest.fixture(scope="module", autouse=True)
def long_check(few_shards: None) -> Iterator[None]:
    """Give the check of the indexes the time that it needs."""
    with pytest.MonkeyPatch.context() as patch:
        # However busy the machine is: until the check ends, a damaged index may hide a tensor.
        patch.setattr(index_check, "_AT_OPENING_S", 60.0)
        yield


def array(number: int) -> np.ndarray[Any, Any]:
    size = 20_000 if number % LARGE_EVERY == 0 else 8 + number % 5
    return (np.arange(size) + number).astype([np.float32, np.int16, np.bool_][number % 3])


class Truth:
    """What was written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with tensorus.Client(EmbeddedBackend(folder, engine_config)) as client:
            client.create_dataset("even", preset="none")
            client.create_dataset("odd", preset="none", schema=tensorus.Schema(metadata={"n": int}))
            for begin in (0, 1):
                client.insert_many(
                    ["even", "odd"][begin],
                    [
                        tensorus.NewTensor(
                            array(n),
                            f"layer/{n}",
                            {"n": n, "kind": f"kind {n % 7}", "long": "x" * (n * 3)},
                            tensorus.Policy(preset="fast") if n % 25 == 0 else None,
                        )
                        for n in range(begin, TENSORS, 2)
                    ],
                )
            client.delete("odd", ["layer/21", "layer/41"])
            self.infos: dict[tuple[str, str], TensorInfo] = {
                (name, info.id): info for name in ("even", "odd") for info in client.list(name)
            }
            self.datasets = {info.name: info for info in client.datasets()}
            self.stats = {name: client.stats(name) for name in self.datasets}
        self.catalogue = (folder / "catalogue.db").read_bytes()
        # How new the payloads are: an opening raises it, and a catalogue from before is refused.
        self.identity = (folder / "chunks" / "store").read_bytes()
        self.files = self.payload_files()

    def payload_files(self) -> set[str]:
        return {path.name for path in (self.folder / "chunks").rglob("*") if path.is_file()}

    def flipped(self, bit: int) -> None:
        """Let the catalogue be as it was written, but for one bit."""
        data = bytearray(self.catalogue)
        data[bit // 8] ^= 1 << bit % 8
        for name in ("catalogue.db-wal", "catalogue.db-shm"):
            (self.folder / name).unlink(missing_ok=True)
        (self.folder / "catalogue.db").write_bytes(data)
        (self.folder / "chunks" / "store").write_bytes(self.identity)


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    return Truth(tmp_path_factory.mktemp("flips") / "store")


def require_right(client: tensorus.Client, truth: Truth) -> None:
    """Read everything in every way, and compare it."""
    damages: list[DataCorruptError] = []
    found = client.datasets(on_damaged=damages.append)
    assert all(info == truth.datasets[info.name] for info in found)
    assert len(found) + len(damages) == len(truth.datasets)
    for name in truth.datasets:
        ids = {tensor_id for dataset, tensor_id in truth.infos if dataset == name}
        for order in ORDERS:
            damages = []
            infos = list(client.list(name, order_by=order, on_damaged=damages.append))
            assert all(info == truth.infos[name, info.id] for info in infos)
            assert len({info.id for info in infos}) == len(infos)
            # Nothing is missing in silence.
            assert len(infos) + len(damages) >= len(ids), (order, len(infos), damages)
        for info in client.list(name, "n >= 30", on_damaged=damages.append):
            assert info == truth.infos[name, info.id]
        stats = client.stats(name)
        assert stats.damaged_tensors or stats == truth.stats[name]
        assert stats.tensors + stats.damaged_tensors == len(ids)
        for record in client.get_many(name, sorted(ids), as_="numpy", on_damaged=damages.append):
            assert record.info == truth.infos[name, record.info.id]
            assert np.array_equal(record.tensor, array(int(record.info.id.removeprefix("layer/"))))


def outcome_of(truth: Truth, bit: int) -> str:
    """Flip a bit, read everything, and return "refused", "named" (some call fails as a whole), or "read"."""
    truth.flipped(bit)
    try:
        backend = EmbeddedBackend(truth.folder, engine_config)
    except UnavailableError:
        return "refused"
    with tensorus.Client(backend) as client:
        try:
            backend._engine.sweep()
            require_right(client, truth)
        except (DataCorruptError, UnavailableError, NotFoundError, LimitExceededError):
            return "named"
    return "read"


def test_no_flip_deletes_a_payload_or_is_returned(truth: Truth) -> None:
    source = random.Random(20)
    outcomes: list[str] = []
    for page in range(len(truth.catalogue) // PAGE_BYTES):
        for _ in range(FLIPS_PER_PAGE):
            bit = page * PAGE_BYTES * 8 + source.randrange(PAGE_BYTES * 8)
            try:
                outcomes.append(outcome_of(truth, bit))
                assert truth.payload_files() == truth.files
            except Exception as error:
                raise AssertionError(f"bit {bit}: page {page}, byte {bit // 8 % PAGE_BYTES}") from error
    # Most flips are in rows and their indexes, and hurt a tensor or nothing.
    assert outcomes.count("read") > len(outcomes) * 3 / 4
