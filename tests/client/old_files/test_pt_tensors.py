"""Tensors of a container: every dtype and view that torch saves comes back bit for bit, and nothing that does not fit."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from support.arrays import DTYPE_NAMES, assert_same_bits, random_bits
from support.cases import each
from support.old_tensorus import archive, integers, tensor, text
from tensorus._arrays.canonical import as_numpy
from tensorus.old_files.errors import OldDataError, OldFileError, OldRecordError
from tensorus.old_files.pt_container import PtContainer
from tensorus.old_files.pt_pickle import read_pickle
from tensorus.old_files.pt_tensors import read_tensor
from tensorus.old_files.pt_values import PickledTensor


def saved(value: object) -> tuple[PtContainer, Any]:
    file = io.BytesIO()
    torch.save(value, file)
    container = PtContainer(file)
    return container, read_pickle(container)


def made(opcodes: bytes, storage: bytes, **members: bytes) -> Any:
    """Return the tensor of these opcodes over a storage `0` of these bytes."""
    container = PtContainer(io.BytesIO(archive(b"\x80\x02" + opcodes + b".", {"0": storage}, extra=members)))
    pickled = read_pickle(container)
    if not isinstance(pickled, PickledTensor):
        raise OldRecordError("its tensor is a mark")
    return read_tensor(container, pickled)


# ---- What torch saves ---------------------------------------------------------------------------------------------------


def of_dtype(name: str) -> torch.Tensor:
    """Return a tensor of random bits."""
    bits = random_bits(name, (3, 5, 7))
    width = {1: "u1", 2: "i2", 4: "i4", 8: "i8", 16: "c16"}[bits.itemsize]
    return torch.from_numpy(bits.view(width)).view(getattr(torch, name))


@each("name", DTYPE_NAMES)
def test_every_dtype_comes_back_bit_for_bit(name: str) -> None:
    container, pickled = saved(of_dtype(name))
    assert_same_bits(read_tensor(container, pickled), random_bits(name, (3, 5, 7)))


VIEWS: dict[str, Callable[[], torch.Tensor]] = {
    "a scalar": lambda: torch.tensor(7.5),
    "an empty one": lambda: torch.empty(0, 3),
    "a transposed clone": lambda: torch.arange(12.0).reshape(3, 4).t().clone(),
    "a transposed view": lambda: torch.arange(12.0).reshape(3, 4).t(),
    "a channels-last clone": lambda: torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last).clone(),
    "a slice of a longer storage": lambda: torch.arange(1000)[100:110],
    "every third element": lambda: torch.arange(1000)[5::3],
    "a column": lambda: torch.arange(50.0).reshape(10, 5)[:, 2],
    "a diagonal": lambda: torch.arange(25).reshape(5, 5).diagonal(),
    "a row that is repeated": lambda: torch.arange(4.0).expand(3, 4),
    "an element that is repeated": lambda: torch.ones(1).expand(100, 7),
    "overlapping windows": lambda: torch.arange(20.0).unfold(0, 5, 2),
    "nothing of a storage": lambda: torch.arange(10)[4:4],
    "a conjugate": lambda: torch.tensor([1 + 2j, 3 - 4j]).conj(),
    "a negative": lambda: torch.tensor([1 + 2j, 3 - 4j]).conj().imag,
    "a parameter's data": lambda: torch.nn.Parameter(torch.ones(3, 2)).data,
    "one that requires a gradient": lambda: torch.ones(3, requires_grad=True),
}


@each("make", VIEWS.values(), ids=VIEWS)
def test_every_view_comes_back_dense(make: Callable[[], torch.Tensor]) -> None:
    torch.manual_seed(7)
    expected = make()
    container, pickled = saved(expected)
    found = read_tensor(container, pickled)
    assert_same_bits(found, as_numpy(expected))
    assert found.flags.c_contiguous


def test_tensors_share_a_storage() -> None:
    base = torch.arange(100.0)
    container, pickled = saved([base[:10], base[50:], base.reshape(10, 10).t()])
    assert [item.storage.key for item in pickled] == ["0", "0", "0"]
    assert read_tensor(container, pickled[0]).tolist() == base[:10].tolist()
    assert read_tensor(container, pickled[1]).tolist() == base[50:].tolist()
    assert read_tensor(container, pickled[2]).tolist() == base.reshape(10, 10).t().tolist()


def test_only_the_stretch_of_a_long_storage_is_held() -> None:
    container, pickled = saved(torch.arange(5_000_000)[100:110])
    tracemalloc.start()
    try:
        assert read_tensor(container, pickled).tolist() == list(range(100, 110))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2_000_000


@each("name", ["int32", "float64", "complex64", "bfloat16", "uint8"])
def test_big_endian_numbers_are_turned(name: str) -> None:
    values = random_bits(name, (10,))
    part = values.view(f"u{values.itemsize // (2 if name.startswith('complex') else 1)}")
    storages = {
        "int32": "Int",
        "float64": "Double",
        "complex64": "ComplexFloat",
        "bfloat16": "BFloat16",
        "uint8": "Byte",
    }
    opcodes = tensor(count=10, shape=[10], strides=[1], storage=storages[name] + "Storage")
    assert_same_bits(made(opcodes, part.byteswap().tobytes(), byteorder=b"big"), values)


def test_a_storage_of_another_device_is_read_alike() -> None:
    opcodes = tensor(count=3, shape=[3], strides=[1]).replace(text("cpu"), text("cuda:0"))
    assert made(opcodes, np.arange(3, dtype=np.float32).tobytes()).tolist() == [0, 1, 2]


def test_a_bool_that_is_neither_0_nor_1_is_true() -> None:
    found = made(tensor(count=4, shape=[2, 2], strides=[2, 1], storage="BoolStorage"), b"\0\1\2\xff")
    assert found.tobytes() == b"\0\1\1\1"


def test_a_storage_longer_than_the_file_says_is_taken_as_it_says() -> None:
    assert made(tensor(count=2, shape=[2], strides=[1]), bytes(100)).tolist() == [0, 0]


def test_the_stride_of_a_single_element_means_nothing() -> None:
    assert made(tensor(count=1, shape=[1, 1], strides=[2**62, 2**63 - 1]), bytes(4)).shape == (1, 1)


# ---- What does not fit --------------------------------------------------------------------------------------------------

EIGHT = bytes(32)
"""A storage of eight float32."""

MISFITS: list[Any] = [
    pytest.param(
        tensor(count=8, shape=[9], strides=[1]), "needs element 8 of storage '0', which has 8", id="an element more"
    ),
    pytest.param(tensor(count=8, shape=[2, 2], strides=[7, 1]), "needs element 8 of", id="a stride too long"),
    pytest.param(tensor(count=8, shape=[8], strides=[1], offset=1), "needs element 8 of", id="an offset too far"),
    pytest.param(
        tensor(count=9, shape=[8], strides=[1]), "should have 36 bytes, the file has 32", id="a short storage"
    ),
    pytest.param(
        tensor(count=2**60, shape=[2**60], strides=[1]), "should have 4611686018427387904 bytes", id="gigantic"
    ),
    pytest.param(
        tensor(count=8, shape=[2**62], strides=[1]), "needs element 4611686018427387903 of", id="gigantic shape"
    ),
    pytest.param(tensor(count=8, shape=[2**62], strides=[0]), "it repeats 8 elements to", id="gigantic repetition"),
    pytest.param(tensor(count=8, shape=[2**13] * 31, strides=[0] * 31), "it repeats 8 elements to", id="in many axes"),
    pytest.param(tensor(count=8, shape=[0, 2**62, 2**62], strides=[1, 1, 1]), "its shape is", id="empty and gigantic"),
    pytest.param(
        tensor(count=8, shape=[8], strides=[-1]), "its strides has -1, must be from 0", id="a negative stride"
    ),
    pytest.param(tensor(count=8, shape=[-8], strides=[1]), "its shape has -8, must be from 0", id="a negative size"),
    pytest.param(tensor(count=8, shape=[8], strides=[1], offset=-1), "its offset has -1", id="a negative offset"),
    pytest.param(tensor(count=-8, shape=[8], strides=[1]), "its storage has -8", id="a negative count"),
    pytest.param(
        tensor(count=2**63, shape=[8], strides=[1]), "its storage has 9223372036854775808", id="beyond 64 bits"
    ),
    pytest.param(tensor(count=8, shape=[2**2000], strides=[1]), "its shape has", id="far beyond 64 bits"),
    pytest.param(tensor(count=8, shape=[8], strides=[1, 1]), "1 axes and its strides have 2", id="a stride more"),
    pytest.param(tensor(count=8, shape=[1] * 33, strides=[1] * 33), "must be the same, at most 32", id="33 axes"),
    pytest.param(
        tensor(count=8, shape=[8], strides=[1], storage="QInt8Storage"), "is a torch.QInt8Storage", id="quantized"
    ),
    pytest.param(tensor(count=8, shape=[8], strides=[1], storage="Float"), "is a torch.Float, which", id="no storage"),
    pytest.param(
        tensor(count=8, shape=[8], strides=[1], storage="storage"), "is a torch.storage, which", id="a module"
    ),
]


@each(("opcodes", "match"), MISFITS)
def test_a_tensor_that_does_not_fit_its_storage_is_refused(opcodes: bytes, match: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(OldRecordError, match=match):
            made(opcodes, EIGHT)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2_000_000


def test_a_repetition_within_reason_is_read() -> None:
    assert made(tensor(count=1, shape=[1000, 1000], strides=[0, 0]), bytes(4)).shape == (1000, 1000)


def test_a_tensor_whose_storage_is_missing_is_refused() -> None:
    with pytest.raises(OldFileError, match="it has no member 'data/9'"):
        made(tensor(count=8, shape=[8], strides=[1], key="9"), EIGHT)


def test_a_key_cannot_leave_the_folder_of_storages() -> None:
    with pytest.raises(OldFileError, match=r"it has no member 'data/\.\./version'"):
        made(tensor(count=0, shape=[0], strides=[1], key="../version"), EIGHT)


OTHER_FIELDS = [
    b"N",
    b"]",
    b"}",
    b"\x88",
    b"G" + bytes(8),
    text("8"),
    b"cos\nsystem\n",
    integers(1, 2),
    b"(NNt",
    b"(\x88t",
]


@each("value", OTHER_FIELDS)
@each("field", ["storage", "offset", "shape", "strides", "dtype", "count"])
def test_a_field_of_another_kind_is_refused_or_ignored(field: str, value: bytes) -> None:
    named = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    fields = {
        "offset": b"K\0",
        "shape": integers(2, 2),
        "strides": integers(2, 1),
        "count": b"K\x08",
        "dtype": b"",
        field: value,
    }
    storage = value if field == "storage" else named + fields["count"] + b"tQ"
    function = b"ctorch._utils\n_rebuild_tensor_v3\n(" if field == "dtype" else b"ctorch._utils\n_rebuild_tensor_v2\n("
    rest = fields["offset"] + fields["shape"] + fields["strides"] + b"\x89N" + fields["dtype"] + b"tR"
    if (field, value) in {("shape", integers(1, 2)), ("strides", integers(1, 2))}:
        assert made(function + storage + rest, EIGHT).shape in {(2, 2), (1, 2)}
        return
    with pytest.raises(OldDataError, match=r"^its |^dtype"):
        made(function + storage + rest, EIGHT)


@each("name", ["float8_e4m3fnuz", "float8_e5m2fnuz", "bits8", "no_dtype"])
def test_a_dtype_that_no_store_has_is_named(name: str) -> None:
    opcodes = tensor(count=8, shape=[8], strides=[1], storage="FloatStorage").replace(
        b"ctorch\nFloatStorage\n", b"ctorch.storage\nUntypedStorage\n"
    )
    opcodes = (
        opcodes.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v3").removesuffix(b"tR")
        + f"ctorch\n{name}\ntR".encode()
    )
    with pytest.raises(OldRecordError, match=rf"dtype 'torch.{name}' cannot be stored"):
        made(opcodes, EIGHT)


@each("flags", [b"N", b"]", b"}", b"}" + text("conj") + b"K\1s", b"}" + text("other") + b"\x88s"])
def test_flags_that_mean_nothing_are_ignored(flags: bytes) -> None:
    opcodes = tensor(count=8, shape=[2], strides=[1]).removesuffix(b"tR") + flags + b"tR"
    assert made(opcodes, EIGHT).tolist() == [0, 0]
