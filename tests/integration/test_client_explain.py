"""Explaining policies through both clients: what an insert would do, of tensors of any size, without one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

import tensorus
from support.arrays import normal
from support.client import answering, scripted_server, status_details
from tensorus import Client, Policy, errors
from tensorus.types import PolicyExplanation
from tensorus_codecs.presets import PRESETS
from tensorus_protos.v1 import tensorus_pb2 as pb

MIB = 1024 * 1024

VALUES = normal((300, 200))


@pytest.mark.parametrize("preset", ["none", "lossless", "maximum"])
def test_an_explanation_says_what_an_insert_does(client: Client, dataset: str, preset: str) -> None:
    client.create_dataset(dataset)
    stored = client.insert(dataset, VALUES, preset=preset)
    (found,) = client.explain(VALUES, policies=[preset])
    assert found.policy == Policy(preset=preset)
    for name in ("canonical_bytes", "quantized_bytes", "stored_bytes", "lossy", "relative_error", "max_absolute_error"):
        assert getattr(found, name) == getattr(stored, name)
    assert (found.encodings, found.fallback_reason) == (stored.encodings, stored.fallback_reason)
    assert (found.ratio, found.quantizer_ratio) == (stored.ratio, stored.quantizer_ratio)


def test_without_policies_every_preset_is_explained(client: Client) -> None:
    found = client.explain(np.ones(100, np.float32))
    assert [explanation.policy.preset for explanation in found] == list(PRESETS)
    assert all(explanation.encode_bytes_per_second > 0 for explanation in found)
    assert all(explanation.decode_bytes_per_second > 0 for explanation in found)


def test_an_error_contract_that_would_be_broken_is_told(client: Client) -> None:
    policy = Policy(encoding=["int8_block"], max_relative_error=1e-9)
    (found,) = client.explain(VALUES, policies=[policy])
    assert found.relative_error <= 1e-9
    assert found.fallback_reason


def test_of_a_large_tensor_64_mib_are_looked_at(client: Client) -> None:
    # Nothing of this size is ever allocated here.
    values = np.broadcast_to(np.arange(256, dtype=np.uint8), (2**20, 256))
    (found,) = client.explain(values, policies=["none"])
    assert found.canonical_bytes == 64 * MIB


def test_torch_tensors_are_explained(client: Client) -> None:
    torch = pytest.importorskip("torch")
    (found,) = client.explain(torch.ones(1000, dtype=torch.bfloat16), policies=["none"])
    assert found.canonical_bytes == 2000


def test_nothing_is_stored(client: Client, dataset: str) -> None:
    client.create_dataset(dataset)
    client.explain(VALUES, policies=["fast", "maximum"])
    assert client.stats(dataset).tensors == 0


def test_a_closed_client_explains_nothing(tmp_path: Any) -> None:
    client = tensorus.open(tmp_path / "store")
    client.close()
    with pytest.raises(errors.UnavailableError, match="the client is closed"):
        client.explain(VALUES)


# ---- Over a network -----------------------------------------------------------------------------------------------------

ANSWER = pb.ExplainPolicyResponse(explanations=[pb.PolicyExplanation(policy=pb.StoragePolicy(preset="future"))])


def explained(address: str, **settings: Any) -> list[PolicyExplanation]:
    with tensorus.connect(address, **settings) as client:
        client.datasets()
        return client.explain(VALUES)


def test_a_call_that_breaks_begins_again() -> None:
    received: list[int] = []

    def breaking(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        received.append(sum(len(request) for request in requests))
        if len(received) < 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        yield ANSWER.SerializeToString()

    with scripted_server(ExplainPolicy=breaking, ListDatasets=answering(pb.ListDatasetsResponse())) as address:
        (found,) = explained(address)
    assert found.policy == Policy(preset="future")
    assert len(received) == 3
    assert min(received) == max(received) > VALUES.nbytes


def test_a_refusal_is_no_interruption() -> None:
    calls: list[int] = []

    def refusing(_: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        calls.append(1)
        context.set_trailing_metadata((("grpc-status-details-bin", status_details("INVALID_POLICY", "not that one")),))
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not that one")
        yield b""

    with (
        scripted_server(ExplainPolicy=refusing, ListDatasets=answering(pb.ListDatasetsResponse())) as address,
        pytest.raises(errors.InvalidPolicyError, match="not that one"),
    ):
        explained(address)
    assert calls == [1]


def test_a_server_that_cannot_explain_is_told_apart() -> None:
    with (
        scripted_server(ListDatasets=answering(pb.ListDatasetsResponse())) as address,
        pytest.raises(errors.NotImplementedByServerError),
    ):
        explained(address)


def test_an_answer_that_is_no_message_is_an_error_of_ours() -> None:
    with (
        scripted_server(
            ExplainPolicy=answering(b"\xff\xff"), ListDatasets=answering(pb.ListDatasetsResponse())
        ) as address,
        pytest.raises(errors.InternalError, match="an answer of ExplainPolicy is no message of the contract"),
    ):
        explained(address)
