"""What every quantizer promises: as many codes as it says, a bounded error, and no trust in parameters that it reads."""

from __future__ import annotations

from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import pytest

from contract.codec_contract import CodecContract, each_codec, in_threads
from support.cases import each
from tensorus_codecs.abc import Codec, Quantized, Quantizer, Values
from tensorus_codecs.dtypes import DTYPES, opaque_dtype
from tensorus_codecs.errors import CorruptChunkError

_PARAMETER_BYTES_MAX = 1024


def component_dtype(name: str) -> np.dtype[Any]:
    """Return the dtype called `name`, of NumPy or of ml_dtypes."""
    return np.dtype(getattr(ml_dtypes, name, None) or name)


def weights(component: str, count: int, seed: int = 0) -> Values:
    """Return values as weights have them, which nobody may write to."""
    values = (np.random.default_rng(seed).standard_normal(count) * 0.02).astype(component_dtype(component))
    values.flags.writeable = False
    return values


def quantize(codec: Quantizer, values: Values) -> Quantized:
    """Encode as the pipeline does: with NumPy's warnings off."""
    with np.errstate(all="ignore"):
        return codec.encode(values)


def dequantize(
    codec_type: type[Quantizer], quantized: Quantized, component: np.dtype[Any], count: int | None = None
) -> Values:
    """Decode as the pipeline does, both ways: with NumPy's warnings off. Without `count` there are as many values as codes."""
    count = quantized.codes.size if count is None else count
    target = np.ones(count, component)
    with np.errstate(all="ignore"):
        values = codec_type.decode(quantized.codes, quantized.parameters, component, count)
        codec_type.decode_into(quantized.codes, quantized.parameters, target)
    assert target.tobytes() == values.tobytes()
    return values


each_component = each("component", lambda test: test.components)


class QuantizerContract(CodecContract):
    """What every quantizer promises. A subclass supplies `error_bound`, by a way of its own."""

    kind: ClassVar[type[Codec]] = Quantizer
    codec_type: ClassVar[type[Quantizer]]
    dtypes: ClassVar[tuple[str, ...]]
    """Every dtype that it applies to."""
    components: ClassVar[tuple[str, ...]]
    """The dtypes of one number of those."""

    def error_bound(self, codec: Quantizer, values: Values, quantized: Quantized) -> np.ndarray[Any, Any]:
        """Return how far each decoded value may be from `values`, as float64."""
        raise NotImplementedError

    def test_it_applies_to_these_dtypes_and_to_no_other(self) -> None:
        assert tuple(dtype.name for dtype in DTYPES if self.codec_type.applies_to(dtype)) == self.dtypes
        assert not self.codec_type.applies_to(opaque_dtype(99, 32))

    @each_codec
    @each_component
    def test_it_makes_the_codes_that_it_says(self, codec: Quantizer, component: str) -> None:
        for count in (1, 2, 31, 300, 301):
            values = weights(component, count)
            codes = quantize(codec, values).codes
            assert codes.shape == (self.codec_type.code_count(count),)
            assert codes.dtype == self.codec_type.code_dtype(values.dtype)

    @each_codec
    @each_component
    def test_it_decodes_to_the_dtype_that_is_asked_for(self, codec: Quantizer, component: str) -> None:
        values = weights(component, 77)
        decoded = dequantize(self.codec_type, quantize(codec, values), values.dtype, values.size)
        assert (decoded.shape, decoded.dtype) == (values.shape, values.dtype)

    @each_codec
    @each_component
    @each("count", [1, 2, 63, 64, 65, 255, 256, 257, 3001])
    def test_its_error_is_within_its_bound(self, codec: Quantizer, component: str, count: int) -> None:
        values = weights(component, count, seed=count)
        quantized = quantize(codec, values)
        decoded = dequantize(self.codec_type, quantized, values.dtype, count)
        errors = np.abs(decoded.astype(np.float64) - values.astype(np.float64))
        assert (errors <= self.error_bound(codec, values, quantized)).all()

    @each_codec
    @each_component
    def test_zeros_decode_to_zeros(self, codec: Quantizer, component: str) -> None:
        values = np.zeros(300, component_dtype(component))
        assert not dequantize(self.codec_type, quantize(codec, values), values.dtype, values.size).any()

    @each_codec
    @each_component
    def test_every_thread_gets_the_same_codes_and_values(self, codec: Quantizer, component: str) -> None:
        values = weights(component, 5000)

        def work() -> tuple[bytes, bytes, bytes]:
            quantized = quantize(codec, values)
            decoded = dequantize(self.codec_type, quantized, values.dtype, values.size)
            return quantized.codes.tobytes(), quantized.parameters, decoded.tobytes()

        expected = work()
        assert all(found == expected for found in in_threads(work))

    @each_codec
    @each_component
    def test_parameters_of_any_other_length_are_damage(self, codec: Quantizer, component: str) -> None:
        values = weights(component, 300)
        quantized = quantize(codec, values)
        lengths = [length for length in range(_PARAMETER_BYTES_MAX) if length != len(quantized.parameters)]
        for length in lengths:
            parameters = (quantized.parameters + bytes(_PARAMETER_BYTES_MAX))[:length]
            with pytest.raises(CorruptChunkError, match=self.id):
                self.codec_type.decode(quantized.codes, parameters, values.dtype, values.size)

    @each_codec
    @each_component
    def test_no_parameters_raise_anything_but_damage(self, codec: Quantizer, component: str) -> None:
        values = weights(component, 300)
        quantized = quantize(codec, values)
        if not quantized.parameters:
            # One without parameters has only lengths to refuse, which the test above does.
            return
        random = np.random.default_rng(0)
        for _ in range(300):
            parameters = bytearray(quantized.parameters)
            for _ in range(random.integers(1, 4)):
                parameters[random.integers(0, min(len(parameters), 24))] = random.integers(0, 256)
            self.assert_damage_or_values(quantized.codes, bytes(parameters), values)

    @each_codec
    @each_component
    def test_no_codes_raise_anything_but_damage(self, codec: Quantizer, component: str) -> None:
        values = weights(component, 300)
        quantized = quantize(codec, values)
        for seed in range(20):
            bits = np.random.default_rng(seed).bytes(quantized.codes.nbytes)
            codes = np.frombuffer(bits, quantized.codes.dtype)
            self.assert_damage_or_values(codes, quantized.parameters, values)

    def assert_damage_or_values(self, codes: Values, parameters: bytes, values: Values) -> None:
        """Damage that looks like other values may go unnoticed here: the record's CRC notices it."""
        try:
            decoded = dequantize(self.codec_type, Quantized(codes, parameters), values.dtype, values.size)
        except CorruptChunkError as error:
            assert self.id in str(error)  # noqa: PT017 - an error is one of the two outcomes allowed
        else:
            assert (decoded.shape, decoded.dtype) == (values.shape, values.dtype)
