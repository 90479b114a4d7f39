"""Messages of tensors: one that is filled again and again says of each what a fresh one does."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from support.cases import each
from support.engine import stored_tensor
from support.variants import variants_of
from tensorus_codecs.policy import StoragePolicy
from tensorus_codecs.summary import ValueSummary
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server.model import Dataset, EncodingShare, Locator, Schema, Tensor
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


@each("second", FIELDS)
@each("first", FIELDS)
def test_every_two(first: dict[str, Any], second: dict[str, Any]) -> None:
    message = pb.Tensor()
    filled = TensorMessage(message)
    for number, fields in enumerate((first, second, first)):
        made = tensor(number, fields, 0, number)
        filled.fill(made)
        assert message == tensor_to(made)


NOT_SENT = {"inline_payload", *(f"locator.{field.name}" for field in dataclasses.fields(Locator))}
"""Fields of a tensor that concern the server alone."""

INPUT = {"base", "edit", "if_generation_match", "replace"}
"""Fields of the message that only inserts send."""

PLAIN = stored_tensor(
    DATASETS[0],
    "t",
    values=ValueSummary(-1.0, 2.0, 0.5, 1.5, 3.0, 1, 2, 3),
    encodings=(EncodingShare(ZSTD, 1, 4, 25),),
    relative_error=0.5,
    max_absolute_error=0.25,
    lossy=True,
    fallback_reason="why",
).committed(7, 8, 1_000_009)

FULL = dataclasses.replace(PLAIN, metadata={"a": 1}, policy={"preset": "fast"})

VARIANTS = [
    pytest.param(base, path, changed, id=f"{name} {path}")
    for name, base in (("plain", PLAIN), ("full", FULL))
    for path, changed in [
        *((path, changed) for path, changed in variants_of(base) if path != "policy"),
        ("policy", dataclasses.replace(base, policy={"preset": "maximum"})),
        ("values", dataclasses.replace(base, values=None)),
        ("spec.shape", dataclasses.replace(base, spec=dataclasses.replace(base.spec, shape=(2, 2)))),
    ]
    if path != "outcome"
]


@each(("base", "path", "changed"), VARIANTS)
def test_a_message_has_each_field_and_never_the_neighbours(base: Tensor, path: str, changed: Tensor) -> None:
    message = pb.Tensor()
    filled = TensorMessage(message)
    for made in (base, changed, base):
        filled.fill(made)
        assert message == tensor_to(made)
    assert (tensor_to(changed) == tensor_to(base)) == (path in NOT_SENT)


def unset(message: Message, descriptor: Descriptor, path: str = "") -> list[str]:
    """Return the fields that a message leaves at their default, and those within the messages of this contract that it has."""
    found: list[str] = []
    for field in descriptor.fields:
        value, name = getattr(message, field.name), f"{path}{field.name}"
        if not isinstance(value, Message):
            found += [] if value else [name]
        elif not message.HasField(field.name):
            found.append(name)
        else:
            found += unset(value, field.message_type, f"{name}.")
    return found


def test_every_field_of_the_contract_that_is_no_input_is_set() -> None:
    policy = {"preset": "fast", "max_relative_error": 0.5, "max_absolute_error": 0.5, "chunk_bytes": 4096}
    message = tensor_to(dataclasses.replace(FULL, policy=policy))
    # A policy has either a preset or an encoding.
    assert {*unset(message, pb.Tensor.DESCRIPTOR)} == {*INPUT, "policy.encoding"}
    (share,) = message.storage.encodings
    assert unset(share, pb.EncodingShare.DESCRIPTOR) == []
