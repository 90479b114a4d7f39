"""Reading a tensor or a part of it: whole, as a run of bytes, as a slice; decoded, or as it is stored."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.chunk_store_raw import RawFolder
from support.arrays import canonical, normal, random_bits
from support.cases import each
from support.engine import assemble, engine_on, find, insert, pieces_of, read
from support.faults import FaultyFiles, open_descriptors
from support.third_party import example, installed
from tensorus_codecs.checksum import TensorDigest, crc32c
from tensorus_codecs.chunk_record import parse_record
from tensorus_codecs.errors import UnsupportedCodecError
from tensorus_codecs.pipeline import decode_chunk
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.read.reader import Piece, ReadPlan
from tensorus_server.errors import (
    DataCorruptError,
    EngineError,
    GenerationMismatchError,
    InvalidSliceError,
    LimitExceededError,
    TensorNotFoundError,
    reason_of,
)
from tensorus_server.limits import READS_PER_GET_MAX
from tensorus_server.model import ByteRange, Part, Read, SliceSet, Tensor

CODECS = frozenset({"rotated_planes", "planes", "zstd", "lz4", "gzip", "int8_block", "fp16"})

ARRAYS = {
    "raw": (random_bits("uint8", (50_000,)), "none"),
    "compressed": (normal((100, 123)), "lossless"),
    "quantized": (normal((100, 123)), "maximum"),
    "inline": (normal((10, 10)), "lossless"),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine with a tensor of each kind, in chunks of 4 KiB."""
    with engine_on(tmp_path_factory.mktemp("shared") / "store") as opened:
        opened.create_dataset("d", StoragePolicy())
        for name, (array, preset) in ARRAYS.items():
            insert(opened, "d", name, array, policy=StoragePolicy(preset=preset, chunk_bytes=4096))
        insert(opened, "d", "empty", np.zeros((3, 0)))
        insert(opened, "d", "file", random_bits("uint8", (200_000,)), policy=StoragePolicy("none", chunk_bytes=4096))
        yield opened


def decoded(pieces: list[Piece]) -> bytes:
    """Return the canonical bytes of pieces in the order in which they came."""
    parts = []
    for piece in pieces:
        data = bytes(decode_chunk(piece.data)) if piece.codec_ids else bytes(piece.data)
        assert len(data) == piece.decoded_length
        parts.append(data)
    return b"".join(parts)


class TestWhole:
    """All of a tensor comes back, chunk by chunk, in order."""

    @each("name", ["raw", "compressed", "inline", "file"])
    def test_values_come_back_bit_exact(self, shared: Engine, name: str) -> None:
        array = random_bits("uint8", (200_000,)) if name == "file" else ARRAYS[name][0]
        found = read(shared, "d", name)
        assert found.dtype == array.dtype
        assert np.array_equal(found, array)

    def test_quantized_values_are_those_that_the_value_checksum_is_of(self, shared: Engine) -> None:
        digest = TensorDigest()
        digest.update(canonical(read(shared, "d", "quantized")))
        assert digest.digest() == find(shared, "d", "quantized").value_checksum.value

    @each("name", list(ARRAYS))
    @each("accepted", [frozenset(), CODECS], ids=["decoded", "as stored"])
    def test_pieces_come_in_order_with_crcs_that_fit(self, shared: Engine, name: str, accepted: frozenset[str]) -> None:
        pieces = pieces_of(shared, find(shared, "d", name), None, accepted)
        offset = 0
        for piece in pieces:
            assert piece.offset == offset
            assert crc32c(piece.data) == piece.crc32c
            offset += piece.decoded_length
        assert offset == find(shared, "d", name).spec.canonical_bytes
        assert decoded(pieces) == canonical(read(shared, "d", name))

    def test_a_tensor_without_elements_has_no_pieces(self, shared: Engine) -> None:
        assert pieces_of(shared, find(shared, "d", "empty")) == []


class TestPassThrough:
    """Stored bytes go out untouched where the reader knows every codec of theirs."""

    def test_records_of_known_codecs_go_out_as_they_are(self, shared: Engine) -> None:
        # The last chunk has 48 bytes, and is stored raw.
        pieces = pieces_of(shared, find(shared, "d", "compressed"), None, CODECS)[:-1]
        assert {piece.codec_ids for piece in pieces} == {("rotated_planes", "zstd")}
        assert all(not parse_record(piece.data).is_raw for piece in pieces)

    def test_a_quantizer_is_among_the_codecs_of_a_record(self, shared: Engine) -> None:
        pieces = pieces_of(shared, find(shared, "d", "quantized"), None, CODECS)[:-1]
        assert {piece.codec_ids[0] for piece in pieces} == {"int8_block"}

    @pytest.mark.parametrize("known", [{"zstd"}, {"rotated_planes"}, {"lz4"}], ids=str)
    def test_records_of_which_one_codec_is_unknown_are_decoded(self, shared: Engine, known: set[str]) -> None:
        pieces = pieces_of(shared, find(shared, "d", "compressed"), None, frozenset(known))
        assert {piece.codec_ids for piece in pieces} == {()}
        assert decoded(pieces) == canonical(ARRAYS["compressed"][0])

    def test_raw_chunks_go_out_without_their_header_and_never_as_records(self, shared: Engine) -> None:
        pieces = pieces_of(shared, find(shared, "d", "raw"), None, CODECS)
        assert {piece.codec_ids for piece in pieces} == {()}

    def test_a_record_that_is_too_large_for_a_message_is_decoded(self, shared: Engine) -> None:
        tensor = find(shared, "d", "compressed")
        sizes = [len(bytes(piece.data)) for piece in pieces_of(shared, tensor, None, CODECS)[:-1]]
        limit = sorted(sizes)[len(sizes) // 2]
        pieces = pieces_of(shared, tensor, None, CODECS, record_bytes_max=limit)
        assert [bool(piece.codec_ids) for piece in pieces[:-1]] == [size <= limit for size in sizes]
        assert decoded(pieces) == canonical(ARRAYS["compressed"][0])

    def test_chunks_that_a_part_cuts_are_decoded_and_whole_ones_are_not(self, shared: Engine) -> None:
        pieces = pieces_of(shared, find(shared, "d", "compressed"), ByteRange(100, 12_000), CODECS)
        assert [bool(piece.codec_ids) for piece in pieces] == [False, True, False]
        assert decoded(pieces) == canonical(ARRAYS["compressed"][0])[100:12_100]


SIZE = 50_000

RANGES = [
    pytest.param(ByteRange(0, None), id="everything"),
    pytest.param(ByteRange(0, SIZE), id="everything, said"),
    pytest.param(ByteRange(4095, 2), id="across a border"),
    pytest.param(ByteRange(4096, 4096), id="exactly a chunk"),
    pytest.param(ByteRange(4096, 1), id="the first byte of a chunk"),
    pytest.param(ByteRange(4095, 1), id="the last byte of a chunk"),
    pytest.param(ByteRange(SIZE - 1, None), id="the last byte"),
    pytest.param(ByteRange(SIZE - 1, 1), id="the last byte, said"),
    pytest.param(ByteRange(SIZE, None), id="nothing at the end"),
    pytest.param(ByteRange(SIZE, 0), id="nothing at the end, said"),
    pytest.param(ByteRange(100, 0), id="nothing in the middle"),
]

BEYOND = [
    pytest.param(ByteRange(0, SIZE + 1), "byte range is 0 to 50001, the tensor has 50000 bytes", id="one more"),
    pytest.param(ByteRange(SIZE, 1), "byte range is 50000 to 50001", id="from the end"),
    pytest.param(ByteRange(SIZE + 1, None), "byte range is 50001 to 50001", id="beyond the end"),
    pytest.param(ByteRange(SIZE + 1, 0), "byte range is 50001 to 50001", id="nothing beyond the end"),
    pytest.param(ByteRange(2**64, 2**64), "byte range is 18446744073709551616 to", id="far beyond"),
]


class TestByteRanges:
    """A run of canonical bytes, as uint8."""

    @each("part", RANGES)
    def test_a_byte_range_is_that_run(self, shared: Engine, part: ByteRange) -> None:
        expected = ARRAYS["raw"][0][part.offset : None if part.length is None else part.offset + part.length]
        found = read(shared, "d", "raw", part)
        assert found.dtype == np.uint8
        assert np.array_equal(found, expected)

    @each(("part", "message"), BEYOND)
    def test_a_byte_range_beyond_the_end_is_refused(self, shared: Engine, part: ByteRange, message: str) -> None:
        with pytest.raises(InvalidSliceError, match=message) as caught:
            ReadPlan(find(shared, "d", "raw"), part)
        assert caught.value.facts == {"dataset": "d", "tensor": "raw", "limit": "50000"}

    def test_a_byte_range_need_not_be_whole_elements(self, shared: Engine) -> None:
        found = read(shared, "d", "compressed", ByteRange(4001, 101))
        assert found.tobytes() == canonical(ARRAYS["compressed"][0])[4001:4102]

    def test_only_the_chunks_of_the_range_are_read(self, tmp_path: Path) -> None:
        files = FaultyFiles()
        with engine_on(tmp_path / "store", files=files) as engine:
            engine.create_dataset("d", StoragePolicy("none", chunk_bytes=4096))
            tensor = insert(engine, "d", "t", random_bits("uint8", (200_000,)))
            for part, chunks in ((ByteRange(4095, 2), 2), (SliceSet((slice(0, None, 50_000),)), 4), (None, 49)):
                files.calls.clear()
                pieces_of(engine, tensor, part)
                # The chunk index is one read more.
                assert [method for method, _ in files.calls] == ["open_to_read"] + ["read"] * (chunks + 1)


class TestSlices:
    """NumPy's slices; those that are one run go the way of byte ranges."""

    @given(
        name=st.sampled_from(["compressed", "quantized", "raw", "file", "inline"]),
        bounds=st.lists(st.integers(-130, 130), min_size=4, max_size=4),
        steps=st.lists(st.sampled_from([1, 1, 2, 7, -1, -3]), min_size=2, max_size=2),
    )
    def test_slices_are_numpys_slices(self, shared: Engine, name: str, bounds: list[int], steps: list[int]) -> None:
        whole = read(shared, "d", name)
        axes = [slice(*pair, step) for *pair, step in zip(bounds[::2], bounds[1::2], steps, strict=True)][: whole.ndim]
        expected = whole[tuple(axes)]
        for part in (SliceSet(tuple(axes)), SliceSet(tuple(axes[:1]), tuple(axes[1:]))):
            found = read(shared, "d", name, part)
            assert found.shape == expected.shape
            assert np.array_equal(found, expected)

    def test_a_slice_that_is_one_run_may_pass_through(self, shared: Engine) -> None:
        # 4,096 bytes are 1,024 elements; 100 rows of 123 elements are 12 chunks and a little.
        pieces = pieces_of(shared, find(shared, "d", "compressed"), SliceSet((slice(0, 90),)), CODECS)
        assert [bool(piece.codec_ids) for piece in pieces] == [True] * 10 + [False]
        assert decoded(pieces) == canonical(ARRAYS["compressed"][0][:90])

    def test_a_gathered_slice_has_pieces_with_crcs_that_fit(self, shared: Engine) -> None:
        part = SliceSet((slice(None, None, 3),), (slice(None, None, -2),))
        tensor = find(shared, "d", "compressed")
        pieces = pieces_of(shared, tensor, part, CODECS)
        assert all(crc32c(piece.data) == piece.crc32c and piece.codec_ids == () for piece in pieces)
        assert np.array_equal(assemble(ReadPlan(tensor, part).result, pieces), ARRAYS["compressed"][0][::3, ::-2])

    def test_the_result_has_the_tensors_dtype_and_the_slices_shape(self, shared: Engine) -> None:
        result = ReadPlan(find(shared, "d", "compressed"), SliceSet((slice(5),), (slice(0, 0),))).result
        assert (result.dtype.name, result.shape) == ("float32", (5, 0))


class TestLife:
    """What happens to a tensor while it is read, and to its file."""

    LARGE = random_bits("uint8", (3_000_000,))

    def test_a_reader_that_has_begun_goes_on_after_a_deletion(self, tmp_path: Path) -> None:
        with engine_on(tmp_path / "store", delete_grace_s=0.0) as engine:
            engine.create_dataset("d", StoragePolicy(preset="none"))
            tensor = insert(engine, "d", "t", self.LARGE)
            pieces = engine.reader.read(tensor, ReadPlan(tensor, None))
            first = next(pieces)
            engine.delete_tensors("d", ["t"])
            assert engine.sweep().deleted == 1
            rest = list(pieces)
            assert b"".join(bytes(piece.data) for piece in (first, *rest)) == self.LARGE.tobytes()
            assert RawFolder(tmp_path / "store").published() == {}

    def test_a_reader_that_begins_after_the_deletion_but_within_the_grace_goes_on(self, engine: Engine) -> None:
        tensor = insert(engine, "d", "t", self.LARGE)
        engine.delete_tensors("d", ["t"])
        engine.sweep()
        assert len(pieces_of(engine, tensor)) == 3

    def test_a_tensor_whose_payload_went_with_it_is_not_found(self, tmp_path: Path) -> None:
        with engine_on(tmp_path / "store", delete_grace_s=0.0) as engine:
            engine.create_dataset("d", StoragePolicy(preset="none"))
            tensor = insert(engine, "d", "t", self.LARGE)
            engine.delete_tensors("d", ["t"])
            engine.sweep()
            with pytest.raises(TensorNotFoundError, match=r"the tensor was deleted \[dataset=d, tensor=t\]"):
                pieces_of(engine, tensor)
            # Another one that took its id since is another one.
            insert(engine, "d", "t", self.LARGE[:200_000])
            with pytest.raises(TensorNotFoundError):
                pieces_of(engine, tensor)

    def test_a_payload_that_is_missing_while_its_tensor_is_there_is_damage(self, engine: Engine) -> None:
        tensor = insert(engine, "d", "t", self.LARGE)
        engine._chunk_store.delete(tensor.locator.key)
        with pytest.raises(
            DataCorruptError, match=r"the payload is missing from the chunk store \[dataset=d, tensor=t\]"
        ):
            pieces_of(engine, tensor)

    def test_files_that_changed_places_are_damage(self, engine: Engine, tmp_path: Path) -> None:
        tensors = [insert(engine, "d", name, random_bits("uint8", (200_000,), seed=ord(name))) for name in "ab"]
        first, second = (tmp_path / "store" / "chunks" / tensor.locator.key for tensor in tensors)
        first.rename(tmp_path / "aside")
        second.rename(first)
        (tmp_path / "aside").rename(second)
        for name in "ab":
            with pytest.raises(DataCorruptError, match=f"CRC32C of the chunk index.* tensor={name}"):
                read(engine, "d", name)

    @pytest.mark.parametrize("length", [0, 1, 199_999])
    def test_a_file_that_was_cut_is_damage(self, engine: Engine, tmp_path: Path, length: int) -> None:
        tensor = insert(engine, "d", "t", random_bits("uint8", (200_000,)))
        path = tmp_path / "store" / "chunks" / tensor.locator.key
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(DataCorruptError, match="payload is too short"):
            read(engine, "d", "t")

    def test_a_flipped_bit_in_a_file_is_damage_of_its_chunk_alone(self, engine: Engine, tmp_path: Path) -> None:
        tensor = insert(engine, "d", "t", self.LARGE)
        path = tmp_path / "store" / "chunks" / tensor.locator.key
        damaged = bytearray(path.read_bytes())
        damaged[1_500_000] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(DataCorruptError, match=r"CRC32C of chunk 1 is 0x") as caught:
            read(engine, "d", "t")
        assert caught.value.facts == {"dataset": "d", "tensor": "t", "chunk": "1"}
        assert np.array_equal(read(engine, "d", "t", ByteRange(0, 2**20)), self.LARGE[: 2**20])

    @pytest.mark.parametrize("preset", ["none", "lossless"])
    def test_the_file_is_closed_however_the_read_ends(self, engine: Engine, tmp_path: Path, preset: str) -> None:
        array = normal((1_000_000,))
        tensor = insert(engine, "d", "t", array, preset=preset)
        own = open_descriptors(tmp_path / "store" / "chunks")
        read(engine, "d", "t")
        assert open_descriptors(tmp_path / "store" / "chunks") == own
        pieces = engine.reader.read(tensor, ReadPlan(tensor, None))
        next(pieces)
        assert len(open_descriptors(tmp_path / "store" / "chunks")) == len(own) + 1
        assert isinstance(pieces, Iterator)
        pieces.close()  # type: ignore[attr-defined]
        assert open_descriptors(tmp_path / "store" / "chunks") == own

    @pytest.mark.parametrize("method", ["open_to_read", "read"])
    def test_a_disk_that_cannot_read_is_no_unforeseen_error(self, tmp_path: Path, method: str) -> None:
        files = FaultyFiles()
        with engine_on(tmp_path / "store", files=files) as engine:
            engine.create_dataset("d", StoragePolicy(preset="none"))
            insert(engine, "d", "t", self.LARGE)
            files.fail(method, errno.EIO)
            with pytest.raises(EngineError, match=r"\[dataset=d, tensor=t\]"):
                read(engine, "d", "t")
            assert np.array_equal(read(engine, "d", "t"), self.LARGE)


class TestMissingCodec:
    """A tensor whose codec is a third party's, whose package is gone: nothing is damaged."""

    ARRAY = np.arange(20_000, dtype=np.int32)

    @pytest.fixture
    def tensor(self, engine: Engine, tmp_path: Path) -> None:
        entry_points, modules = example()
        with installed(tmp_path / "package", name="tensorus-zlib", entry_points=entry_points, modules=modules):
            policy = StoragePolicy.from_json({"encoding": [{"id": "zlib"}]})
            insert(engine, "d", "t", self.ARRAY, policy=policy)
            assert np.array_equal(read(engine, "d", "t"), self.ARRAY)

    @pytest.mark.parametrize(
        ("part", "accepted"),
        [
            (None, frozenset()),
            (None, CODECS),
            (ByteRange(5, 100), frozenset()),
            (SliceSet((slice(0, None, 7),)), frozenset()),
        ],
        ids=["whole", "as stored", "cut", "gathered"],
    )
    @pytest.mark.usefixtures("tensor")
    def test_reading_it_says_what_is_missing(self, engine: Engine, part: Part, accepted: frozenset[str]) -> None:
        message = r"^compressor number is 128, which is reserved for third parties; no installed package provides it"
        with pytest.raises(UnsupportedCodecError, match=message) as caught:
            pieces_of(engine, find(engine, "d", "t"), part, accepted)
        assert reason_of(caught.value) == "UNSUPPORTED_CODEC"

    @pytest.mark.usefixtures("tensor")
    def test_it_is_described_all_the_same(self, engine: Engine) -> None:
        assert find(engine, "d", "t").storage.encodings[0].encoding == ({"id": "zlib", "configuration": {}},)


class TestFind:
    """Which tensors are meant, in the order asked for."""

    @pytest.fixture
    def tensors(self, engine: Engine) -> dict[str, Tensor]:
        return {name: insert(engine, "d", name, np.arange(3)) for name in ("a", "b", "c")}

    def test_tensors_are_found_in_the_order_asked_for(self, engine: Engine, tensors: dict[str, Tensor]) -> None:
        names = ["c", "a", "c", "b"] * 50
        found = engine.find("d", [Read(name) for name in names], with_payloads=False)
        assert list(found) == [tensors[name] for name in names]

    def test_a_missing_one_is_an_error_in_its_place(self, engine: Engine, tensors: dict[str, Tensor]) -> None:
        first, second, third = engine.find("d", [Read("a"), Read("no"), Read("b")], with_payloads=False)
        assert (first, third) == (tensors["a"], tensors["b"])
        assert isinstance(second, TensorNotFoundError)
        assert str(second) == "there is no such tensor [dataset=d, tensor=no]"

    def test_a_generation_may_be_asked_for(self, engine: Engine, tensors: dict[str, Tensor]) -> None:
        generation = tensors["a"].generation
        right, wrong = engine.find(
            "d", [Read("a", generation=generation), Read("a", generation=0)], with_payloads=False
        )
        assert right == tensors["a"]
        assert isinstance(wrong, GenerationMismatchError)
        assert str(wrong) == f"generation is {generation}, the request asks for 0 [dataset=d, tensor=a]"
        assert wrong.facts["generation"] == str(generation)

    def test_reads_of_one_call_have_a_limit(self, engine: Engine, tensors: dict[str, Tensor]) -> None:
        assert len(list(engine.find("d", [Read("a")] * READS_PER_GET_MAX, with_payloads=False))) == READS_PER_GET_MAX
        with pytest.raises(LimitExceededError, match="number of reads is 10001, limit is 10000") as caught:
            next(engine.find("d", [Read("a")] * (READS_PER_GET_MAX + 1), with_payloads=False))
        assert caught.value.facts["limit"] == "10000"

    def test_inline_payloads_come_along_where_they_are_asked_for(
        self, engine: Engine, tensors: dict[str, Tensor]
    ) -> None:
        for with_payloads in (False, True):
            (found,) = engine.find("d", [Read("a")], with_payloads=with_payloads)
            assert isinstance(found, Tensor)
            assert (found.inline_payload is not None) == with_payloads

    def test_one_damaged_row_hurts_its_own_read_alone(self, engine: Engine, tensors: dict[str, Tensor]) -> None:
        with engine._catalogue._database.write() as connection:  # type: ignore[attr-defined]
            connection.execute("UPDATE tensor SET row_checksum = row_checksum + 1 WHERE id = 'b'")
        first, second, third = engine.find("d", [Read(name) for name in "abc"], with_payloads=True)
        assert isinstance(first, Tensor)
        assert isinstance(second, DataCorruptError)
        assert isinstance(third, Tensor)


def test_many_threads_read_one_tensor_at_once(shared: Engine) -> None:
    def check(number: int) -> bool:
        name = list(ARRAYS)[number % 4]
        return bool(np.array_equal(read(shared, "d", name), expected[name]))

    expected: dict[str, Any] = {name: read(shared, "d", name) for name in ARRAYS}
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(check, range(40)))
