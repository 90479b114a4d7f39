"""Messages of tensors: one that is filled again and again says of each what a fresh one does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.engine import stored_tensor
from tensorus_codecs.policy import StoragePolicy
from tensorus_codecs.summary import ValueSummary
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server.model import Dataset, EncodingShare, Schema, Tensor
from tensorus_server.rpc.convert import TensorMessage, tensor_to

DATASETS = [Dataset(number, name, StoragePolicy(), Schema(), 0) for number, name in enumerate(["one", "two"])]

ZSTD = ({"id": "zstd", "configuration": {"level": 3}},)

FIELDS: list[dict[str, Any]] = [
    {},
    {"metadata": {"a": 1}},
    {"metadata": {"a": 1.0}},
    {"metadata": {"a": True, "b": [None]}},
    {"dtype": "float32", "shape": (1,)},
    {"shape": (2, 2)},
    {"policy": StoragePolicy("fast")},
    {"values": ValueSummary(None, None, None, None, None, 1, 2, 3)},
    {"values": ValueSummary(-1.0, 2.0, 0.5, 1.5, 3.0, 0, 0, 0)},
    {"values": ValueSummary(-1.0, 2.0, 0.5, None, None, 0, 0, 7)},
    {"values": ValueSummary(0.0, 0.0, 0.0, 0.0, 0.0, 0, 0, 0)},
    {"lossy": True, "relative_error": 0.25, "max_absolute_error": 2.0, "quantized_bytes": 3},
    {"fallback_reason": "why", "stored_bytes": 99},
    {"encodings": (EncodingShare((), 1, 4, 25),)},
    {"encodings": (EncodingShare(ZSTD, 1, 4, 25),)},
    {"encodings": (EncodingShare(ZSTD, 2, 5, 26),)},
    {"encodings": (EncodingShare(ZSTD, 1, 4, 25), EncodingShare((), 3, 4, 5))},
]


def tensor(number: int, fields: dict[str, Any], dataset: int, created_us: int) -> Tensor:
    stored = stored_tensor(DATASETS[dataset], f"t{number}", **fields)
    return stored.committed(number, 2 * number, created_us)


@given(
    st.lists(
        st.tuples(st.integers(1, 2**40), st.sampled_from(FIELDS), st.integers(0, 1), st.integers(0, 2**50)), max_size=8
    )
)
def test_any_tensors_one_after_the_other(found: list[tuple[int, dict[str, Any], int, int]]) -> None:
    segment = pb.Segment()
    message = TensorMessage(segment.tensor)
    for one in found:
        made = tensor(*one)
        message.fill(made)
        assert segment.tensor == tensor_to(made)
        assert segment.tensor.SerializeToString(deterministic=True) == tensor_to(made).SerializeToString(
            deterministic=True
        )


@pytest.mark.parametrize("second", FIELDS, ids=str)
@pytest.mark.parametrize("first", FIELDS, ids=str)
def test_every_two(first: dict[str, Any], second: dict[str, Any]) -> None:
    message = pb.Tensor()
    filled = TensorMessage(message)
    for number, fields in enumerate((first, second, first)):
        made = tensor(number, fields, 0, number)
        filled.fill(made)
        assert message == tensor_to(made)
