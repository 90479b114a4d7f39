"""int8 and half precision used alone give what Tensorus 0.1 gave wherever that was right, and read its parameters."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support.arrays import assert_same_bits, normal
from support.cases import each
from support.old_tensorus import fp16_codes, given_back, int8_codes
from tensorus.compression import FP16Quantization, INT8Quantization, NoQuantization, QuantizationError
from tensorus.old_files.quantizers import dequantized

INT8, FP16 = INT8Quantization(), FP16Quantization()

Array = np.ndarray[Any, Any]

GENERATOR = torch.Generator().manual_seed(5)


def half_a_unit(value: float, dtype: str) -> Fraction:
    """Return half the distance of floats around a value."""
    limits = ml_dtypes.finfo(getattr(ml_dtypes, dtype, None) or dtype)
    return Fraction(max(float(limits.eps) * abs(value), float(limits.smallest_subnormal))) / 2


# ---- int8 ---------------------------------------------------------------------------------------------------------------


def symmetric(numbers: torch.Tensor) -> torch.Tensor:
    """Return numbers whose largest and smallest are as far from zero: elsewhere 0.1 may cut one end off by up to a step."""
    return torch.cat([numbers, -numbers])


RIGHT = {
    "weights": symmetric(torch.from_numpy(normal((64, 32)))),
    "a ramp": torch.linspace(-1, 1, 256),
    "from zero": torch.rand(500, generator=GENERATOR),
    "up to zero": torch.linspace(-3, 0, 500),
    "float64": symmetric(torch.randn(300, dtype=torch.float64, generator=GENERATOR)),
    "one of two": torch.tensor([0.0, 1.0]),
    "integers": torch.arange(10),
    "int16": torch.arange(-700, 900, 11, dtype=torch.int16),
    "uint8": torch.arange(0, 250, dtype=torch.uint8),
    "a mask": torch.tensor([True, False, True]),
    "of one sign": torch.tensor([-1.0, -0.9, -0.0]),
    "large": symmetric(torch.randn(50, generator=GENERATOR) * 1e30),
    "small": symmetric(torch.randn(50, generator=GENERATOR) * 1e-30),
    "an integer everywhere": torch.full((3, 4), -128.0),
    "zero everywhere": torch.zeros(7),
    "True everywhere": torch.ones(3, dtype=torch.bool),
    "a scalar": torch.tensor(5.0),
}
"""Tensors that 0.1 quantized right: every value is within half a step of what its formula gives."""


def formula(codes: torch.Tensor, params: dict[str, Any]) -> torch.Tensor:
    """Return what a program makes of codes by itself."""
    values: torch.Tensor = (codes.double() - params["zero_point"]) * params["scale"]
    return values


@each("name", RIGHT)
def test_where_tensorus_0_1_was_right_codes_and_parameters_are_its_own(name: str) -> None:
    tensor = RIGHT[name]
    expected_codes, expected = int8_codes(tensor)
    # The claim of the table: also the values that 0.1 gave back, rounded where it truncated.
    old_values = (expected_codes.double() - expected["zero_point"]) * expected["scale"]
    if tensor.min() != tensor.max():
        assert (old_values - tensor.double()).abs().max() <= expected["scale"] * (1 / 2 + 2**-15)
    codes, params = INT8.quantize(tensor)
    assert params == expected
    assert codes.dtype == torch.int8
    if tensor.dtype.is_floating_point:
        assert torch.equal(codes, expected_codes)
    else:
        # Integers are coded in float64, where 0.1 took float32.
        assert (codes.int() - expected_codes.int()).abs().max() <= 1


@each("name", RIGHT)
def test_where_tensorus_0_1_was_right_dequantizing_gives_what_it_gave(name: str) -> None:
    tensor = RIGHT[name]
    codes, params = INT8.quantize(tensor)
    found = INT8.dequantize(codes, params)
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    if tensor.dtype in {torch.float32, torch.bool}:
        assert torch.equal(found, given_back(codes, params))
    else:
        # float64 in float64, and integers rounded.
        assert (found.double() - given_back(codes, params).double()).abs().max() <= max(1.0, 1e-6 * params["scale"])


WRONG = {
    "above zero": torch.tensor([100, 100.25, 101]),
    "below zero": torch.tensor([-101, -100.5, -100]),
    "a range of 255": torch.tensor([0.0, 1, 254, 255]),
    "an image": torch.tensor([0, 1, 254, 255], dtype=torch.uint8),
    "a dark image": torch.tensor([10, 50, 200], dtype=torch.uint8),
    "far from zero": torch.tensor([1e6, 1e6 + 0.0625, 1e6 + 1]),
    "far from zero in float64": torch.tensor([1e15, 1e15 + 0.125, 1e15 + 1], dtype=torch.float64),
    "ids": torch.tensor([101, 2023, 50256]),
    "ids beyond float64": torch.tensor([2**60 + 1, 2**60 + 3, 2**60 + 7]),
    "all of int64": torch.tensor([-(2**63), 5, 2**63 - 1]),
    "all of float64": torch.tensor([-1.7e308, 0, 1.7e308], dtype=torch.float64),
    "subnormal": torch.tensor([0, 1.4e-45, 2.8e-45]),
    "half precision": torch.tensor([0.1, 0.7, 0.3], dtype=torch.float16),
    "bfloat16": torch.randn(50, generator=GENERATOR).bfloat16(),
    "one end beyond its codes": torch.tensor([-100.25, 154.75, 3.0]) / 7,
    "the other end": torch.tensor([-150.75, 104.25, 3.0]) / 7,
}


@each("name", WRONG)
def test_where_tensorus_0_1_was_wrong_the_same_formula_gives_right_values(name: str) -> None:
    tensor = WRONG[name]
    codes, params = INT8.quantize(tensor)
    assert list(params) == ["scale", "zero_point", "original_dtype", "original_shape"]
    assert isinstance(params["scale"], float)
    assert isinstance(params["zero_point"], int)
    step = Fraction(params["scale"])
    for code, value in zip(codes.tolist(), tensor.tolist(), strict=True):
        off = abs((code - params["zero_point"]) * step - Fraction(value))
        assert off <= step * (Fraction(1, 2) + Fraction(1, 2**14))
    found = INT8.dequantize(codes, json.loads(json.dumps(params)))
    assert found.dtype == tensor.dtype
    for after, before in zip(found.tolist(), tensor.tolist(), strict=True):
        allowed = step * (Fraction(1, 2) + Fraction(1, 2**14))
        if tensor.dtype.is_floating_point:
            allowed += half_a_unit(before, str(tensor.dtype).removeprefix("torch."))
        else:
            allowed += Fraction(1, 2)
        assert abs(Fraction(after) - Fraction(before)) <= allowed


def test_integers_of_a_narrow_range_come_back_exactly() -> None:
    for name in ("an image", "a dark image", "ids beyond float64"):
        codes, params = INT8.quantize(WRONG[name])
        assert torch.equal(INT8.dequantize(codes, params), WRONG[name])


@each(
    "tensor",
    [
        torch.full((2, 3), 3.14),
        torch.full((2, 3), -0.5, dtype=torch.float64),
        torch.full((4,), 1000.0),
        torch.full((4,), 300),
        torch.full((4,), 2**60 + 1),
        torch.full((4,), -(2**63)),
        torch.full((4,), 200, dtype=torch.uint8),
        torch.tensor(3.14),
        torch.full((4,), 127.0),
        torch.full((4,), 3.4e38),
        torch.full((4,), 1e-45),
        torch.full((4,), 0.7, dtype=torch.bfloat16),
    ],
)
def test_every_constant_is_exact(tensor: torch.Tensor) -> None:
    codes, params = INT8.quantize(tensor)
    found = INT8.dequantize(codes, params)
    assert found.dtype == tensor.dtype
    assert torch.equal(found, tensor)


def test_a_constant_that_tensorus_0_1_truncated_follows_the_formula() -> None:
    codes, params = INT8.quantize(torch.full((5, 5), 3.14))
    assert (params["scale"], params["zero_point"]) == (float(torch.tensor(3.14)), 0)
    assert codes.eq(1).all()
    assert torch.equal(formula(codes, params).float(), torch.full((5, 5), 3.14))


def test_int8_passes_with_scale_1_and_zero_point_0() -> None:
    tensor = torch.tensor([-5, 0, 7], dtype=torch.int8)
    codes, params = INT8.quantize(tensor)
    assert codes is tensor
    assert (params["scale"], params["zero_point"]) == (1.0, 0)
    assert torch.equal(INT8.dequantize(codes, params), tensor)


@each("irregular", [[np.nan], [np.inf, -np.inf, np.nan]])
@each("dtype", ["float16", "bfloat16", "float32", "float64", "complex64"])
def test_nan_and_infinity_are_refused_and_counted(dtype: str, irregular: list[float]) -> None:
    values = np.array([1.0, *irregular, 3.0]).astype(getattr(ml_dtypes, dtype, None) or dtype)
    of = 2 * values.size if dtype == "complex64" else values.size
    with pytest.raises(QuantizationError, match=f"^{len(irregular)} of {of} values are NaN or infinite"):
        INT8.quantize(values)


FINITE = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(-1000, 1000),
    st.floats(1e15, 1e15 + 4),
    st.sampled_from([0.0, -0.0, 5e-324, 1e-320, 1.7e308, -65504.0, 3.4028234663852886e38]),
)
DTYPES = ["float16", "bfloat16", "float32", "float64"]


@given(numbers=st.lists(FINITE, min_size=1, max_size=9), dtype=st.sampled_from(DTYPES))
def test_any_finite_floats_come_back_within_half_a_step(numbers: list[float], dtype: str) -> None:
    with np.errstate(over="ignore", under="ignore"):
        values = np.array(numbers).astype(getattr(ml_dtypes, dtype, None) or dtype)
    values = values[np.isfinite(values)]
    codes, params = INT8.quantize(values)
    assert codes.shape == values.shape
    found = INT8.dequantize(codes, json.loads(json.dumps(params)))
    assert found.dtype == values.dtype
    step = Fraction(params["scale"])
    for before, after in zip(values.astype(float).tolist(), found.astype(float).tolist(), strict=True):
        # A scale that float32 rounds is off by 2**-24 of itself, 255 times.
        allowed = step * (Fraction(1, 2) + Fraction(1, 2**15)) + half_a_unit(max(abs(before), abs(after)), dtype)
        assert abs(Fraction(after) - Fraction(before)) <= allowed


@given(numbers=st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=9))
def test_whatever_tensorus_0_1_coded_within_half_a_step_has_its_scale_and_zero_point(numbers: list[float]) -> None:
    tensor = torch.tensor(numbers)
    old_codes, old = int8_codes(tensor)
    step = Fraction(old["scale"])
    old_values = [(code - old["zero_point"]) * step for code in old_codes.tolist()]
    constant = tensor.min() == tensor.max()
    if constant:
        old_values = [Fraction(old["zero_point"])] * len(numbers)
    right = all(
        abs(Fraction(value) - before) <= (0 if constant else step / 2)
        for value, before in zip(tensor.tolist(), old_values, strict=True)
    )
    if right:
        assert INT8.quantize(tensor)[1] == old


# ---- Half precision -----------------------------------------------------------------------------------------------------


@each(
    "tensor",
    [
        torch.tensor([1.0, -0.5, 0.25]),
        torch.randn(100_000, dtype=torch.float64, generator=GENERATOR),
        torch.randn(50, generator=GENERATOR).bfloat16(),
        torch.tensor([1e-8, 2e-8, 6e-8]),
        torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0]),
        torch.arange(3000),
        torch.tensor([True, False]),
        torch.arange(200, dtype=torch.uint8),
        torch.tensor(2.5),
        torch.empty(0, 3),
    ],
)
def test_fp16_is_the_tensor_in_half_precision(tensor: torch.Tensor) -> None:
    codes, params = FP16.quantize(tensor)
    assert codes.dtype == torch.float16
    assert torch.equal(codes.nan_to_num(9), tensor.half().nan_to_num(9))
    assert (
        params == {"original_dtype": str(tensor.dtype), "original_shape": list(tensor.shape)} == fp16_codes(tensor)[1]
    )
    found = FP16.dequantize(codes, params)
    assert found.dtype == tensor.dtype
    if tensor.dtype.is_floating_point:
        assert torch.equal(found.nan_to_num(9), tensor.half().to(tensor.dtype).nan_to_num(9))
    elif tensor.numel() < 2000:
        assert torch.equal(found, tensor)


def test_fp16_of_a_numpy_array_is_numpy_s_cast() -> None:
    values = np.random.default_rng(0).standard_normal(100_000)
    codes, _ = FP16.quantize(values)
    assert_same_bits(codes, values.astype(np.float16))


def test_float16_passes() -> None:
    tensor = torch.randn(3, dtype=torch.float16)
    codes, params = FP16.quantize(tensor)
    assert codes is tensor
    assert params["original_dtype"] == "torch.float16"
    assert FP16.dequantize(codes, params) is tensor


@each(
    ("tensor", "count"),
    [
        (torch.tensor([65504.0, 65519.0, 65520.0, -1e9, torch.inf]), 2),
        (torch.tensor([70_000, -70_000, 5]), 2),
        (torch.tensor([1e38], dtype=torch.bfloat16), 1),
        (torch.tensor([1e5 + 1j, 1 - 1e9j]), 2),
    ],
)
def test_values_that_become_infinite_are_counted_in_a_warning(tensor: torch.Tensor, count: int) -> None:
    with pytest.warns(RuntimeWarning, match=rf"^{count} of \d+ values are beyond 65504, the largest of half precision"):
        codes, _ = FP16.quantize(tensor)
    if not tensor.is_complex():
        assert torch.equal(codes, tensor.half())


# ---- Parameters of 0.1 --------------------------------------------------------------------------------------------------

TENSORS = {**RIGHT, **WRONG, "int8": torch.tensor([-5, 0, 7], dtype=torch.int8)}


@each("quantizer", [INT8, FP16, NoQuantization()])
@each("made_by", ["int8", "fp16"])
@each("name", TENSORS)
def test_codes_of_tensorus_0_1_become_what_the_importer_makes_of_them(
    name: str, made_by: str, quantizer: INT8Quantization
) -> None:
    codes, params = (int8_codes if made_by == "int8" else fp16_codes)(TENSORS[name])
    expected = dequantized(codes.numpy(), made_by, params).array
    found = quantizer.dequantize(codes.numpy(), params)
    assert_same_bits(found, expected)
    again = quantizer.dequantize(codes, params)
    assert again.dtype == TENSORS[name].dtype
    assert_same_bits(again.float().numpy(), torch.from_numpy(expected.astype(np.float32)).numpy())


def test_parameters_may_lack_the_shape() -> None:
    codes = torch.tensor([1, 2], dtype=torch.int8)
    params = {"scale": 0.5, "zero_point": 3, "original_dtype": "torch.float32"}
    assert INT8.dequantize(codes, params).tolist() == [-1.0, -0.5]
    assert FP16.dequantize(torch.ones(2).half(), {"original_dtype": "torch.float32"}).tolist() == [1.0, 1.0]


def test_a_part_of_the_codes_is_a_part_of_the_values() -> None:
    tensor = torch.from_numpy(normal((20, 30)))
    codes, params = INT8.quantize(tensor)
    whole = INT8.dequantize(codes, params)
    assert torch.equal(INT8.dequantize(codes[3:5], params), whole[3:5])
    assert torch.equal(INT8.dequantize(codes.reshape(-1), params), whole.reshape(-1))
    image = torch.arange(256).reshape(16, 16)
    codes, params = INT8.quantize(image)
    assert torch.equal(INT8.dequantize(codes[1:], params), image[1:])
    # Black pixels alone look like a constant of 0.1.
    with pytest.raises(QuantizationError, match="1 of 256 codes, all of them the zero point -128, do not say"):
        INT8.dequantize(codes[0, :1], params)


def test_without_a_quantizer_parameters_need_not_be_there() -> None:
    tensor = torch.randn(3)
    assert NoQuantization().dequantize(tensor, {}) is tensor
    assert NoQuantization().dequantize(tensor, {"original_dtype": "torch.float32"}) is tensor


@each(
    ("codes", "params", "message"),
    [
        (np.int8([1]), {}, "original_dtype is missing"),
        (np.int8([1]), {"original_dtype": "torch.float32"}, "its scale is a NoneType; without it int8 codes cannot"),
        (np.int8([1]), {"scale": "1", "zero_point": 0, "original_dtype": "torch.float32"}, "its scale is a str"),
        (np.int8([1]), {"scale": 1.0, "original_dtype": "torch.float32"}, "its zero_point is a NoneType"),
        (
            np.int8([1]),
            {"scale": 1.0, "zero_point": 0, "original_dtype": "torch.qint8"},
            "original_dtype: dtype 'qint8'",
        ),
        (np.int8([1]), {"scale": 1.0, "zero_point": 0, "original_dtype": 7}, "original_dtype is 7"),
        (
            np.int16([1]),
            {"scale": 1.0, "zero_point": 0, "original_dtype": "torch.float32"},
            "codes are int16, must be int8",
        ),
        (
            np.int16([1]),
            {"scale": 1.0, "zero_point": 999, "original_dtype": "torch.float32"},
            "codes are int16, must be",
        ),
        (np.float32([1]), {"original_dtype": "torch.float64"}, "its codes are float32, must be float16"),
        (np.int8([1]), {"scale": [0.1], "zero_point": 0, "original_dtype": "torch.float32"}, "its scale is a list"),
    ],
)
def test_parameters_without_which_values_are_lost_are_named(codes: Array, params: dict[str, Any], message: str) -> None:
    with pytest.raises(QuantizationError, match=f"^quantization parameters: .*{message}") as raised:
        INT8.dequantize(codes, params)
    assert raised.value.reason == "INVALID_REQUEST"
