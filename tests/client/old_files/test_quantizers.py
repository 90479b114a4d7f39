"""What codes of the original stand for: every row of its faults, and what the importer makes of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from support.arrays import assert_same_bits
from support.cases import each
from support.old_tensorus import fp16_codes, given_back, int8_codes
from tensorus.old_files.errors import OldRecordError
from tensorus.old_files.quantizers import Restored, dequantized

INF, NAN = float("inf"), float("nan")


def restored(tensor: torch.Tensor, quantizer: str = "int8") -> tuple[Restored, list[Any]]:
    """Quantize as the original did; return what the importer makes of the codes, and what the original made of them."""
    codes, parameters = (int8_codes if quantizer == "int8" else fp16_codes)(tensor)
    if quantizer == "int8":
        gave = given_back(codes, parameters)
    else:
        gave = codes.to(getattr(torch, parameters["original_dtype"].removeprefix("torch.")))
    return dequantized(codes.numpy(), quantizer, parameters), gave.tolist()


# ---- int8, row by row: the input, what the original gave, what is restored ----------------------------------------------


def test_int8_above_zero_is_saturated() -> None:
    found, gave = restored(torch.tensor([100.0, 100.25, 101.0]))
    assert gave == [1, 1, 1]
    assert (found.worth, found.saturated_count) == ("lossy", 3)
    assert "3 of 3 values were beyond the codes and are lost" in found.reason
    assert found.array.tolist() == gave


def test_int8_below_zero_is_saturated() -> None:
    found, gave = restored(torch.tensor([-101.0, -100.5, -100.0]))
    assert gave == [-1, -1, -1]
    assert (found.worth, found.saturated_count) == ("lossy", 3)
    assert found.array.tolist() == gave


def test_int8_of_scale_one_is_repaired() -> None:
    found, gave = restored(torch.tensor([-55, 0, 1, 200], dtype=torch.int32))
    assert gave == [-73] * 4
    assert (found.worth, found.saturated_count) == ("repaired", 0)
    assert found.reason == "a range of 255 was read back as a constant; the codes are the values, in steps of 1"
    assert_same_bits(found.array, np.array([-55, 0, 1, 200], np.int32))


def test_int8_of_scale_one_has_lost_what_floats_had_between_the_steps() -> None:
    found, gave = restored(torch.tensor([0.0, 1.3, 254.0, 255.0]))
    assert gave == [-128] * 4
    assert (found.worth, found.saturated_count) == ("lossy", 0)
    assert_same_bits(found.array, np.array([0, 1, 254, 255], np.float32))


def test_a_uint8_image_of_full_range_is_repaired() -> None:
    found, gave = restored(torch.tensor([0, 1, 254, 255], dtype=torch.uint8))
    assert gave == [128] * 4
    assert found.worth == "repaired"
    assert_same_bits(found.array, np.array([0, 1, 254, 255], np.uint8))


def test_a_uint8_image_above_zero_is_rounded_and_saturated() -> None:
    found, gave = restored(torch.tensor([10, 50, 200], dtype=torch.uint8))
    assert gave == [9, 49, 190]
    assert (found.worth, found.saturated_count) == ("lossy", 1)
    assert found.array.tolist() == [10, 50, 190]


def test_int8_input_is_repaired() -> None:
    found, gave = restored(torch.tensor([-5, 0, 7], dtype=torch.int8))
    assert gave == [0.0, 0.0, 0.0]
    assert found.worth == "repaired"
    assert_same_bits(found.array, np.array([-5, 0, 7], np.int8))


@each(
    ("value", "dtype", "kept"),
    [(0.5, torch.float32, 0), (3.14, torch.float32, 3), (1000.0, torch.float32, 127), (300, torch.int64, 127)],
)
def test_a_constant_is_approximate(value: float, dtype: torch.dtype, kept: int) -> None:
    found, gave = restored(torch.full((4,), value, dtype=dtype))
    assert gave == [kept] * 4 == found.array.tolist()
    assert found.worth == "lossy"
    assert found.reason == "a constant, of which only the integer part within -128 to 127 was kept"


@each("value", [-127, 0, 5, 126])
def test_a_constant_of_a_small_integer_is_exact(value: int) -> None:
    found, gave = restored(torch.full((2, 2), value, dtype=torch.int32))
    assert gave == found.array.tolist()
    assert (found.worth, found.reason) == ("imported", "")
    assert_same_bits(found.array, np.full((2, 2), value, np.int32))


def test_int64_ids_are_rounded_where_they_were_truncated() -> None:
    found, gave = restored(torch.tensor([101, 2023, 50256]))
    assert gave == [196, 1966, 50155]
    assert found.array.tolist() == [197, 1967, 50155]
    assert (found.worth, found.saturated_count) == ("lossy", 1)


def test_infinity_leaves_what_the_original_gave() -> None:
    found, gave = restored(torch.tensor([1.0, 2.0, INF]))
    assert np.array_equal(found.array, gave, equal_nan=True)
    assert np.array_equal(found.array, [NAN, NAN, INF], equal_nan=True)
    assert found.worth == "lossy"
    assert "the finite values are lost" in found.reason


@each("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_codes_of_another_scale_are_the_values_of_the_original(dtype: torch.dtype) -> None:
    tensor = torch.linspace(-1, 2, 300).reshape(20, 15).to(dtype)
    codes, parameters = int8_codes(tensor)
    found = dequantized(codes.numpy(), "int8", parameters)
    gave = given_back(codes, parameters)
    assert (found.worth, found.saturated_count) == ("lossy", 0)
    assert found.reason == "8-bit codes in steps of 0.0118"
    exact = gave.to(torch.float64).numpy()
    assert np.allclose(found.array.astype(np.float64), exact, rtol=2**-23, atol=0)
    if dtype == torch.float64:
        assert not np.array_equal(found.array, exact)
    else:
        assert np.array_equal(found.array.astype(np.float64), exact)


def test_float64_values_beyond_float32_survive() -> None:
    found = dequantized(np.array([-128, 127], np.int8), "int8", parameters("torch.float64", 1e300, -128))
    assert found.array.tolist() == [0.0, 255e300]


@pytest.mark.parametrize(("zero_point", "codes", "lost"), [(-128, [-127, 3, 127, 127], 2), (127, [-128, 5, 126], 1)])
def test_saturated_codes_are_counted(zero_point: int, codes: list[int], lost: int) -> None:
    found = dequantized(np.array(codes, np.int8), "int8", parameters("torch.float32", 0.5, zero_point))
    assert (found.worth, found.saturated_count) == ("lossy", lost)


@each(("zero_point", "codes"), [(-128, [-128, 127]), (127, [127, -128]), (-127, [-126, 127])])
def test_codes_that_reach_the_other_end_are_not_saturated(zero_point: int, codes: list[int]) -> None:
    assert (
        dequantized(np.array(codes, np.int8), "int8", parameters("torch.float32", 0.5, zero_point)).saturated_count == 0
    )


def test_saturated_codes_of_scale_one_are_lossy_and_the_others_repaired() -> None:
    found, _ = restored(torch.tensor([1000.0, 1100.0, 1255.0]))
    assert (found.worth, found.saturated_count) == ("lossy", 3)
    found = dequantized(np.array([-100, 0, 127], np.int8), "int8", parameters("torch.float32", 1.0, -128))
    assert (found.worth, found.saturated_count) == ("lossy", 1)
    assert found.array.tolist() == [28, 128, 255]


def test_bools_are_exact() -> None:
    found, gave = restored(torch.tensor([True, False, True]))
    assert (found.worth, found.reason) == ("imported", "")
    assert found.array.tolist() == gave == [True, False, True]
    assert found.array.dtype == np.bool_


@pytest.mark.parametrize("missing", ["scale", "zero_point"])
def test_int8_codes_without_a_parameter_are_lost(missing: str) -> None:
    known = parameters("torch.float32", 0.5, 0)
    del known[missing]
    with pytest.raises(OldRecordError, match=rf"its {missing} is a NoneType; without it int8 codes cannot be read"):
        dequantized(np.zeros(3, np.int8), "int8", known)


@each("value", [True, "1.0", None, [1.0], 10**400])
def test_a_scale_that_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(OldRecordError, match=r"^its scale is a"):
        dequantized(np.zeros(3, np.int8), "int8", parameters("torch.float32", value, 0))


@each("value", [NAN, INF, -INF, 1e308, -0.0, 0.5, 2**63])
@each("dtype", ["float32", "float64", "float16", "bfloat16", "int64", "uint64", "int16", "bool", "complex64"])
def test_any_number_for_a_parameter_gives_values(value: float, dtype: str) -> None:
    codes = np.array([[-128, 0, 127]], np.int8)
    for scale, zero_point in [(value, 0), (1.0, value), (0.5, value)]:
        found = dequantized(codes, "int8", parameters(f"torch.{dtype}", scale, zero_point))
        assert found.array.shape == (1, 3)
        assert found.array.dtype.name == dtype


def test_scalars_and_empty_tensors_keep_their_shape() -> None:
    for shape in [(), (0,), (3, 0)]:
        for quantizer, codes in [("int8", np.zeros(shape, np.int8)), ("fp16", np.zeros(shape, np.float16))]:
            for dtype in ("float32", "int64", "bool"):
                found = dequantized(codes, quantizer, parameters(f"torch.{dtype}", 0.5, 3))
                assert isinstance(found.array, np.ndarray)
                assert found.array.shape == shape


# ---- fp16 ---------------------------------------------------------------------------------------------------------------


@each("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_half_precision_is_cast_back_and_lossy(dtype: torch.dtype) -> None:
    found, gave = restored(torch.tensor([0.1, -2.5, 1e-8], dtype=dtype), "fp16")
    assert (found.worth, found.reason) == ("lossy", "half precision")
    assert found.array.tolist() == gave
    assert found.array.dtype.name == str(dtype).removeprefix("torch.")


def test_half_precision_of_half_precision_is_exact() -> None:
    found, gave = restored(torch.tensor([0.1, INF], dtype=torch.float16), "fp16")
    assert (found.worth, found.reason) == ("imported", "")
    assert found.array.tolist() == gave


@pytest.mark.parametrize("values", [[65504.0, 65520.0], [1.0, 1e38]])
def test_half_precision_names_overflow(values: list[float]) -> None:
    found, gave = restored(torch.tensor(values), "fp16")
    assert found.array.tolist() == gave == [values[0], INF]
    assert found.reason == "half precision; 1 of 2 values are not finite: they were not, or were beyond 65504"


def test_half_precision_names_lost_imaginary_parts() -> None:
    found, gave = restored(torch.tensor([1 + 2j, 3 - 4j]), "fp16")
    assert found.array.tolist() == gave == [1, 3]
    assert found.array.dtype == np.complex64
    assert found.reason == "half precision; imaginary parts are lost"


def test_half_precision_of_integers_is_what_the_original_gave() -> None:
    found, gave = restored(torch.tensor([2049, 70000]), "fp16")
    assert found.array.tolist() == gave == [2048, -(2**63)]
    assert found.worth == "lossy"
    assert found.reason == "half precision: of 2 integers, 1 may be rounded, 1 are lost"


@each(("values", "dtype"), [([-2047, 5], torch.int64), ([0, 255], torch.uint8), ([True, False], torch.bool)])
def test_half_precision_of_small_integers_is_exact(values: list[int], dtype: torch.dtype) -> None:
    found, _ = restored(torch.tensor(values, dtype=dtype), "fp16")
    assert (found.worth, found.reason) == ("imported", "")
    assert found.array.tolist() == values


def test_half_precision_of_an_unknown_dtype_stays_so() -> None:
    codes = np.array([0.5, 2], np.float16)
    found = dequantized(codes, "fp16", {})
    assert (found.worth, found.array.dtype) == ("lossy", np.float16)
    assert "its dtype before it was quantized is not known: float16 as stored" in found.reason


# ---- What dtype, shape or parameters prove to be exact ------------------------------------------------------------------


@each("quantizer", ["int8", "fp16"])
@each("dtype", [torch.float32, torch.complex64, torch.int64, torch.float8_e5m2])
def test_without_elements_nothing_is_lost(quantizer: str, dtype: torch.dtype) -> None:
    codes = np.zeros((3, 0), np.int8 if quantizer == "int8" else np.float16)
    found = dequantized(codes, quantizer, {"original_dtype": str(dtype)})
    assert (found.worth, found.reason, found.array.shape) == ("imported", "", (3, 0))
    assert found.array.dtype.name == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_half_precision_has_every_value_of_float8(dtype: torch.dtype) -> None:
    every = torch.arange(256, dtype=torch.uint8)
    found, _ = restored(every.view(dtype), "fp16")
    assert (found.worth, found.reason) == ("imported", "")
    # Of NaN, the original itself changed the bits.
    nan = every.view(dtype).float().isnan().numpy()
    assert np.array_equal(np.isnan(found.array.astype(np.float32)), nan)
    assert_same_bits(found.array.view(np.uint8)[~nan], every.numpy()[~nan])
    scalar, _ = restored(every.view(dtype)[7], "fp16")
    assert (scalar.array.shape, scalar.array.view(np.uint8).tolist()) == ((), 7)


def test_half_precision_has_every_bit_of_bfloat16_that_is_not_tiny() -> None:
    every = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    sure = every[(every.abs().float() > 2**-17) & (every.abs().float() < 65505)]
    found, _ = restored(sure, "fp16")
    assert (found.worth, found.reason) == ("imported", "")
    assert_same_bits(found.array.view(np.uint16), sure.view(torch.uint16).numpy())
    assert len(sure) > 8000


@each("value", [0.0, 2.0**-17, 2.0**-26, 1e38, INF, NAN])
def test_half_precision_of_other_bfloat16_is_lossy(value: float) -> None:
    # 2**-17 may have been a little less, 0 may have been tiny, and infinity anything.
    assert restored(torch.tensor([1.0, value], dtype=torch.bfloat16), "fp16")[0].worth == "lossy"


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
def test_half_precision_has_every_byte(dtype: torch.dtype) -> None:
    every = torch.arange(256, dtype=torch.uint8).view(dtype)
    found, _ = restored(every, "fp16")
    assert (found.worth, found.reason) == ("imported", "")
    assert_same_bits(found.array, every.numpy())


@pytest.mark.slow
def test_int8_has_every_integer_of_a_range_below_85_that_reaches_zero() -> None:
    worths = set()
    for low in range(-84, 1):
        for high in range(max(0, low + 1), low + 85):
            tensor = torch.arange(low, high + 1)
            found, gave = restored(tensor)
            assert found.array.tolist() == tensor.tolist()
            assert found.worth == ("imported" if gave == tensor.tolist() else "repaired")
            worths.add(found.worth)
    assert worths == {"imported", "repaired"}


def test_what_0_1_truncated_is_repaired() -> None:
    found, gave = restored(torch.tensor([-5, 0, 7]))
    assert gave == [-4, 0, 6]
    assert found.array.tolist() == [-5, 0, 7]
    assert (found.worth, found.reason) == (
        "repaired",
        "integers were truncated when they were read back; they are rounded",
    )


@each("tensor", [torch.arange(0, 86), torch.arange(5, 15), torch.arange(-15, -5), torch.arange(0.0, 10.0)])
def test_other_codes_of_int8_are_lossy(tensor: torch.Tensor) -> None:
    # Too wide; beyond zero; floats, which may have been anything between the steps.
    assert restored(tensor)[0].worth == "lossy"


# ---- Any ----------------------------------------------------------------------------------------------------------------


def test_without_a_quantizer_the_tensor_is_as_it_was() -> None:
    codes = np.array([1, 2], np.int16)
    assert dequantized(codes, "none", {}) == Restored(codes)


def test_an_unknown_quantizer_is_refused() -> None:
    with pytest.raises(OldRecordError, match="its quantizer is 'int4', must be none, fp16 or int8"):
        dequantized(np.zeros(3, np.int8), "int4", {})


@pytest.mark.parametrize(("quantizer", "codes"), [("int8", np.zeros(2, np.float32)), ("fp16", np.zeros(2, np.int8))])
def test_codes_of_another_dtype_are_refused(quantizer: str, codes: np.ndarray) -> None:
    with pytest.raises(
        OldRecordError, match=rf"its codes are {codes.dtype.name}, must be \w+ for the quantizer {quantizer}"
    ):
        dequantized(codes, quantizer, parameters("torch.float32", 0.5, 0))


@each("name", [None, 7, "float32", "torch.quint8", "torch.float8_e5m2fnuz"])
def test_a_dtype_that_cannot_be_stored_is_refused(name: object) -> None:
    for quantizer, codes in [("int8", np.zeros(2, np.int8)), ("fp16", np.zeros(2, np.float16))]:
        with pytest.raises(OldRecordError, match=r"^dtype .* cannot be stored$"):
            dequantized(codes, quantizer, parameters(name, 0.5, 0))


def parameters(dtype: object, scale: object, zero_point: object) -> dict[str, Any]:
    return {"original_dtype": dtype, "scale": scale, "zero_point": zero_point}
