"""Every field that the contract has of a tensor reaches `TensorInfo`, from servers and from embedded stores alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
from google.protobuf.message import Message

from support.cases import each
from support.engine import stored_tensor
from support.variants import variants_of
from tensorus._from_engine import tensor_info
from tensorus._grpc.convert import tensor_from
from tensorus.types import TensorInfo
from tensorus_codecs.policy import StoragePolicy
from tensorus_codecs.summary import ValueSummary
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server.model import Dataset, EncodingShare, Schema, Tensor
from tensorus_server.rpc.convert import tensor_to

NOT_SHOWN = {
    "base": "inserts alone send it",
    "edit": "inserts alone send it",
    "if_generation_match": "inserts alone send it",
    "replace": "inserts alone send it",
    "policy": "the report says what it did",
    "spec.element_bits": "the dtype has a name",
    "source_checksum.algorithm": "there is one",
    "value_checksum.algorithm": "there is one",
}
"""Fields of a message that `TensorInfo` does not have, and why."""

ZSTD = ({"id": "zstd", "configuration": {"level": 3}},)

ENGINES = dataclasses.replace(
    stored_tensor(
        Dataset(1, "weights", StoragePolicy(), Schema(), 0),
        "t",
        metadata={"a": 1},
        values=ValueSummary(-1.0, 2.0, 0.5, 1.5, 3.0, 1, 2, 3),
        encodings=(EncodingShare(ZSTD, 1, 4, 25),),
        relative_error=0.5,
        max_absolute_error=0.25,
        lossy=True,
        fallback_reason="why",
    ).committed(7, 8, 1_000_009),
    policy={"preset": "fast"},
    # As it is read.
    outcome=None,
)

MESSAGE = tensor_to(ENGINES)


def fields_of(message: Message, path: str = "") -> Iterator[tuple[str, Message]]:
    """Yield the path of each field, and the message that it is a field of; those of a tensor's parts, too."""
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if isinstance(value, pb.TensorSpec | pb.Checksum | pb.StorageReport | pb.ValueSummary):
            yield from fields_of(value, f"{path}{field.name}.")
        else:
            yield f"{path}{field.name}", message
            if isinstance(value, Message) or field.message_type is not pb.EncodingShare.DESCRIPTOR:
                continue
            yield from fields_of(value[0], f"{path}{field.name}.")


PATHS = [path for path, _ in fields_of(MESSAGE)]


@each("path", PATHS)
def test_a_tensor_info_shows_each_field_of_the_message(path: str) -> None:
    changed = pb.Tensor()
    changed.CopyFrom(MESSAGE)
    dict(fields_of(changed))[path].ClearField(path.rpartition(".")[2])
    # A field that is at its default in MESSAGE seems not to be shown: give it another value there.
    assert (tensor_from(changed) == tensor_from(MESSAGE)) == (path in NOT_SHOWN)


def test_what_is_not_shown_is_in_the_contract() -> None:
    assert set(PATHS) >= NOT_SHOWN.keys()


@pytest.mark.parametrize("made", [tensor_from(MESSAGE), tensor_info(ENGINES)], ids=["of a message", "of the engine"])
def test_no_field_of_a_tensor_info_is_left_out(made: TensorInfo) -> None:
    repr(made)
    assert vars(made).keys() == {field.name for field in dataclasses.fields(TensorInfo)}


VARIANTS = [
    ("nothing", ENGINES),
    ("values", dataclasses.replace(ENGINES, values=None)),
    ("values of nothing", dataclasses.replace(ENGINES, values=ValueSummary(None, None, None, None, None, 0, 0, 0))),
    # Of messages, metadata come in any order: at most one key.
    *((path, changed) for path, changed in variants_of(dataclasses.replace(ENGINES, metadata={})) if path != "policy"),
]


@each(("path", "changed"), VARIANTS)
def test_an_embedded_store_says_the_same_as_a_server(path: str, changed: Tensor) -> None:
    # By their notation, in which 1, 1.0 and True are what they are.
    assert repr(tensor_info(changed)) == repr(tensor_from(tensor_to(changed))), path
