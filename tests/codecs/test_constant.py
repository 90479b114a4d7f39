"""Chunks of one element: the contract, elements of several words, and the element that a policy fills in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.codec_contract import Refusal, SettingsContract
from contract.codec_filter_contract import WORDS, FilterContract, every_kind_of_words, read_only, words_of
from contract.codec_values import EVERY_DTYPE, nan_bits
from support.cases import each
from tensorus_codecs.abc import Words
from tensorus_codecs.dtypes import DType, dtype_by_name, opaque_dtype
from tensorus_codecs.encoding import Encoding
from tensorus_codecs.errors import CorruptChunkError
from tensorus_codecs.filters.constant import Constant
from tensorus_codecs.quantizers.int8_block import Int8Block


def slow_encode(words: list[int], word_bytes: int, element_words: int) -> bytes | None:
    """Return the element where the docstring says that there is one."""
    period = element_words or 1
    if len(words) % period or period * word_bytes > 16:
        return None
    elements = [words[start : start + period] for start in range(0, len(words), period)]
    if any(element != elements[0] for element in elements):
        return None
    return b"".join(word.to_bytes(word_bytes, "little") for word in elements[0])


def encode(words: Words, element_words: int = 0) -> bytes | None:
    filtered = Constant(element_words=element_words).encode(words)
    if filtered is None:
        return None
    assert not filtered.streams
    return filtered.parameters


def decode(element: bytes, word: str, count: int) -> Words:
    found = np.full(count, 0x5A, word)
    assert Constant.stream_lengths(found.itemsize, count, element) == []
    Constant.decode([], element, found)
    return found


def fitted(dtype: DType) -> Constant:
    """Return the filter as a policy fills it in for `dtype`."""
    found = Encoding(filter=Constant()).fitted(dtype).filter
    assert isinstance(found, Constant)
    return found


class TestConstant(FilterContract, SettingsContract):
    codec_type = Constant
    id = "constant"
    number = 6

    configurations = (
        {},
        {"element_words": 1},
    )

    refusals = tuple(
        Refusal("element_words", value, "an integer from 0 to 16")
        for value in (-1, 17, 2**40, True, 2.0, "2", None, [2])
    )

    def sample(self, word: str, count: int) -> Words:
        return read_only(np.repeat(words_of(word, count)[:1], count))


class TestConstantPairs(FilterContract):
    """Elements of two words, as complex dtypes have them."""

    codec_type = Constant
    id = "constant"
    number = 6

    configurations = ({"element_words": 2},)

    def sample(self, word: str, count: int) -> Words:
        return read_only(np.tile(words_of(word, 2), (count + 1) // 2))


@each("word", WORDS)
class TestElements:
    """Which words are one element repeated."""

    @each("element_words", range(17))
    def test_a_slow_encoder_that_follows_the_docstring_agrees(self, word: str, element_words: int) -> None:
        repeated = np.tile(words_of(word, element_words or 1), 5)
        for words in (repeated, repeated[: element_words or 1], repeated[:-1], *every_kind_of_words(word).values()):
            if words.size:
                assert encode(words, element_words) == slow_encode(words.tolist(), words.itemsize, element_words)

    @given(data=st.data())
    def test_it_agrees_for_any_words_which_come_back(self, word: str, data: st.DataObject) -> None:
        bits = 8 * np.dtype(word).itemsize
        element = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=4))
        words = np.array(element * data.draw(st.integers(1, 50)), word)
        element_words = data.draw(st.integers(0, 8))
        found = encode(words, element_words)
        assert found == slow_encode(words.tolist(), words.itemsize, element_words)
        if found is not None:
            assert decode(found, word, words.size).tolist() == words.tolist()

    @each("position", [0, 1, 50, 98, 99])
    def test_one_other_word_is_enough(self, word: str, position: int) -> None:
        words = np.full(100, 7, word)
        words[position] = 8
        assert encode(words) is None
        assert encode(words, 2) is None

    def test_elements_wider_than_16_bytes_are_none(self, word: str) -> None:
        most = 16 // np.dtype(word).itemsize
        assert encode(np.zeros(34 * most, word), most) == bytes(16)
        if most < 16:
            assert encode(np.zeros(34 * (most + 1), word), most + 1) is None


GOLDEN = {
    "bytes": (np.array([7, 7, 7], "<u1"), 0, "07"),
    "2 bytes": (np.array([0x0102] * 3, "<u2"), 1, "0201"),
    "complex64": (np.array([0x01020304, 0x05060708] * 3, "<u4"), 2, "0403020108070605"),
    "complex128": (np.array([1, 2] * 3, "<u8"), 2, "01000000000000000200000000000000"),
    "opaque elements of 3 bytes": (np.array([1, 2, 3] * 3, "<u1"), 3, "010203"),
}


@each(("words", "element_words", "parameters"), GOLDEN.values(), ids=GOLDEN)
def test_these_words_are_this_element(words: Words, element_words: int, parameters: str) -> None:
    assert encode(words, element_words) == bytes.fromhex(parameters)
    assert decode(bytes.fromhex(parameters), words.dtype.str, words.size).tolist() == words.tolist()


@each("component", ["float16", "float32", "float64"])
class TestBits:
    """Elements are compared by their bits."""

    def test_the_same_nan_is_one_element(self, component: str) -> None:
        for value in nan_bits(component, [1, 2, 17, -1, -513]):
            words = np.full(10, value).view(f"<u{value.itemsize}")
            assert encode(words) == value.tobytes()
            assert decode(value.tobytes(), words.dtype.str, 10).tobytes() == words.tobytes()

    def test_nans_of_different_payloads_are_not(self, component: str) -> None:
        words = nan_bits(component, [1, 1, 2]).view(f"<u{np.dtype(component).itemsize}")
        assert encode(words) is None

    def test_zeros_of_either_sign_are_not(self, component: str) -> None:
        word = f"<u{np.dtype(component).itemsize}"
        assert encode(np.array([0.0, -0.0], component).view(word)) is None
        assert encode(np.array([-0.0, -0.0], component).view(word)) == np.array(-0.0, component).tobytes()


class TestFitting:
    """How many words an element of a dtype has."""

    @each(
        ("dtype", "element_words"),
        [
            (dtype_by_name("bool"), 1),
            (dtype_by_name("float32"), 1),
            (dtype_by_name("float64"), 1),
            (dtype_by_name("complex64"), 2),
            (dtype_by_name("complex128"), 2),
            *((opaque_dtype(99, 8 * width), words) for width, words in ((1, 1), (2, 1), (3, 3), (4, 1), (8, 1))),
            *((opaque_dtype(99, 8 * width), width) for width in (5, 6, 7, 9, 12, 15, 16)),
        ],
    )
    def test_a_policy_fills_it_in(self, dtype: DType, element_words: int) -> None:
        assert fitted(dtype) == Constant(element_words=element_words)

    @each("dtype", EVERY_DTYPE)
    def test_a_chunk_of_one_element_of_any_dtype_is_that_element(self, dtype: DType) -> None:
        element = np.random.default_rng(0).bytes(dtype.element_bytes)
        words = np.frombuffer(element * 10, dtype.word)
        filtered = fitted(dtype).encode(words)
        assert filtered is not None
        assert filtered.parameters == element
        assert decode(element, dtype.word.str, words.size).tobytes() == element * 10

    def test_a_quantizer_s_codes_of_a_complex_element_are_two(self) -> None:
        encoding = Encoding(quantizer=Int8Block(), filter=Constant()).fitted(dtype_by_name("complex64"))
        assert encoding.filter == Constant(element_words=2)

    def test_what_is_set_stays(self) -> None:
        encoding = Encoding(filter=Constant(element_words=4)).fitted(dtype_by_name("complex64"))
        assert encoding.filter == Constant(element_words=4)


@each(
    ("word_bytes", "count", "element_bytes"),
    [(1, 10, 0), (1, 34, 17), (1, 255, 255), (2, 10, 1), (4, 9, 6), (2, 3, 4), (1, 10, 3), (8, 3, 16), (4, 1, 8)],
)
def test_words_that_are_not_made_of_such_elements_are_damage(word_bytes: int, count: int, element_bytes: int) -> None:
    words = f"{count} words of {word_bytes} bytes"
    message = f"^constant has an element of {element_bytes} bytes, {words} are not a multiple of it$"
    with pytest.raises(CorruptChunkError, match=message):
        Constant.stream_lengths(word_bytes, count, bytes(element_bytes))
