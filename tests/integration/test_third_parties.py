"""A third party's codec over the wire: stored and read while its package is installed, and named as missing afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

import tensorus
from contract.codec_chunks import encode, encoding_of, record_bytes
from support.third_party import example, installed
from support.wire import announced, insert, insert_message, item_error, open_insert
from tensorus import Policy, errors
from tensorus._arrays import decode
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.v1.tensorus_pb2_grpc import TensorServiceStub
from tensorus_server.processes.server import Server

ARRAY = np.arange(200_000, dtype=np.int32)

MISSING = r"compressor number is 128, which is reserved for third parties; no installed package provides it"


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    """Clients remember which codecs they know; these must not, nor leave that to others."""
    decode.accepted_codecs.cache_clear()
    yield
    decode.accepted_codecs.cache_clear()


@pytest.fixture
def stored(fresh_server: Server, tmp_path: Path) -> Server:
    """A server whose tensor `t` is stored with the codec, and which is then without it."""
    entry_points, modules = example()
    with (
        installed(tmp_path / "package", name="tensorus-zlib", entry_points=entry_points, modules=modules),
        tensorus.connect(fresh_server.address) as client,
    ):
        client.create_dataset("d")
        client.insert("d", ARRAY, id="t", policy=Policy(encoding=["zlib"]))
        client.insert("d", ARRAY, id="plain")
        assert "zlib" in decode.accepted_codecs()
        assert np.array_equal(client.get("d", "t", as_="numpy"), ARRAY)
    decode.accepted_codecs.cache_clear()
    return fresh_server


def test_a_client_hears_what_is_missing_and_not_of_damage(stored: Server) -> None:
    with tensorus.connect(stored.address) as client:
        with pytest.raises(errors.UnsupportedCodecError, match=MISSING) as caught:
            client.get("d", "t")
        assert caught.value.reason == "UNSUPPORTED_CODEC"
        assert np.array_equal(client.get("d", "plain", as_="numpy"), ARRAY)
        assert client.info("d", "t").encodings[0].codecs == ("zlib",)


def test_a_record_that_is_sent_to_a_server_without_the_codec_is_no_damage_either(stored: Server) -> None:
    values = np.zeros(1000, np.uint8)
    record = bytearray(record_bytes(encode(values, encoding_of("gzip"))))
    assert record[16] == 1
    record[16] = 128
    announcing = open_insert("d", encodings=[pb.Encoding(codecs=[pb.Codec(id="gzip")])])
    sent = insert_message(bytes(record), tensor=announced("u", [1000]), encoding=1, decoded_length=1000)
    with grpc.insecure_channel(stored.address) as channel:
        (status,) = insert(TensorServiceStub(channel), [announcing, sent])
    error = item_error(status)
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "UNSUPPORTED_CODEC")
    assert "compressor number is 128" in error.message
