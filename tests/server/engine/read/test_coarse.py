"""Coarse reads: which bytes of the payload they take, what they send, and that damage to what they read is found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from support.arrays import normal
from support.engine import assemble, engine_on, find, insert
from tensorus_codecs.checksum import crc32c
from tensorus_codecs.chunk_record import parse_record
from tensorus_codecs.coarse import COARSE_CODECS, COARSE_ERROR
from tensorus_codecs.dtypes import dtype_by_name
from tensorus_codecs.pipeline import decode_chunk
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.chunk_store.bytes_reader import BytesReader
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.read.payload import ENTRY_BYTES, Payload
from tensorus_server.engine.read.reader import Piece, ReadPlan
from tensorus_server.errors import DataCorruptError, InvalidRequestError
from tensorus_server.model import ByteRange, Part, Precision, SliceSet, Tensor

CODECS = frozenset({*COARSE_CODECS, "bf16_planes", "planes", "zstd", "fp16"})

ARRAYS: dict[str, tuple[np.ndarray[Any, Any], str]] = {
    "weights": (normal((90, 200)), "lossless"),
    "complex": (normal((40, 200)).view(np.complex64), "lossless"),
    "raw": (normal((90, 200)), "none"),
    "half precision": (normal((90, 200)), "balanced"),
    "integers": (np.arange(9000).reshape(90, 100), "lossless"),
    "float64": (normal((50, 100), "float64"), "lossless"),
    "a scalar": (np.array(1.5, np.float32), "lossless"),
    "empty": (np.empty((0, 3), np.float32), "lossless"),
}
COARSE = {"weights", "complex"}
PARTS: dict[str, SliceSet | None] = {
    "whole": None,
    "a run": SliceSet((slice(3, 17),)),
    "gathered": SliceSet((slice(None, None, -3), slice(1, None, 2))),
    "nothing": SliceSet((slice(0, 0),)),
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine with tensors in chunks of 16 KiB."""
    with engine_on(tmp_path_factory.mktemp("coarse") / "store") as opened:
        opened.create_dataset("d")
        for name, (array, preset) in ARRAYS.items():
            insert(opened, "d", name, array, policy=StoragePolicy(preset=preset, chunk_bytes=16384))
        yield opened


def pieces_of(
    engine: Engine, tensor: Tensor, part: Part = None, *accepted: str, dtype: str | None = None
) -> list[Piece]:
    plan = ReadPlan(tensor, part, None if dtype is None else dtype_by_name(dtype), Precision.BF16)
    return list(engine.reader.read(tensor, plan, frozenset(accepted)))


def read(engine: Engine, tensor: Tensor, part: Part = None, dtype: str | None = None) -> np.ndarray[Any, Any]:
    plan = ReadPlan(tensor, part, None if dtype is None else dtype_by_name(dtype), Precision.BF16)
    return assemble(plan.result, pieces_of(engine, tensor, part, dtype=dtype))


def rounded(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return float32 values rounded to 16 bits, ties away from zero."""
    words = np.ascontiguousarray(array).view(np.uint32).astype(np.uint64)
    return ((words + 0x8000) & 0xFFFF0000).astype(np.uint32).view(array.dtype)


class TestValues:
    """What arrives, whole and in parts."""

    @pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
    @pytest.mark.parametrize("name", ARRAYS)
    def test_chunks_with_a_coarse_form_are_rounded_and_all_others_exact(
        self, engine: Engine, name: str, part: SliceSet | None
    ) -> None:
        if name == "a scalar" and part is not None:
            part = SliceSet(())
        tensor = find(engine, "d", name)
        plan = ReadPlan(tensor, None)
        stored = assemble(plan.result, list(engine.reader.read(tensor, plan)))
        expected = rounded(stored) if name in COARSE else stored
        assert np.array_equal(read(engine, tensor, part), expected[part.axes if part else ...])

    @pytest.mark.parametrize("name", ARRAYS)
    def test_the_plan_says_whether_there_is_an_error(self, engine: Engine, name: str) -> None:
        tensor = find(engine, "d", name)
        assert ReadPlan(tensor, None, None, Precision.BF16).coarse_error == (COARSE_ERROR if name in COARSE else 0)
        assert ReadPlan(tensor, None).coarse_error == 0

    def test_a_cast_is_of_the_rounded_values(self, engine: Engine) -> None:
        found = read(engine, find(engine, "d", "weights"), dtype="bfloat16")
        assert np.array_equal(found.astype(np.float32), rounded(ARRAYS["weights"][0]))

    def test_a_byte_range_has_no_precision(self, engine: Engine) -> None:
        with pytest.raises(
            InvalidRequestError, match=r"^precision does not apply to a byte range, which has the bytes of"
        ):
            ReadPlan(find(engine, "d", "weights"), ByteRange(0, 4), None, Precision.BF16)


class TestPassThrough:
    """Coarse chunks go out as records of bfloat16 values, where the reader knows their codecs."""

    def test_they_are_encoded_for_those_who_know_their_codecs(self, engine: Engine) -> None:
        tensor = find(engine, "d", "weights")
        pieces = pieces_of(engine, tensor, None, *CODECS)
        assert {piece.codec_ids for piece in pieces} == {("bf16", "rotated_planes", "zstd")}
        decoded = b"".join(bytes(decode_chunk(piece.data)) for piece in pieces)
        assert decoded == rounded(ARRAYS["weights"][0]).tobytes()
        assert sum(memoryview(piece.data).nbytes for piece in pieces) <= 0.45 * tensor.storage.stored_bytes

    def test_they_need_not_know_the_codec_that_is_stored(self, engine: Engine) -> None:
        pieces = pieces_of(engine, find(engine, "d", "weights"), None, *COARSE_CODECS, "zstd")
        assert all(piece.codec_ids for piece in pieces)

    @pytest.mark.parametrize("unknown", [*COARSE_CODECS, "zstd"])
    def test_they_are_decoded_for_all_others(self, engine: Engine, unknown: str) -> None:
        pieces = pieces_of(engine, find(engine, "d", "weights"), None, *(CODECS - {unknown}))
        assert {piece.codec_ids for piece in pieces} == {()}
        assert b"".join(bytes(piece.data) for piece in pieces) == rounded(ARRAYS["weights"][0]).tobytes()

    def test_a_record_that_is_too_large_for_a_message_is_decoded(self, engine: Engine) -> None:
        tensor = find(engine, "d", "weights")
        plan = ReadPlan(tensor, None, None, Precision.BF16)
        pieces = list(engine.reader.read(tensor, plan, CODECS, record_bytes_max=1000))
        assert {piece.codec_ids for piece in pieces} == {()}

    def test_other_chunks_go_out_as_they_are_stored(self, engine: Engine) -> None:
        pieces = pieces_of(engine, find(engine, "d", "half precision"), None, *CODECS)
        assert {piece.codec_ids[0] for piece in pieces} == {"fp16"}


class RecordingReader(BytesReader):
    """Notes what is read."""

    def __init__(self, payload: bytes) -> None:
        super().__init__(payload)
        self.read_bytes = 0

    def read(self, offset: int, length: int) -> bytes:
        self.read_bytes += length
        return super().read(offset, length)


class TestStoredBytes:
    """A coarse read takes the start of each record alone, and verifies it."""

    @pytest.fixture
    def tensor(self, engine: Engine) -> Tensor:
        tensor = find(engine, "d", "weights")
        with engine.reader._open(tensor, tensor.locator.key) as reader:
            return replace(tensor, inline_payload=reader.read(tensor.locator.offset, tensor.locator.length))

    @staticmethod
    def payload(tensor: Tensor) -> bytes:
        assert tensor.inline_payload is not None
        return tensor.inline_payload

    @staticmethod
    def lengths(tensor: Tensor) -> list[int]:
        return np.frombuffer(TestStoredBytes.payload(tensor)[-tensor.locator.index_length :], "<u4")[::2].tolist()

    def test_it_reads_at_most_45_percent_of_them(self, tensor: Tensor) -> None:
        reader = RecordingReader(self.payload(tensor))
        payload = Payload(tensor, reader)
        for chunk in range(len(self.lengths(tensor))):
            assert payload.read_coarse(chunk, chunk) is not None
        assert reader.read_bytes <= 0.45 * tensor.locator.length

    def test_every_flipped_bit_that_it_reads_is_found_and_named(self, engine: Engine, tensor: Tensor) -> None:
        data = self.payload(tensor)
        first, second, *_ = self.lengths(tensor)
        start = parse_record(data[first : first + second]).streams[:2]
        length = 40 + sum(memoryview(stream.data).nbytes for stream in start)
        for position in [*range(first, first + 60), *range(first + 60, first + length, 97), first + length - 1]:
            damaged = bytearray(data)
            damaged[position] ^= 1 << position % 8
            with pytest.raises(DataCorruptError, match=r"chunk 1.* \[dataset=d, tensor=weights\]") as caught:
                read(engine, replace(tensor, inline_payload=bytes(damaged)))
            assert caught.value.facts["chunk"] == "1"

    def test_damage_behind_what_it_reads_harms_nobody(self, engine: Engine, tensor: Tensor) -> None:
        damaged = bytearray(self.payload(tensor))
        damaged[self.lengths(tensor)[0] - 1] ^= 1
        found = read(engine, replace(tensor, inline_payload=bytes(damaged)))
        assert np.array_equal(found, rounded(ARRAYS["weights"][0]))

    def test_intact_records_that_changed_places_are_found(self, engine: Engine, tensor: Tensor) -> None:
        # With their index entries: only the seed tells.
        data, (first, second, *_) = self.payload(tensor), self.lengths(tensor)
        index = len(data) - tensor.locator.index_length
        entries = data[index + ENTRY_BYTES : index + 2 * ENTRY_BYTES] + data[index : index + ENTRY_BYTES]
        swapped = data[first : first + second] + data[:first] + data[first + second : index]
        swapped += entries + data[index + 2 * ENTRY_BYTES :]
        locator = replace(tensor.locator, index_crc32c=crc32c(swapped[index:]))
        with pytest.raises(DataCorruptError, match="CRC32C of chunk 0 is"):
            read(engine, replace(tensor, inline_payload=swapped, locator=locator))

    def test_a_record_of_another_length_is_found(self, engine: Engine, tensor: Tensor) -> None:
        shorter = replace(tensor, spec=replace(tensor.spec, shape=(17999,)))
        with pytest.raises(DataCorruptError, match="chunk 4 has 6464 canonical bytes of float32, expected 6460"):
            read(engine, shorter)
