"""One tensor on its way in: however its bytes are cut, the same tensor is stored, and a wrong one never."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from contract.chunk_store_raw import RawFolder
from support.arrays import DTYPE_NAMES, canonical, normal, random_bits
from support.cases import each
from support.engine import INDEX_ENTRY_BYTES, RAW_RECORD_OVERHEAD, announce
from support.faults import FaultyFiles, open_descriptors
from tensorus_codecs.checksum import TensorDigest, crc32c
from tensorus_codecs.dtypes import opaque_dtype
from tensorus_codecs.plan import plan
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.catalogue.abc import StoredTensor
from tensorus_server.chunk_store.local import LocalChunkStore
from tensorus_server.chunk_store.memory import MemoryChunkStore
from tensorus_server.chunk_table import INDEX_END_BYTES
from tensorus_server.engine.codec_pool import CodecPool
from tensorus_server.engine.insert import tensor_writer
from tensorus_server.engine.insert.tensor_writer import TensorWriter
from tensorus_server.engine.read.payload import ENTRY_BYTES
from tensorus_server.errors import (
    ChecksumMismatchError,
    InvalidRequestError,
    SizeMismatchError,
    StorageFullError,
    StoreUnavailableError,
)
from tensorus_server.limits import INLINE_BYTES_MAX
from tensorus_server.model import Checksum, Dataset, Locator, NewTensor, Schema, TensorSpec

DATASET = Dataset(1, "dataset", StoragePolicy(), Schema(), 0)

KEY = "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def pool() -> Iterator[CodecPool]:
    opened = CodecPool(2)
    yield opened
    opened.close()


def writer_of(
    new: NewTensor, pool: CodecPool, chunk_store: Any = None, *, preset: str = "none", chunk_bytes: int = 4096
) -> TensorWriter:
    """Return a writer of small chunks."""
    chunk_plan = plan(StoragePolicy(preset=preset, chunk_bytes=chunk_bytes), new.spec.dtype)
    return TensorWriter(DATASET, new, chunk_plan, staging=chunk_store or MemoryChunkStore(), pool=pool)


def written(
    array: np.ndarray[Any, Any], cuts: list[int], pool: CodecPool, *, preset: str, known_crcs: bool = False
) -> tuple[StoredTensor, bytes]:
    """Write an array cut at these byte offsets; return what is to be committed, and the payload, without its footer."""
    chunk_store = MemoryChunkStore()
    data = canonical(array)
    with patch.object(tensor_writer, "new_payload_key", lambda: KEY):
        writer = writer_of(announce("t", array), pool, chunk_store, preset=preset)
    for begin, end in itertools.pairwise([0, *cuts, len(data)]):
        # Each piece in memory of its own, and longer than it says: nothing beyond its view may be used.
        message = bytearray(b"\xee" + data[begin:end] + b"\xee")
        view = memoryview(message)[1:-1]
        if view.nbytes:
            writer.write(view, crc32c(view) if known_crcs else None)
    stored, staged = writer.seal(None)
    if stored.inline_payload is not None:
        assert staged is None
        return stored, stored.inline_payload
    assert staged is not None
    return stored, chunk_store._staged[staged.payload_key][: stored.locator.length]


ARRAYS = {
    "none": random_bits("uint8", (150_000,)),
    "lossless": normal((30_000,), "float32"),
    "maximum": normal((30_000,), "float32"),
    "balanced": normal((20_000,), "float64"),
    "fast": np.zeros((20_000,), np.int64),
}


@settings(max_examples=settings.default.max_examples // 2)
@given(
    preset=st.sampled_from(list(ARRAYS)),
    size=st.one_of(st.integers(0, 20_000), st.sampled_from([0, 512, 1024, 2048, 4096])),
    cuts=st.lists(st.floats(0, 1), max_size=12),
    known_crcs=st.booleans(),
)
@example(preset="none", size=150_000, cuts=[0.5], known_crcs=False)
@example(preset="none", size=8192, cuts=[0.5], known_crcs=True)
@example(preset="none", size=4096, cuts=[1.0], known_crcs=True)
def test_any_cutting_of_the_bytes_stores_the_same_tensor(
    pool: CodecPool, preset: str, size: int, cuts: list[float], *, known_crcs: bool
) -> None:
    array = ARRAYS[preset][:size]
    whole = written(array, [], pool, preset=preset)
    offsets = sorted(int(cut * array.nbytes) for cut in cuts)
    assert written(array, offsets, pool, preset=preset, known_crcs=known_crcs) == whole


@pytest.mark.slow
@each("preset", ["lossless", "maximum", "auto"])
def test_what_is_stored_does_not_depend_on_the_number_of_threads(preset: str) -> None:
    # Its kind changes within what one choice serves, and at its borders.
    dense, sparse = normal((40_000,)), np.where(np.arange(40_000) % 10, 0, normal((40_000,))).astype(np.float32)
    array = np.concatenate([dense, sparse, np.zeros(10_000, np.float32), dense, sparse])
    chunk_plan = plan(
        StoragePolicy(preset=preset, chunk_bytes=16384, max_relative_error=5e-3), announce("t", array).spec.dtype
    )
    payloads = []
    for threads in (1, 4):
        opened = CodecPool(threads)
        chunk_store = MemoryChunkStore()
        with patch.object(tensor_writer, "new_payload_key", lambda: KEY):
            writer = TensorWriter(DATASET, announce("t", array), chunk_plan, staging=chunk_store, pool=opened)
        with patch.object(tensor_writer, "_HERE_BYTES_MAX", 0):
            writer.write(memoryview(canonical(array)))
            stored, staged = writer.seal(None)
        opened.close()
        assert staged is not None
        payload = chunk_store._staged[staged.payload_key][: stored.locator.length]
        payloads.append((stored.storage, payload))
    assert payloads[0] == payloads[1]
    assert len(payloads[0][0].encodings) >= 3


@each("step", [1, 15, 4095, 4096, 4097, 8192, 10_000])
def test_pieces_of_one_size_store_the_same_tensor(pool: CodecPool, step: int) -> None:
    array = random_bits("float32", (3_000,) if step < 15 else (30_000,))
    cuts = list(range(step, array.nbytes, step))
    assert written(array, cuts, pool, preset="lossless") == written(array, [], pool, preset="lossless")


@each("dtype", DTYPE_NAMES)
@each("shape", [(), (0,), (3, 0), (7, 11), (2100,)])
def test_the_report_counts_what_is_stored(pool: CodecPool, dtype: str, shape: tuple[int, ...]) -> None:
    array = random_bits(dtype, shape)
    stored, payload = written(array, [], pool, preset="lossless")
    report = stored.storage
    assert report.canonical_bytes == array.nbytes
    assert report.stored_bytes == len(payload) == stored.locator.length
    chunks = -(-array.nbytes // 4096)
    assert sum(share.chunks for share in report.encodings) == chunks
    assert sum(share.canonical_bytes for share in report.encodings) == array.nbytes
    assert sum(share.stored_bytes for share in report.encodings) == len(payload) - chunks * ENTRY_BYTES
    assert not report.lossy
    assert stored.source_checksum == stored.value_checksum
    assert report.quantized_bytes == array.nbytes


def test_a_lossy_tensor_has_two_checksums_and_a_measured_error(pool: CodecPool) -> None:
    array = normal((5_000,))
    stored, _ = written(array, [], pool, preset="maximum")
    digest = TensorDigest()
    digest.update(canonical(array))
    assert stored.source_checksum == Checksum("xxh3_128", digest.digest())
    assert stored.value_checksum != stored.source_checksum
    assert stored.storage.lossy
    assert 0 < stored.storage.relative_error <= 0.01
    assert stored.storage.max_absolute_error > 0
    assert stored.storage.quantized_bytes < array.nbytes
    assert stored.storage.fallback_reason == ""


def test_chunks_that_could_not_be_quantized_are_counted_with_the_first_reason(pool: CodecPool) -> None:
    array = normal((4096,))
    array[1024:3072:2] = np.nan
    stored, _ = written(array, [], pool, preset="maximum")
    assert stored.storage.fallback_reason.startswith("2 of 4 chunks are lossless: ")
    assert stored.storage.lossy
    assert stored.values is not None
    assert stored.values.nan_count == 1024


def test_a_policy_that_does_not_apply_says_so(pool: CodecPool) -> None:
    from tensorus_codecs.encoding import Encoding  # noqa: PLC0415 - for this alone

    new = announce("t", np.arange(10))
    chunk_plan = plan(StoragePolicy(encoding=Encoding.from_json([{"id": "fp16"}])), new.spec.dtype)
    writer = TensorWriter(DATASET, new, chunk_plan, staging=MemoryChunkStore(), pool=pool)
    writer.write(memoryview(np.arange(10).tobytes()))
    stored, _ = writer.seal(None)
    assert stored.storage.fallback_reason == "fp16 does not apply to int64, which stays lossless"


def test_the_summary_is_over_all_chunks(pool: CodecPool) -> None:
    stored, _ = written(np.arange(5_000, dtype=np.int32) - 7, [], pool, preset="none")
    assert stored.values is not None
    assert (stored.values.minimum, stored.values.maximum, stored.values.zero_count) == (-7.0, 4992.0, 1)


class TestSize:
    """As many bytes as dtype and shape need, no more and no fewer."""

    @each("pieces", [[41], [40, 1], [1] * 41, [10, 31]])
    def test_more_bytes_are_refused_as_soon_as_they_come(self, pool: CodecPool, pieces: list[int]) -> None:
        writer = writer_of(announce("t", np.zeros((2, 5), np.float32)), pool)
        for size in pieces[:-1]:
            writer.write(memoryview(bytes(size)))
        message = r"at least 41 bytes were sent, float32 of shape \[2, 5\] has 40 bytes \[dataset=dataset, tensor=t\]"
        with pytest.raises(SizeMismatchError, match=message) as caught:
            writer.write(memoryview(bytes(pieces[-1])))
        assert caught.value.facts["limit"] == "40"

    @pytest.mark.parametrize("size", [0, 1, 39])
    def test_fewer_bytes_are_refused_at_the_end(self, pool: CodecPool, size: int) -> None:
        writer = writer_of(announce("t", np.zeros((2, 5), np.float32)), pool)
        if size:
            writer.write(memoryview(bytes(size)))
        with pytest.raises(SizeMismatchError, match=f"{size} bytes were sent, .* has 40 bytes"):
            writer.seal(None)

    def test_a_tensor_without_elements_takes_no_byte(self, pool: CodecPool) -> None:
        writer = writer_of(announce("t", np.zeros((3, 0), np.float32)), pool)
        with pytest.raises(
            SizeMismatchError, match=r"at least 1 bytes were sent, float32 of shape \[3, 0\] has 0 bytes"
        ):
            writer.write(memoryview(b"x"))

    @each("bits", [8, 24, 48, 80, 120, 128])
    def test_elements_of_any_whole_width_can_be_cut_into_chunks(self, pool: CodecPool, bits: int) -> None:
        # A dtype that is not in the table has any width; chunks are whole elements nevertheless.
        spec = TensorSpec(opaque_dtype(99, bits), (3000,))
        writer = writer_of(NewTensor("t", spec, {}), pool)
        writer.write(memoryview(bytes(spec.canonical_bytes)))
        stored, _ = writer.seal(None)
        assert stored.chunk_bytes % spec.dtype.element_bytes == 0


def checksum_of(data: bytes, algorithm: str) -> Checksum:
    """Return the right checksum."""
    if algorithm == "crc32c":
        return Checksum("crc32c", crc32c(data).to_bytes(4, "big"))
    digest = TensorDigest()
    digest.update(data)
    return Checksum("xxh3_128", digest.digest())


class TestSourceChecksum:
    """Verified before anything can become visible, whether it comes first or last."""

    @each("algorithm", ["xxh3_128", "crc32c"])
    @each("place", ["first", "last", "both"])
    @each("size", [0, 1, 10_000])
    def test_a_right_one_is_accepted(self, pool: CodecPool, algorithm: str, place: str, size: int) -> None:
        array = random_bits("uint8", (size,))
        right = checksum_of(array.tobytes(), algorithm)
        writer = writer_of(announce("t", array, source_checksum=None if place == "last" else right), pool)
        for begin in range(0, size, 3333):
            writer.write(memoryview(array.tobytes())[begin : begin + 3333])
        stored, _ = writer.seal(None if place == "first" else right)
        # What is kept is always the digest that every client can compare.
        assert stored.source_checksum == checksum_of(array.tobytes(), "xxh3_128")

    @each("algorithm", ["xxh3_128", "crc32c"])
    @each("place", ["first", "last"])
    def test_a_wrong_one_is_refused(self, pool: CodecPool, algorithm: str, place: str) -> None:
        wrong = checksum_of(b"other", algorithm)
        right = checksum_of(b"bytes", algorithm)
        array = np.frombuffer(b"bytes", np.uint8)
        writer = writer_of(announce("t", array, source_checksum=wrong if place == "first" else None), pool)
        writer.write(memoryview(b"bytes"))
        message = f"{algorithm} of the 5 bytes is {right.value.hex()}, the source checksum is {wrong.value.hex()} "
        with pytest.raises(ChecksumMismatchError, match=message) as caught:
            writer.seal(wrong if place == "last" else None)
        assert (caught.value.facts["expected"], caught.value.facts["found"]) == (wrong.value.hex(), right.value.hex())

    def test_the_last_one_counts_where_there_are_two(self, pool: CodecPool) -> None:
        array = np.frombuffer(b"bytes", np.uint8)
        writer = writer_of(announce("t", array, source_checksum=checksum_of(b"other", "crc32c")), pool)
        writer.write(memoryview(b"bytes"))
        writer.seal(checksum_of(b"bytes", "xxh3_128"))

    @each("value", [b"", b"\0", bytes(3), bytes(5)])
    def test_one_of_another_length_is_wrong(self, pool: CodecPool, value: bytes) -> None:
        # The CRC of no bytes is 0, in four bytes and no others.
        writer = writer_of(announce("t", np.zeros(0, np.uint8)), pool)
        with pytest.raises(ChecksumMismatchError):
            writer.seal(Checksum("crc32c", value))

    @each("algorithm", ["", "md5", "XXH3_128", "crc32"])
    def test_an_unknown_algorithm_is_refused(self, pool: CodecPool, algorithm: str) -> None:
        writer = writer_of(announce("t", np.zeros(0, np.uint8)), pool)
        message = f"algorithm of the source checksum is '{algorithm}', must be xxh3_128 or crc32c"
        with pytest.raises(InvalidRequestError, match=message):
            writer.seal(Checksum(algorithm, b""))


class TestInline:
    """Up to a size a payload stays in memory and goes into the catalogue; beyond, it is a file."""

    @pytest.mark.parametrize(("beyond", "inline"), [(-1, True), (0, True), (1, False)])
    @pytest.mark.parametrize("chunks", [1, 16])
    def test_the_border_is_exact(
        self, pool: CodecPool, tmp_path: Path, beyond: int, chunks: int, *, inline: bool
    ) -> None:
        overhead = chunks * (RAW_RECORD_OVERHEAD + INDEX_ENTRY_BYTES)
        size = INLINE_BYTES_MAX - overhead + beyond
        chunk_store = LocalChunkStore(tmp_path)
        writer = writer_of(
            announce("t", np.zeros(size, np.uint8)), pool, chunk_store, chunk_bytes=4096 if chunks > 1 else 2**20
        )
        writer.write(memoryview(bytes(size)))
        stored, staged = writer.seal(None)
        assert sum(share.stored_bytes for share in stored.storage.encodings) == size + chunks * RAW_RECORD_OVERHEAD
        assert (stored.inline_payload is not None, staged is None) == (inline, inline)
        assert RawFolder(tmp_path).unfinished() == (0 if inline else 1)
        chunk_store.close()

    def test_an_inline_payload_never_touches_the_chunk_store(self, pool: CodecPool, tmp_path: Path) -> None:
        files = FaultyFiles()
        chunk_store = LocalChunkStore(tmp_path, files=files)
        files.calls.clear()
        writer = writer_of(announce("t", np.zeros(10_000, np.uint8)), pool, chunk_store)
        writer.write(memoryview(bytes(10_000)))
        writer.seal(None)
        assert files.calls == []
        chunk_store.close()

    def test_a_payload_that_becomes_a_file_has_all_its_bytes_in_order(self, pool: CodecPool) -> None:
        array = random_bits("uint8", (200_000,))
        stored, payload = written(array, [], pool, preset="none")
        records = [payload[begin : begin + 4096 + RAW_RECORD_OVERHEAD] for begin in range(0, 200_000, 4117)]
        canonical_bytes = b"".join(record[RAW_RECORD_OVERHEAD:] for record in records)
        assert canonical_bytes[:200_000] == array.tobytes()
        index_length = 49 * INDEX_ENTRY_BYTES + INDEX_END_BYTES
        assert stored.locator == Locator(KEY, 0, len(payload), index_length, crc32c(payload[-index_length:]))

    @pytest.mark.parametrize(("size", "held"), [(10_000, True), (65_000, True), (70_000, False)])
    def test_what_is_encoded_and_in_memory_is_held(self, pool: CodecPool, size: int, *, held: bool) -> None:
        writer = writer_of(announce("t", np.zeros(size, np.uint8)), pool)
        assert writer.is_held
        writer.write(memoryview(bytes(size)))
        assert writer.is_held == held

    def test_what_a_codec_still_works_on_is_not_held(self, pool: CodecPool) -> None:
        # One byte above the size up to which a chunk is encoded where it comes in.
        writer = writer_of(announce("t", np.zeros(65_537, np.uint8)), pool, preset="fast", chunk_bytes=2**20)
        writer.write(memoryview(bytes(65_537)))
        assert not writer.is_held
        writer.drop()


FAULTS = [
    pytest.param(("create", 0), id="at its beginning"),
    pytest.param(("write_all", 0), id="as what was held is written"),
    pytest.param(("write_all", 1), id="at the first chunk after that"),
    pytest.param(("write_all", 5), id="in the middle"),
    pytest.param(("sync_data", 0), id="at its end"),
]


def write_and_seal(writer: TensorWriter, array: np.ndarray[Any, Any]) -> None:
    """Write an array as one piece and seal it."""
    writer.write(memoryview(array.tobytes()))
    writer.seal(None)


class TestFaults:
    """A tensor that cannot be stored leaves no file and no descriptor."""

    @pytest.fixture
    def files(self) -> FaultyFiles:
        return FaultyFiles()

    @pytest.fixture
    def chunk_store(self, tmp_path: Path, files: FaultyFiles) -> Iterator[LocalChunkStore]:
        opened = LocalChunkStore(tmp_path, files=files)
        files.calls.clear()
        yield opened
        opened.close()
        assert open_descriptors(tmp_path) == []

    @pytest.mark.parametrize("fault", FAULTS)
    @pytest.mark.parametrize(
        ("error_number", "error"), [(errno.ENOSPC, StorageFullError), (errno.EIO, StoreUnavailableError)]
    )
    def test_a_disk_that_fails_half_way_fails_the_tensor(
        self, pool: CodecPool, chunk_store: LocalChunkStore, fault: tuple[str, int], error_number: int, error: type
    ) -> None:
        array = random_bits("uint8", (200_000,))
        own = open_descriptors(chunk_store._leases.own_folder.parent)
        method, skip = fault
        assert isinstance(chunk_store._files, FaultyFiles)
        chunk_store._files.fail(method, error_number, skip=skip)
        writer = writer_of(announce("t", array), pool, chunk_store)
        with pytest.raises(error):
            write_and_seal(writer, array)
        writer.drop()
        assert list(chunk_store._leases.own_folder.iterdir()) == []
        assert open_descriptors(chunk_store._leases.own_folder.parent) == own

    @pytest.mark.parametrize("size", [0, 10_000, 150_000])
    def test_an_aborted_tensor_leaves_nothing_and_may_be_aborted_twice(
        self, pool: CodecPool, chunk_store: LocalChunkStore, size: int
    ) -> None:
        array = random_bits("uint8", (200_000,))
        writer = writer_of(announce("t", array), pool, chunk_store, preset="lossless")
        if size:
            writer.write(memoryview(array.tobytes())[:size])
        writer.drop()
        writer.drop()
        assert list(chunk_store._leases.own_folder.iterdir()) == []

    @pytest.mark.parametrize("preset", ["none", "lossless"])
    def test_an_encoder_that_fails_fails_the_tensor(
        self, pool: CodecPool, chunk_store: LocalChunkStore, monkeypatch: pytest.MonkeyPatch, preset: str
    ) -> None:
        def fail(*_: object) -> None:
            raise MemoryError

        monkeypatch.setattr(tensor_writer, "encode_chunk", fail)
        array = np.zeros(300_000, np.uint8)
        writer = writer_of(announce("t", array), pool, chunk_store, preset=preset, chunk_bytes=2**18)
        # Where it was encoded says when: at once on this thread, or later in the pool.
        with pytest.raises(MemoryError):  # noqa: PT012 - one of two
            writer.write(memoryview(array.tobytes()))
            writer.seal(None)
        writer.drop()
        assert list(chunk_store._leases.own_folder.iterdir()) == []


def test_no_more_chunks_are_under_way_than_the_pool_is_deep(pool: CodecPool, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = writer_of(announce("t", np.zeros(2_000_000, np.uint8)), pool, preset="lossless", chunk_bytes=2**17)
    deepest = 0
    submit = pool.submit

    def counted(*arguments: Any) -> Any:
        nonlocal deepest
        future = submit(*arguments)
        deepest = max(deepest, len(writer._pending) + 1)
        return future

    monkeypatch.setattr(pool, "submit", counted)
    writer.write(memoryview(bytes(2_000_000)))
    writer.seal(None)
    assert deepest == pool.depth == 3


def test_a_chunk_that_is_stored_as_it_is_stays_on_the_thread(pool: CodecPool, monkeypatch: pytest.MonkeyPatch) -> None:
    def submit(*_: object) -> None:
        raise AssertionError("a raw chunk was handed over")

    monkeypatch.setattr(pool, "submit", submit)
    array = np.arange(2_000_000, dtype=np.uint8)
    writer = writer_of(announce("t", array), pool, chunk_bytes=2**20)
    writer.write(memoryview(array.tobytes()))
    stored, _ = writer.seal(None)
    assert stored.storage.stored_bytes > array.nbytes


def test_whole_chunks_are_views_of_the_message(pool: CodecPool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[memoryview] = []
    encode = tensor_writer.encode_chunk

    def look(chunk: memoryview, *arguments: Any) -> Any:
        seen.append(chunk)
        return encode(chunk, *arguments)

    monkeypatch.setattr(tensor_writer, "encode_chunk", look)
    message = memoryview(bytes(3 * 4096 + 100))
    writer = writer_of(announce("t", np.zeros(message.nbytes, np.uint8)), pool)
    writer.write(message)
    assert [chunk.nbytes for chunk in seen] == [4096, 4096, 4096, 100]
    assert all(chunk.obj is message.obj for chunk in seen)
    writer.drop()
