"""Anything array-like becomes canonical bytes, and canonical bytes become arrays of either kind."""

from __future__ import annotations

import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support.arrays import DTYPE_NAMES, SHAPES, assert_same_bits, canonical, random_bits
from support.cases import each
from support.client import ARRAYS, DENSE_ARRAYS, SCATTERED_ARRAYS
from tensorus._arrays import canonical as module
from tensorus._arrays.canonical import (
    as_numpy,
    canonical_blocks,
    default_kind,
    dtype_name,
    empty_canonical,
    from_canonical,
)
from tensorus.errors import UnsupportedDTypeError
from tensorus_codecs.dtypes import DTYPES

MIB = 1024 * 1024

BLOCK_BYTES = [16, 64, 4096, MIB]


def address(array: np.ndarray[Any, Any]) -> int:
    found: int = array.__array_interface__["data"][0]
    return found


# ---- In: as_numpy -------------------------------------------------------------------------------------------------------


@each("make", ARRAYS.values(), ids=ARRAYS)
def test_a_numpy_array_is_taken_as_it_is(make: Callable[[], np.ndarray[Any, Any]]) -> None:
    array = make()
    assert as_numpy(array) is array


@each("dtype", DTYPE_NAMES)
def test_a_torch_tensor_shares_its_memory(dtype: str) -> None:
    shapes: list[tuple[int, ...]] = [(), (0, 3), (2, 3)]
    for shape in shapes:
        expected = random_bits(dtype, shape, seed=1)
        # The bits go in as bytes: torch has every dtype, NumPy borrows some of them.
        tensor = torch.empty(shape, dtype=getattr(torch, dtype))
        if tensor.numel():
            tensor = torch.frombuffer(bytearray(canonical(expected)), dtype=tensor.dtype).reshape(shape)
        found = as_numpy(tensor)
        assert_same_bits(found, expected)
        if tensor.numel():
            assert address(found) == tensor.data_ptr()


TORCH_VIEWS: dict[str, Callable[[], torch.Tensor]] = {
    "transposed": lambda: torch.arange(12.0).reshape(3, 4).T,
    "every other column": lambda: torch.arange(12).reshape(3, 4)[:, ::2],
    "expanded": lambda: torch.arange(3.0).reshape(3, 1).expand(3, 5),
    "transposed bfloat16": lambda: torch.arange(12).bfloat16().reshape(3, 4).T,
    "every third float8": lambda: torch.arange(12).to(torch.float8_e4m3fn)[::3],
    "with a storage offset": lambda: torch.arange(12.0)[5:],
    "conjugated": lambda: torch.tensor([1 + 2j, 3 - 4j]).conj(),
    "the imaginary part of a conjugate": lambda: torch.tensor([1 + 2j, 3 - 4j]).conj().imag,
}


@each("make", TORCH_VIEWS.values(), ids=TORCH_VIEWS)
def test_a_torch_view_has_the_values_that_torch_sees(make: Callable[[], torch.Tensor]) -> None:
    tensor = make()
    found = as_numpy(tensor)
    assert found.shape == tuple(tensor.shape)
    assert found.tolist() == tensor.tolist()


def test_a_tensor_that_requires_a_gradient_is_taken_without_it() -> None:
    tensor = torch.ones(3, requires_grad=True)
    found = as_numpy(tensor)
    assert address(found) == tensor.data_ptr()
    assert tensor.requires_grad


def test_a_parameter_of_a_model_is_a_tensor() -> None:
    layer = torch.nn.Linear(2, 3)
    assert_same_bits(as_numpy(layer.weight), layer.weight.detach().numpy())


class OnlyArray:
    """What pandas or JAX look like from here."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
        return self._array


class OnlyDlpack:
    """What a library without NumPy looks like from here."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __dlpack__(self, **settings: Any) -> Any:
        return self._array.__dlpack__(**settings)

    def __dlpack_device__(self) -> tuple[int, int]:
        found: tuple[int, int] = self._array.__dlpack_device__()
        return found


def test_an_object_with_array_alone_shares_its_memory() -> None:
    array = np.arange(5.0)
    assert np.shares_memory(as_numpy(OnlyArray(array)), array)


@pytest.mark.parametrize("make", [np.arange, torch.arange], ids=["numpy", "torch"])
def test_an_object_with_dlpack_alone_shares_its_memory(make: Callable[[int], Any]) -> None:
    array = make(5)
    found = as_numpy(OnlyDlpack(array))
    assert found.tolist() == [0, 1, 2, 3, 4]
    assert np.shares_memory(found, np.asarray(array))


def test_a_numpy_scalar_is_an_array_without_axes() -> None:
    found = as_numpy(np.float32(1.5))
    assert_same_bits(found, np.array(1.5, np.float32))


@each("value", [[1, 2], (1, 2), None, "text", b"bytes", 3, 1.5, True, {"a": 1}, range(3), object()])
def test_what_is_no_array_is_refused_with_a_way_out(value: object) -> None:
    kind = type(value).__name__
    with pytest.raises(TypeError, match=rf"^a {kind} is not a tensor: .*wrap it in numpy\.asarray$"):
        as_numpy(value)


OUTSIDE_THE_CONTRACT: dict[str, Callable[[], Any]] = {
    "text": lambda: np.array(["a"]),
    "objects": lambda: np.array([object()]),
    "days": lambda: np.array(["2020-01-01"], "M8[D]"),
    "records": lambda: np.zeros(2, "i4, f4"),
    "long double": lambda: np.zeros(2, np.longdouble),
    "another float8": lambda: np.zeros(2, ml_dtypes.float8_e4m3b11fnuz),
    "int4": lambda: np.zeros(2, ml_dtypes.int4),
    "a list inside __array__": lambda: OnlyArray(np.array([[1], [1, 2]], object)),
    "another float8 of torch": lambda: torch.ones(2).to(torch.float8_e4m3fnuz),
}


@each("make", OUTSIDE_THE_CONTRACT.values(), ids=OUTSIDE_THE_CONTRACT)
def test_a_dtype_outside_the_contract_is_refused_with_those_inside(make: Callable[[], Any]) -> None:
    with pytest.raises(UnsupportedDTypeError, match=r"^dtype .* is not one of bool, .*, float8_e5m2$") as caught:
        as_numpy(make())
    assert caught.value.reason == "UNSUPPORTED_DTYPE"


def _quietly(make: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Return the tensor; torch calls some layouts a prototype, and says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: torch.eye(3).to_sparse(), id="sparse"),
        pytest.param(lambda: torch.eye(3).to_sparse_csr(), id="compressed rows"),
    ],
)
def test_a_tensor_that_is_not_dense_is_refused_with_a_way_out(make: Callable[[], torch.Tensor]) -> None:
    tensor = _quietly(make)
    with pytest.raises(UnsupportedDTypeError, match=r"of layout torch\.\w+ is not dense; call to_dense\(\) first"):
        as_numpy(tensor)


def test_a_quantized_tensor_is_refused_as_quantized() -> None:
    tensor = _quietly(lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8))
    # It is dense, and has no to_dense(): the message must not send the user there.
    with pytest.raises(UnsupportedDTypeError, match=r"quantized"):
        as_numpy(tensor)


@each(
    "make",
    [
        pytest.param(lambda: torch.empty(3, device="meta"), id="without data"),
        pytest.param(lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), id="nested"),
        pytest.param(lambda: OnlyDlpack(torch.ones(2).bfloat16()), id="bfloat16 behind dlpack"),
    ],
)
def test_what_no_library_can_convert_is_refused_by_an_error_of_ours(make: Callable[[], Any]) -> None:
    tensor = _quietly(make)
    with pytest.raises((TypeError, UnsupportedDTypeError)):
        as_numpy(tensor)


def test_torch_is_asked_for_nothing_where_it_was_never_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    # A user without torch tensors must not pay the second that importing torch takes.
    monkeypatch.delitem(module.sys.modules, "torch")
    assert as_numpy(np.arange(3)).tolist() == [0, 1, 2]
    assert "torch" not in module.sys.modules


@each("dtype", DTYPE_NAMES)
def test_a_dtype_is_called_by_the_contract_s_name_in_any_byte_order(dtype: str) -> None:
    array = empty_canonical(dtype, (2,))
    assert dtype_name(array) == dtype
    assert dtype_name(array.astype(array.dtype.newbyteorder(">"))) == dtype


def test_the_names_are_the_codecs_names() -> None:
    assert set(module._DTYPE_NAMES) == {dtype.name for dtype in DTYPES}


# ---- Out of the array: canonical_blocks ---------------------------------------------------------------------------------


@each("make", ARRAYS.values(), ids=ARRAYS)
def test_blocks_make_up_the_canonical_bytes(make: Callable[[], np.ndarray[Any, Any]]) -> None:
    array = make()
    for block_bytes in BLOCK_BYTES:
        blocks = list(canonical_blocks(array, block_bytes))
        assert b"".join(blocks) == canonical(array)
        for block in blocks:
            assert 0 < block.nbytes <= block_bytes
            assert block.nbytes % array.itemsize == 0


@each("make", DENSE_ARRAYS.values(), ids=DENSE_ARRAYS)
def test_blocks_of_a_dense_array_are_views_of_full_size(make: Callable[[], np.ndarray[Any, Any]]) -> None:
    array = make()
    for block_bytes in BLOCK_BYTES:
        blocks = list(canonical_blocks(array, block_bytes))
        assert [block.nbytes for block in blocks[:-1]] == [block_bytes] * len(blocks[:-1])
        for position, block in enumerate(blocks):
            assert address(np.frombuffer(block, np.uint8)) == address(array) + position * block_bytes


@each("make", SCATTERED_ARRAYS.values(), ids=SCATTERED_ARRAYS)
def test_blocks_of_a_scattered_array_may_be_kept(make: Callable[[], np.ndarray[Any, Any]]) -> None:
    # The iterator behind them uses its buffer again: a block must not change when the next one is made.
    array = make()
    blocks = [(block, bytes(block)) for block in canonical_blocks(array, 64)]
    assert all(bytes(block) == then for block, then in blocks)


def test_a_mapped_file_is_not_read_into_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(1000, dtype=np.int64))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    blocks = list(canonical_blocks(as_numpy(mapped), 4096))
    assert b"".join(blocks) == canonical(np.arange(1000, dtype=np.int64))
    assert address(np.frombuffer(blocks[0], np.uint8)) == address(mapped)


@each(
    "make",
    [
        pytest.param(lambda: np.zeros((2048, 1024), np.float32).T, id="transposed"),
        pytest.param(lambda: np.zeros((2048, 1024), ">f4"), id="big-endian"),
        pytest.param(lambda: np.broadcast_to(np.float32(1), (2048, 1024)), id="broadcast"),
        pytest.param(lambda: np.zeros((2048, 2048), ml_dtypes.bfloat16)[:, ::2], id="strided bfloat16"),
    ],
)
def test_a_scattered_array_is_never_copied_as_a_whole(make: Callable[[], np.ndarray[Any, Any]]) -> None:
    array = make()
    tracemalloc.start()
    try:
        for _ in canonical_blocks(array, 64 * 1024):
            pass
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The buffer, the block that is handed out, and the one before it.
    assert peak_bytes < 8 * 64 * 1024 < array.nbytes


def test_a_dense_array_costs_no_memory() -> None:
    array = np.zeros(MIB, np.float32)
    tracemalloc.start()
    try:
        for _ in canonical_blocks(array, 64 * 1024):
            pass
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 16 * 1024


@given(data=st.data())
def test_blocks_of_any_view_make_up_its_canonical_bytes(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(["uint8", "float32", "bfloat16", "complex128", ">i2", ">f8"]))
    shape = tuple(data.draw(st.lists(st.integers(0, 6), max_size=4)))
    numpy_dtype = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    base = np.arange(np.prod(shape, dtype=int) * numpy_dtype.itemsize).astype(np.uint8).view(numpy_dtype)
    view = base.reshape(shape).transpose(data.draw(st.permutations(range(len(shape)))))
    steps = st.sampled_from([slice(None), slice(None, None, -1), slice(None, None, 2), slice(1, None), slice(0, 1)])
    view = view[tuple(data.draw(steps) for _ in shape)]
    block_bytes = data.draw(st.sampled_from([16, 32, 128, 4096]))
    assert b"".join(canonical_blocks(view, block_bytes)) == canonical(view)


# ---- Back: empty_canonical and from_canonical ---------------------------------------------------------------------------


def canonical_array(dtype: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Return what the transfer fills: random bits in an array for canonical bytes."""
    array = empty_canonical(dtype, shape)
    array.reshape(-1).view(np.uint8)[...] = np.frombuffer(canonical(random_bits(dtype, shape, seed=5)), np.uint8)
    return array


@each("dtype", DTYPE_NAMES)
def test_numpy_gets_the_array_itself(dtype: str) -> None:
    for shape in SHAPES:
        array = canonical_array(dtype, shape)
        found = from_canonical(array, "numpy")
        assert_same_bits(found, random_bits(dtype, shape, seed=5))
        assert found.dtype.isnative
        assert address(found) == address(array)


@each("dtype", DTYPE_NAMES)
def test_torch_gets_a_tensor_on_the_same_memory(dtype: str) -> None:
    for shape in SHAPES:
        array = canonical_array(dtype, shape)
        found = from_canonical(array, "torch")
        assert found.dtype is getattr(torch, dtype)
        assert tuple(found.shape) == shape
        assert found.is_contiguous()
        assert canonical(as_numpy(found)) == canonical(array)
        if array.size:
            assert found.data_ptr() == address(array)


@each("dtype", ["float32", "bfloat16", "bool"])
def test_an_element_is_a_scalar_of_numpy_and_a_tensor_of_torch(dtype: str) -> None:
    element = canonical_array(dtype, (1,))[0]
    assert isinstance(from_canonical(element, "numpy"), np.generic)
    found = from_canonical(element, "torch")
    assert (tuple(found.shape), found.dtype) == ((), getattr(torch, dtype))
    assert canonical(as_numpy(found)) == element.tobytes()


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_what_comes_back_may_be_written_to(kind: Any) -> None:
    found = from_canonical(canonical_array("float32", (3,)), kind)
    found[0] = 5
    assert found[0] == 5


@each("name", ["dtype_77", "float4", "object", ""])
def test_a_dtype_from_the_future_is_refused_with_a_way_out(name: str) -> None:
    with pytest.raises(UnsupportedDTypeError, match=rf"^dtype '{name}' is not known .* a newer one may read it$"):
        empty_canonical(name, (3,))


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    module._has_torch.cache_clear()
    yield
    module._has_torch.cache_clear()


def test_torch_is_the_default_where_it_is_installed() -> None:
    assert default_kind() == "torch"


def test_numpy_is_the_default_where_torch_is_not_installed(no_torch: None) -> None:
    assert default_kind() == "numpy"


def test_asking_for_torch_without_torch_says_what_brings_it(no_torch: None) -> None:
    with pytest.raises(ImportError, match=r"pip install 'tensorus\[torch\]', or ask for as_='numpy'"):
        from_canonical(np.arange(3), "torch")
    assert from_canonical(np.arange(3), "numpy").tolist() == [0, 1, 2]
