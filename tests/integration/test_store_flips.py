"""One bit flipped in every byte of a store of 64 KiB, and every bit of its payloads: no tensor is ever silently wrong.

The store has all that a large one has: tensors in the catalogue and in files, lossless, lossy and edited. Its pages are small,
so that there are few bytes in them. `test_catalogue_flips.py` flips bits in a catalogue of pages of the usual size.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorus
from support.arrays import random_bits
from support.servers import engine_config
from support.stores import few_shards
from tensorus import embedded
from tensorus.embedded import EmbeddedBackend
from tensorus.errors import (
    ChecksumMismatchError,
    DataCorruptError,
    LimitExceededError,
    NotFoundError,
    UnavailableError,
)
from tensorus.types import TensorInfo
from tensorus_server.catalogue.sql import rows
from tensorus_server.catalogue.sqlite import connection, index_check
from tensorus_server.engine.insert import tensor_writer, totals
from tensorus_server.engine.read.payload import Payload
from tensorus_server.errors import EngineError

_log = logging.getLogger(__name__)

pytestmark = pytest.mark.timeout(300)

PAGE_BYTES = 512
INLINE_BYTES_MAX = 1000
STORE_BYTES = 64 * 1024

PARTS = 8
"""Of the long form, which processes share."""
CATALOGUE_EVERY, PAYLOADS_EVERY = 997, 499
"""Bits from one flip to the next in the short form."""

DETECTED = (DataCorruptError, ChecksumMismatchError)
REFUSED = (*DETECTED, UnavailableError, NotFoundError, LimitExceededError, EngineError)

SLICE = (slice(1, 4), slice(3, None, 5))


class Truth:
    """The store, and what was written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tensors: dict[str, np.ndarray[Any, Any]] = {}
        self.infos: dict[str, TensorInfo] = {}
        with tensorus.Client(EmbeddedBackend(folder, settings)) as client:
            client.create_dataset("d", policy=tensorus.Policy("none", chunk_bytes=4096))
            for number in range(8):
                array = random_bits("uint8", (100 + 40 * number,), seed=number)
                client.insert("d", array, id=f"small-{number}", metadata={"n": number})
            for number, preset in enumerate(("none", "lossless", "fast")):
                array = np.random.default_rng(number).normal(size=(6, 200)).astype(np.float32)
                client.insert("d", array, id=preset, policy=tensorus.Policy(preset, chunk_bytes=4096))
            client.append("d", "none", np.ones((1, 200), np.float32))
            client.delete("d", "small-3")
            for info in client.list("d"):
                self.infos[info.id] = info
                self.tensors[info.id] = client.get("d", info.id, as_="numpy")
        self.catalogue = folder / "catalogue.db"
        self.identity = folder / "chunks" / "store"
        self.payloads = sorted(folder.glob("chunks/??/*"))
        self.content = {path: path.read_bytes() for path in (self.catalogue, self.identity, *self.payloads)}
        self.places = [(path, byte) for path in (self.catalogue, self.identity) for byte in range(self.size(path))]
        """Of every byte that is read when a store is opened."""

    def size(self, path: Path) -> int:
        return len(self.content[path])

    def restore(self) -> None:
        """Let all be as it was written: an opening raises the epoch, and a catalogue from before is refused."""
        for name in ("catalogue.db-wal", "catalogue.db-shm"):
            (self.folder / name).unlink(missing_ok=True)
        for path in (self.catalogue, self.identity):
            path.write_bytes(self.content[path])

    def require_payloads(self) -> None:
        assert sorted(self.folder.glob("chunks/??/*")) == self.payloads


def settings(folder: Path) -> Any:
    return engine_config(folder, sweeps=False, delete_grace_s=0.0)


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Truth]:
    with pytest.MonkeyPatch.context() as patch, few_shards(1):
        # However busy the machine is: until the check ends, a damaged index may hide a tensor.
        patch.setattr(index_check, "_AT_OPENING_S", 60.0)
        patch.setattr(connection, "PAGE_BYTES", PAGE_BYTES)
        for module in (embedded, tensor_writer, totals):
            patch.setattr(module, "INLINE_BYTES_MAX", INLINE_BYTES_MAX)
        # What was read before the flip is not what is stored.
        patch.setattr(Payload, "_cached", lambda _, __, ___, load: load())
        made = Truth(tmp_path_factory.mktemp("flips") / "store")
        assert STORE_BYTES * 3 // 4 < sum(map(len, made.content.values())) < STORE_BYTES * 5 // 4
        assert len(made.payloads) == 4
        yield made


def flip(path: Path, byte: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(byte)
        (value,) = file.read(1)
        file.seek(byte)
        file.write(bytes([value ^ 1 << bit]))


def read_all(client: tensorus.Client, truth: Truth) -> int:
    """Read everything, and compare it; return how many tensors are said to be damaged. Nothing is missing in silence."""
    damages: list[DataCorruptError] = []
    infos = list(client.list("d", on_damaged=damages.append))
    assert all(info == truth.infos[info.id] for info in infos)
    assert len({info.id for info in infos}) == len(infos)
    assert len(infos) + len(damages) >= len(truth.infos)
    damaged = 0
    for tensor_id, array in truth.tensors.items():
        try:
            assert_equal(client.get("d", tensor_id, as_="numpy"), array)
        except DETECTED:
            damaged += 1
    return damaged


def assert_equal(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> None:
    assert (found.dtype, found.shape, found.tobytes()) == (wanted.dtype, wanted.shape, wanted.tobytes())


def outcome_of(truth: Truth, path: Path, byte: int, bit: int) -> str:
    """Flip a bit of what is read at opening, read everything, and return whether the store was "refused", and so on."""
    truth.restore()
    flip(path, byte, bit)
    try:
        backend = EmbeddedBackend(truth.folder, settings)
    except UnavailableError:
        return "refused"
    with tensorus.Client(backend) as client:
        try:
            backend._engine.sweep()
            damaged = read_all(client, truth)
        except REFUSED:
            return "a call fails"
    return "a tensor is damaged" if damaged else "harmless"


def check_catalogue(truth: Truth, bits: range) -> Counter[str]:
    """Flip these bits, of all bits that are read when a store is opened."""
    outcomes: Counter[str] = Counter()
    for number in bits:
        path, byte = truth.places[number // 8]
        try:
            outcomes[outcome_of(truth, path, byte, number % 8)] += 1
            truth.require_payloads()
        except Exception as error:
            raise AssertionError(f"{path.name}, byte {byte}, bit {number % 8}") from error
    truth.restore()
    return outcomes


def check_payloads(truth: Truth, bits_of: Callable[[int], range]) -> Counter[str]:
    """Flip bits of each payload, and read the tensors that need it as a whole, and a slice of them.

    Args:
        bits_of: which of so many bits.
    """
    outcomes: Counter[str] = Counter()
    truth.restore()
    with tensorus.Client(EmbeddedBackend(truth.folder, settings)) as client:
        for path in truth.payloads:
            ids = needing(client, truth, path)
            for number in bits_of(8 * truth.size(path)):
                flip(path, number // 8, number % 8)
                try:
                    outcomes[read_payload(client, truth, ids)] += 1
                except Exception as error:
                    raise AssertionError(f"{path.name}, byte {number // 8}, bit {number % 8}") from error
                finally:
                    flip(path, number // 8, number % 8)
        assert read_all(client, truth) == 0
    return outcomes


def needing(client: tensorus.Client, truth: Truth, path: Path) -> list[str]:
    """Return the tensors that cannot be read without a payload."""
    path.write_bytes(bytes(truth.size(path)))
    found = []
    for tensor_id in truth.tensors:
        try:
            client.get("d", tensor_id, as_="numpy")
        except DETECTED:
            found.append(tensor_id)
    path.write_bytes(truth.content[path])
    assert found
    return found


def read_payload(client: tensorus.Client, truth: Truth, ids: list[str]) -> str:
    outcome = "harmless"
    for tensor_id in ids:
        for part in (..., SLICE):
            try:
                found = client.get("d", tensor_id, index=part, as_="numpy")
            except DETECTED:
                outcome = "detected"
            else:
                assert_equal(found, truth.tensors[tensor_id][part])
    return outcome


def test_flips_here_and_there_are_detected_or_harmless(truth: Truth) -> None:
    outcomes = check_catalogue(truth, range(0, 8 * len(truth.places), CATALOGUE_EVERY * 4))
    assert outcomes["refused"] + outcomes["a call fails"] + outcomes["a tensor is damaged"] > 0
    outcomes = check_payloads(truth, lambda bits: range(0, bits, PAYLOADS_EVERY))
    assert outcomes["detected"] > outcomes["harmless"]


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
def test_a_flip_in_any_byte_of_the_catalogue_is_detected_or_harmless(truth: Truth, part: int) -> None:
    count = len(truth.places)
    # Another bit in each byte, all of them in turn.
    bits = [8 * byte + (byte + byte // 8) % 8 for byte in range(count * part // PARTS, count * (part + 1) // PARTS)]
    _log.info("part %d: %s", part, check_catalogue(truth, bits))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_flip_of_any_bit_of_a_payload_is_detected_or_harmless(truth: Truth) -> None:
    outcomes = check_payloads(truth, range)
    _log.info("payloads: %s", outcomes)
    # Neither reads of whole tensors nor slices need all that is stored, such as chunks that an edit has replaced.
    assert outcomes["detected"] > outcomes["harmless"]


def test_a_store_that_does_not_check_chunks_is_found_out(truth: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Payload, "_require_crc32c", lambda *_: None)
    with pytest.raises(AssertionError, match="bit") as caught:
        check_payloads(truth, lambda bits: range(0, bits, PAYLOADS_EVERY))
    assert isinstance(caught.value.__cause__, AssertionError)


class EqualToAll(int):
    """A checksum that is never wrong."""

    __hash__ = int.__hash__

    def __eq__(self, _: object) -> bool:
        return True

    def __ne__(self, _: object) -> bool:
        return False


def test_a_store_that_does_not_check_rows_is_found_out(truth: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "crc32c", lambda *_: EqualToAll())
    begin = truth.content[truth.catalogue].index(b'{"n":5}')
    with pytest.raises(AssertionError, match="bit") as caught:
        check_catalogue(truth, range(8 * begin, 8 * (begin + 7)))
    assert isinstance(caught.value.__cause__, AssertionError)
