"""The messages of an ExplainPolicy: one that opens the call, the sample in any pieces, one answer."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from support.cases import each
from tensorus_codecs.errors import InvalidPolicyError, UnsupportedCodecError, UnsupportedDTypeError
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_server.errors import (
    InvalidRequestError,
    InvalidShapeError,
    LimitExceededError,
    PayloadTooLargeError,
    SizeMismatchError,
)
from tensorus_server.rpc.admission import Admission, AdmissionLimits
from tensorus_server.rpc.calls import Call, Gate
from tensorus_server.rpc.explain_call import explain_policy

GATE = Gate(Admission(AdmissionLimits(streams_max=1, memory_budget_bytes=1 << 20)))
# Nothing here asks for it.
NO_CONTEXT: Any = None

DATA = np.arange(1000, dtype=np.float32).tobytes()


def opening(count: int = 1000, dtype: Any = pb.DATA_TYPE_FLOAT32, payload: bytes = b"", **fields: Any) -> bytes:
    spec = pb.TensorSpec(dtype=dtype, shape=[count])
    request = pb.ExplainPolicyRequest(open=pb.OpenExplain(spec=spec, **fields), payload=payload)
    return request.SerializeToString()


def sample(data: bytes = DATA) -> bytes:
    return pb.ExplainPolicyRequest(payload=data).SerializeToString()


def answer(*messages: bytes, require_caller: Callable[[], None] = lambda: None) -> list[pb.PolicyExplanation]:
    # Only a base is looked up.
    engine: Any = None
    raw = explain_policy(engine, messages, require_caller, Call("ExplainPolicy", GATE, NO_CONTEXT))
    return list(pb.ExplainPolicyResponse.FromString(raw).explanations)


NONE = [pb.StoragePolicy(preset="none")]

STREAMS = {
    "one message": [opening(payload=DATA, candidates=NONE)],
    "the opening alone": [opening(candidates=NONE), sample()],
    "pieces that cut elements": [
        opening(payload=DATA[:1001], candidates=NONE),
        sample(DATA[1001:1002]),
        sample(DATA[1002:]),
    ],
    "messages without a payload": [opening(candidates=NONE), sample(b""), sample(), sample(b"")],
}


@each("messages", STREAMS.values(), ids=STREAMS)
def test_a_sample_may_come_in_any_pieces(messages: list[bytes]) -> None:
    (found,) = answer(*messages)
    assert found.policy == NONE[0]
    assert found.storage.canonical_bytes == len(DATA)
    assert found.storage.stored_bytes == len(DATA) + 21 + 8
    assert not found.storage.lossy
    assert found.encode_bytes_per_second > 0
    assert found.decode_bytes_per_second > 0


def test_candidates_come_back_as_they_were_sent() -> None:
    candidates = [
        pb.StoragePolicy(preset="maximum", max_relative_error=0.5, chunk_bytes=4096),
        pb.StoragePolicy(
            encoding=pb.Encoding(codecs=[pb.Codec(id="gzip", configuration={"level": pb.Value(integer=1)})])
        ),
    ]
    assert [found.policy for found in answer(opening(payload=DATA, candidates=candidates))] == candidates


def test_an_empty_sample_is_explained_at_once() -> None:
    (found,) = answer(opening(0, candidates=NONE))
    assert found == pb.PolicyExplanation(policy=NONE[0], storage=pb.StorageReport())


def test_whoever_waits_is_asked_for_between_chunks() -> None:
    asked: list[int] = []
    answer(opening(payload=DATA, candidates=NONE), require_caller=lambda: asked.append(1))
    assert asked


REFUSED: dict[str, tuple[list[bytes], type[Exception], str]] = {
    "no message": ([], InvalidRequestError, "the stream ended before it was opened"),
    "no opening": ([sample()], InvalidRequestError, "first message of the stream does not open it"),
    "two openings": ([opening(), opening()], InvalidRequestError, "a message opens the stream a second time"),
    "no message of the contract": ([b"\xff\xff\xff"], InvalidRequestError, "message is not an ExplainPolicyRequest"),
    "too few bytes": ([opening(), sample(DATA[1:])], SizeMismatchError, "3999 bytes were sent, float32 of shape"),
    "too many bytes": ([opening(), sample(DATA + b"x")], SizeMismatchError, "at least 4001 bytes were sent"),
    "a payload that is too large": (
        [opening(2**20), sample(bytes(2 * 1024 * 1024 + 1))],
        PayloadTooLargeError,
        "payload is 2097153 bytes, limit is 2097152 bytes (payload_bytes_max)",
    ),
    "a message that is too large": (
        [opening(), sample(bytes(4 * 1024 * 1024))],
        PayloadTooLargeError,
        "limit is 4194304 bytes (message_bytes_max)",
    ),
    "a sample that is too large": ([opening(2**24 + 1)], LimitExceededError, "limit is 67108864 bytes"),
    "no dtype": (
        [opening(dtype=pb.DATA_TYPE_UNSPECIFIED)],
        UnsupportedDTypeError,
        "dtype of the tensor is not specified",
    ),
    "a negative size": ([opening(-1)], InvalidShapeError, "size of axis 0 is -1, must not be negative"),
    "an unknown preset": (
        [opening(candidates=[pb.StoragePolicy(preset="zip")])],
        InvalidPolicyError,
        "preset 'zip' is not one of none",
    ),
    "an unknown codec": (
        [opening(candidates=[pb.StoragePolicy(encoding=pb.Encoding(codecs=[pb.Codec(id="middle_out")]))])],
        UnsupportedCodecError,
        "codec 'middle_out' is not one of",
    ),
    "too many candidates": (
        [opening(candidates=NONE * 33)],
        LimitExceededError,
        "number of candidates is 33, limit is 32 (explain_candidates_max)",
    ),
}


@each(("messages", "error", "part"), REFUSED.values(), ids=REFUSED)
def test_what_contradicts_the_contract_is_refused(messages: list[bytes], error: type[Exception], part: str) -> None:
    with pytest.raises(error, match=re.escape(part)) as caught:
        answer(*messages)
    assert type(caught.value) is error
