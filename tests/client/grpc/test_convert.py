"""The contract's messages as the client's values: every field, in both directions."""

from __future__ import annotations

import dataclasses
import datetime as dt
import pickle
import typing
from typing import Any

import numpy as np
import pytest
from google.protobuf import timestamp_pb2
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

from support.arrays import DTYPE_NAMES
from support.cases import each
from support.client import status_of
from tensorus._backend import Part, Upload
from tensorus._grpc.convert import error_from, inserted_from, slices_to, tensor_from, upload_to
from tensorus._grpc.convert_dataset import (
    codec_steps,
    dataset_from,
    merged_shares,
    policy_to,
    schema_to,
    stats_from,
)
from tensorus._grpc.convert_values import metadata_to, plain_metadata
from tensorus.errors import (
    DatasetNotFoundError,
    InvalidMetadataError,
    InvalidPolicyError,
    TensorusError,
    UnsupportedDTypeError,
)
from tensorus.types import DatasetStats, DTypeShare, EncodingShare, Policy, Schema, TensorInfo, ValueSummary
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.values import from_value_map

TENSOR = pb.Tensor(
    dataset="weights",
    id="layer1",
    spec=pb.TensorSpec(dtype=pb.DATA_TYPE_BFLOAT16, shape=[2, 2**40], element_bits=16),
    metadata={"layer": pb.Value(integer=1)},
    generation=2**63,
    ordinal=2**64 - 1,
    source_checksum=pb.Checksum(algorithm="xxh3_128", value=b"\x01\xab"),
    value_checksum=pb.Checksum(algorithm="xxh3_128", value=b"\x02\xcd"),
    storage=pb.StorageReport(
        canonical_bytes=100,
        quantized_bytes=50,
        stored_bytes=40,
        relative_error=0.25,
        max_absolute_error=0.5,
        lossy=True,
        encodings=[
            pb.EncodingShare(
                encoding=pb.Encoding(codecs=[pb.Codec(id="fp16"), pb.Codec(id="zstd")]),
                chunks=3,
                canonical_bytes=60,
                stored_bytes=20,
            ),
            pb.EncodingShare(chunks=1, canonical_bytes=40, stored_bytes=41),
        ],
        fallback_reason="a reason",
    ),
    values=pb.ValueSummary(
        min=-1.0,
        max=2.0,
        mean=0.5,
        standard_deviation=0.25,
        l2_norm=3.0,
        zero_count=4,
        nan_count=5,
        infinity_count=6,
    ),
    create_time=timestamp_pb2.Timestamp(seconds=1_700_000_000, nanos=123_456_789),
    chunk_bytes=1_048_576,
)

INFO = TensorInfo(
    dataset="weights",
    id="layer1",
    dtype="bfloat16",
    shape=(2, 2**40),
    metadata={"layer": 1},
    chunk_bytes=1_048_576,
    generation=2**63,
    ordinal=2**64 - 1,
    canonical_bytes=100,
    quantized_bytes=50,
    stored_bytes=40,
    lossy=True,
    relative_error=0.25,
    max_absolute_error=0.5,
    encodings=(EncodingShare(("fp16", "zstd"), 3, 60, 20), EncodingShare((), 1, 40, 41)),
    fallback_reason="a reason",
    values=ValueSummary(-1.0, 2.0, 0.5, 0.25, 3.0, 4, 5, 6),
    source_checksum="01ab",
    value_checksum="02cd",
    created=dt.datetime(2023, 11, 14, 22, 13, 20, 123_456, dt.UTC),
)


def test_every_field_of_a_tensor_arrives() -> None:
    assert tensor_from(TENSOR) == INFO


def test_values_that_are_not_there_are_none() -> None:
    assert tensor_from(pb.Tensor()).values is None
    nothing_finite = pb.Tensor(values=pb.ValueSummary(nan_count=3))
    assert tensor_from(nothing_finite).values == ValueSummary(None, None, None, None, None, 0, 3, 0)


def test_a_value_of_zero_is_not_absent() -> None:
    zeros = pb.Tensor(values=pb.ValueSummary(min=0, max=0, mean=0, standard_deviation=0, l2_norm=0))
    assert tensor_from(zeros).values == ValueSummary(0.0, 0.0, 0.0, 0.0, 0.0, 0, 0, 0)


def test_an_unknown_dtype_is_called_by_its_number() -> None:
    # `Any`: the enum is open on the wire, and closed in the generated types.
    number: Any = 77
    assert tensor_from(pb.Tensor(spec=pb.TensorSpec(dtype=number))).dtype == "dtype_77"


@each("name", DTYPE_NAMES)
def test_every_dtype_goes_out_and_comes_back_by_its_name(name: str) -> None:
    upload = Upload("t", name, (3,), 3, lambda _: iter(()), {}, None)
    message = upload_to(upload)
    assert message.spec.dtype == pb.DataType.Value(f"DATA_TYPE_{name.upper()}")
    assert tensor_from(message).dtype == name


def test_an_upload_is_announced_with_all_that_was_given() -> None:
    upload = Upload("t", "int8", (2, 3), 6, lambda _: iter(()), {"k": [1, 2.0]}, Policy(preset="fast"))
    assert upload_to(upload) == pb.Tensor(
        id="t",
        spec=pb.TensorSpec(dtype=pb.DATA_TYPE_INT8, shape=[2, 3]),
        metadata=metadata_to({"k": [1, 2.0]}),
        policy=pb.StoragePolicy(preset="fast"),
    )


def test_without_a_policy_the_dataset_s_counts() -> None:
    upload = Upload("t", "int8", (), 1, lambda _: iter(()), {}, None)
    assert not upload_to(upload).HasField("policy")


@each(
    ("metadata", "match"),
    [
        pytest.param({"k": object()}, r"metadata\['k'\] is a object", id="an object"),
        pytest.param({"k": 2**63}, r"metadata\['k'\] is 9223372036854775808, beyond the 64 bits", id="a large integer"),
        pytest.param({1: 1}, "a key of metadata is a int", id="a key"),
        pytest.param({"k": "\ud800"}, r"metadata\['k'\] is not Unicode text", id="a surrogate"),
    ],
)
def test_metadata_that_cannot_travel_is_refused_by_its_path(metadata: Any, match: str) -> None:
    with pytest.raises(InvalidMetadataError, match=match) as caught:
        metadata_to(metadata)
    assert caught.value.reason == "INVALID_METADATA"
    assert isinstance(caught.value.__cause__, (TypeError, ValueError))


# ---- Policies -----------------------------------------------------------------------------------------------------------

POLICIES: list[Any] = [
    pytest.param(Policy(), pb.StoragePolicy(), id="nothing"),
    pytest.param(Policy(preset="fast"), pb.StoragePolicy(preset="fast"), id="a preset"),
    pytest.param(
        Policy(max_relative_error=0.0, max_absolute_error=0.0),
        pb.StoragePolicy(max_relative_error=0.0, max_absolute_error=0.0),
        id="no error at all, which is not no limit",
    ),
    pytest.param(Policy(chunk_bytes=4096), pb.StoragePolicy(chunk_bytes=4096), id="a size of chunks"),
    pytest.param(
        Policy(encoding=[{"id": "zstd", "configuration": {"level": 19, "huffman_only": False}}]),
        pb.StoragePolicy(
            encoding=pb.Encoding(
                codecs=[
                    pb.Codec(
                        id="zstd",
                        configuration={"level": pb.Value(integer=19), "huffman_only": pb.Value(boolean=False)},
                    )
                ]
            )
        ),
        id="a codec with settings",
    ),
    pytest.param(
        Policy(encoding=[{"id": "fp16", "configuration": {}}, {"id": "lz4", "configuration": {}}]),
        pb.StoragePolicy(encoding=pb.Encoding(codecs=[pb.Codec(id="fp16"), pb.Codec(id="lz4")])),
        id="a chain",
    ),
    pytest.param(Policy(encoding=[]), pb.StoragePolicy(encoding=pb.Encoding()), id="an empty chain: as it is"),
]


@each(("policy", "message"), POLICIES)
def test_a_policy_goes_out_and_comes_back(policy: Policy, message: pb.StoragePolicy) -> None:
    found = policy_to(policy)
    assert found == message
    assert found.WhichOneof("choice") == message.WhichOneof("choice")
    assert dataset_from(pb.Dataset(policy=message)).policy == policy


def test_a_step_may_be_an_id_alone() -> None:
    assert policy_to(Policy(encoding=["fp16", {"id": "zstd"}])) == policy_to(
        Policy(encoding=[{"id": "fp16", "configuration": {}}, {"id": "zstd", "configuration": {}}])
    )
    assert codec_steps(["fp16", {"id": "zstd"}]) == [{"id": "fp16"}, {"id": "zstd"}]


@each("step", [5, None, {}, {"id": 5}, {"codec": "zstd"}, ["zstd"]])
def test_a_step_that_names_no_codec_is_refused(step: Any) -> None:
    with pytest.raises(
        InvalidPolicyError, match=r"a step of an encoding is .*, must be a codec's id or \{'id'"
    ) as caught:
        policy_to(Policy(encoding=["fp16", step]))
    assert caught.value.reason == "INVALID_POLICY"


def test_preset_and_encoding_exclude_each_other() -> None:
    with pytest.raises(InvalidPolicyError, match=r"both preset .*and .*encoding, must have at most one"):
        policy_to(Policy(preset="fast", encoding=["zstd"]))


@each(
    "policy",
    [
        pytest.param(Policy(encoding=[{"id": "zstd", "level": 3}]), id="a setting beside the configuration"),
        pytest.param(Policy(encoding=[{"id": "zstd", "configuration": {"level": object()}}]), id="an object"),
        pytest.param(Policy(encoding=[{"id": "zstd", "configuration": 5}]), id="a configuration that is no mapping"),
        pytest.param(Policy(chunk_bytes=-1), id="a negative size"),
        pytest.param(Policy(chunk_bytes=2**32), id="a size beyond 32 bits"),
    ],
)
def test_a_policy_that_cannot_travel_is_refused_as_a_policy(policy: Policy) -> None:
    with pytest.raises(InvalidPolicyError):
        policy_to(policy)


# ---- Schemas ------------------------------------------------------------------------------------------------------------

EVERY_TYPE = {"a": bool, "b": int, "c": float, "d": str, "e": list, "f": dict, "g": None}

SCHEMAS: list[Any] = [
    pytest.param(Schema(), pb.DatasetSchema(), id="nothing"),
    pytest.param(Schema(dtype="float8_e5m2"), pb.DatasetSchema(dtype=pb.DATA_TYPE_FLOAT8_E5M2), id="a dtype"),
    pytest.param(Schema(shape=(None, 3)), pb.DatasetSchema(shape=pb.ShapePattern(sizes=[-1, 3])), id="a shape"),
    pytest.param(
        Schema(shape=()), pb.DatasetSchema(shape=pb.ShapePattern()), id="scalars only, which is not any shape"
    ),
    pytest.param(
        Schema(metadata=EVERY_TYPE),
        pb.DatasetSchema(
            metadata={
                "a": pb.METADATA_TYPE_BOOLEAN,
                "b": pb.METADATA_TYPE_INTEGER,
                "c": pb.METADATA_TYPE_NUMBER,
                "d": pb.METADATA_TYPE_TEXT,
                "e": pb.METADATA_TYPE_LIST,
                "f": pb.METADATA_TYPE_MAP,
                "g": pb.METADATA_TYPE_UNSPECIFIED,
            }
        ),
        id="metadata of every type",
    ),
]


@each(("schema", "message"), SCHEMAS)
def test_a_schema_goes_out_and_comes_back(schema: Schema, message: pb.DatasetSchema) -> None:
    found = schema_to(schema)
    assert found == message
    assert found.HasField("shape") == message.HasField("shape")
    assert dataset_from(pb.Dataset(schema=message)).schema == schema


def test_a_schema_may_have_every_type_of_the_contract() -> None:
    assert len(EVERY_TYPE) == len(pb.MetadataType.items())


def test_a_type_from_the_future_is_any_type() -> None:
    message = pb.DatasetSchema.FromString(pb.DatasetSchema(metadata={"k": typing.cast(Any, 99)}).SerializeToString())
    assert dataset_from(pb.Dataset(schema=message)).schema.metadata == {"k": None}


def test_a_schema_with_an_unknown_dtype_is_refused_with_those_there_are() -> None:
    with pytest.raises(UnsupportedDTypeError, match=r"dtype 'float31' is not one of bool, uint8, .*float8_e5m2$"):
        schema_to(Schema(dtype="float31"))


def test_a_schema_with_an_unknown_type_is_refused_by_its_key() -> None:
    with pytest.raises(InvalidMetadataError, match=r"type of 'k' in a schema is <class 'set'>, must be bool, int"):
        schema_to(Schema(metadata={"k": set}))


def test_a_dataset_has_its_name_and_its_time() -> None:
    created = timestamp_pb2.Timestamp(seconds=1, nanos=5000)
    found = dataset_from(pb.Dataset(name="weights", create_time=created))
    assert (found.name, found.created) == ("weights", dt.datetime(1970, 1, 1, 0, 0, 1, 5, dt.UTC))


# ---- The rest -----------------------------------------------------------------------------------------------------------


def test_every_sum_of_a_dataset_arrives() -> None:
    message = pb.GetDatasetStatsResponse(
        tensors=1,
        lossy_tensors=2,
        canonical_bytes=3,
        quantized_bytes=4,
        stored_bytes=5,
        worst_relative_error=0.5,
        worst_max_absolute_error=0.25,
        data_types=[
            pb.DataTypeShare(dtype=pb.DATA_TYPE_BOOL, tensors=6, canonical_bytes=7, stored_bytes=8),
            pb.DataTypeShare(dtype=typing.cast(Any, 77), tensors=9),
        ],
        encodings=[
            pb.EncodingShare(
                encoding=pb.Encoding(codecs=[pb.Codec(id="fp16"), pb.Codec(id="zstd")]),
                chunks=10,
                canonical_bytes=11,
                stored_bytes=12,
            )
        ],
    )
    assert stats_from(message) == DatasetStats(
        *(1, 2, 3, 4, 5, 0.5, 0.25),
        dtypes=(DTypeShare("bool", 6, 7, 8), DTypeShare("dtype_77", 9, 0, 0)),
        encodings=(EncodingShare(("fp16", "zstd"), 10, 11, 12),),
    )


def test_the_shares_of_a_dataset_are_merged_where_only_settings_differ() -> None:
    def share(level: float, stored_bytes: int) -> pb.EncodingShare:
        codec = pb.Codec(id="zstd", configuration={"level": pb.Value(number=level)})
        return pb.EncodingShare(
            encoding=pb.Encoding(codecs=[codec]), chunks=1, canonical_bytes=20, stored_bytes=stored_bytes
        )

    raw = pb.EncodingShare(chunks=5, canonical_bytes=11, stored_bytes=12)
    found = stats_from(pb.GetDatasetStatsResponse(encodings=[raw, share(3, 10), share(5, 9)])).encodings
    # Together they are the largest, which none of them was.
    assert found == (EncodingShare(("zstd",), 2, 40, 19), EncodingShare((), 5, 11, 12))


def test_shares_of_the_same_size_stay_in_order() -> None:
    shares = [EncodingShare((name,), 1, 2, 3) for name in ("b", "c", "a")]
    assert merged_shares(shares) == tuple(shares)


def test_slices_keep_what_is_open() -> None:
    part = Part((slice(None), slice(1, -1, 2)), (slice(0, None, -3),))
    assert slices_to(part) == pb.SliceSet(
        axes=[pb.Slice(), pb.Slice(start=1, stop=-1, step=2)], trailing_axes=[pb.Slice(start=0, step=-3)]
    )


def test_a_status_with_a_reason_is_its_error() -> None:
    found = error_from(status_of("DATASET_NOT_FOUND", "there is none", dataset="weights"))
    assert type(found) is DatasetNotFoundError
    assert (str(found), found.reason, found.facts) == ("there is none", "DATASET_NOT_FOUND", {"dataset": "weights"})


def test_a_status_with_a_reason_from_the_future_is_a_plain_error() -> None:
    found = error_from(status_of("TOO_PURPLE"))
    assert type(found) is TensorusError
    assert found.reason == "TOO_PURPLE"


@pytest.mark.parametrize(
    "status",
    [
        pytest.param(status_pb2.Status(code=5, message="there is none"), id="no details"),
        pytest.param(status_of("DATASET_NOT_FOUND", domain="example.org"), id="another domain"),
    ],
)
def test_a_status_without_a_reason_of_ours_is_no_error_of_ours(status: status_pb2.Status) -> None:
    assert error_from(status) is None


def test_the_reason_is_found_among_other_details() -> None:
    status = status_of("OTHER", domain="example.org")
    status.details.extend(status_of("DATASET_NOT_FOUND").details)
    assert type(error_from(status)) is DatasetNotFoundError


@each(
    ("outcome", "inserted"),
    [
        (pb.INSERT_OUTCOME_INSERTED, True),
        (pb.INSERT_OUTCOME_REPLACED, True),
        (pb.INSERT_OUTCOME_ALREADY_STORED, False),
        # A server that does not say.
        (pb.INSERT_OUTCOME_UNSPECIFIED, True),
    ],
)
def test_a_result_says_whether_it_was_inserted_before_and_after_its_fields_are_worked_out(
    *, outcome: pb.InsertOutcome, inserted: bool
) -> None:
    info = inserted_from(pb.ItemStatus(tensor=TENSOR, outcome=outcome))
    assert info.inserted is inserted
    assert pickle.loads(pickle.dumps(info)).inserted is inserted
    assert dataclasses.replace(info, id="other").inserted is inserted
    assert info == tensor_from(TENSOR)
    assert tensor_from(TENSOR).inserted is False


def test_an_upload_says_whether_it_replaces() -> None:
    for replaces in (False, True):
        upload = Upload("t", "uint8", (1,), 1, lambda _: iter(()), {}, None, replace=replaces)
        assert upload_to(upload).replace is replaces


METADATA = st.dictionaries(
    st.text(max_size=8),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**64), 2**64)
        | st.floats()
        | st.text(max_size=8)
        | st.sampled_from(
            ["x" * 2000, np.float32(1.5), np.int64(3), 2**63 - 1, -(2**63), -(2**63) - 1, "\ud800", object()]
        ),
        lambda inner: (
            st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        ),
        max_leaves=5,
    ),
    max_size=5,
)


@given(METADATA)
def test_plain_metadata_are_what_comes_back_from_messages(metadata: dict[str, Any]) -> None:
    try:
        expected: object = from_value_map(metadata_to(metadata))
    except InvalidMetadataError as error:
        expected = error
    try:
        found: object = plain_metadata(metadata)
    except InvalidMetadataError as error:
        found = error
    # By their notation, in which NaN, -0.0, 1, 1.0 and True are what they are.
    assert repr(found) == repr(expected)
    assert found is not metadata


@each("metadata", [None, [1], {1: 2}, {f"k{number}": "x" * 1000 for number in range(2000)}])
def test_what_messages_refuse_is_refused_alike(metadata: Any) -> None:
    with pytest.raises(TensorusError) as expected:
        metadata_to(metadata)
    with pytest.raises(type(expected.value)) as found:
        plain_metadata(metadata)
    assert str(found.value) == str(expected.value)
