"""Interrupted inserts against a base: they go on with the same base, and begin anew if it was replaced or deleted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.arrays import assert_same_bits, canonical
from support.deltas import CHUNK, FIRST, needed_bases, next_step
from support.engine import Reports, announce, engine_on, insert, read
from support.marks import mark_tensors
from tensorus_codecs.checksum import crc32c
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.insert.options import InsertOptions
from tensorus_server.errors import InvalidRequestError, NotFoundError, SessionExpiredError, TensorNotFoundError
from tensorus_server.model import At, Checksum, Segment, Tensor, TensorReference

pytestmark = pytest.mark.usefixtures("few_shards")

POLICY = StoragePolicy(chunk_bytes=CHUNK)
SAME_POLICY = StoragePolicy(max_relative_error=1.0, chunk_bytes=CHUNK)
REQUEST = InsertOptions(request_id="the request")
SECOND = next_step(FIRST, 2)
SENT = 85_000
"""Bytes before the interruption."""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine with the base and a half of a tensor that has it, of which some chunks are kept."""
    mark_tensors(monkeypatch, above_bytes=10_000, every_bytes=2 * CHUNK)
    with engine_on(tmp_path / "store") as opened:
        opened.create_dataset("d", POLICY)
        insert(opened, "d", "first", FIRST)
        stream = opened.open_insert("d", Reports(), REQUEST)
        data = memoryview(canonical(SECOND))[:SENT]
        new = announce("second", SECOND, base=TensorReference("d", "first", At(generation=1)))
        stream.receive(Segment(0, 0, SENT, last=False, tensor=new), data)
        stream.abort()
        yield opened


def committed(engine: Engine) -> int:
    """Return how many bytes of the tensor are kept."""
    stream = engine.open_insert("d", Reports(), REQUEST)
    stream.abort()
    (progress,) = stream.resumable
    assert 0 < progress.committed_bytes < SENT
    return progress.committed_bytes


def go_on(engine: Engine, offset: int | None = None, values: np.ndarray[Any, Any] = SECOND, **fields: Any) -> Tensor:
    """Send the rest in another stream of the request; raises what the item failed with."""
    offset = committed(engine) if offset is None else offset
    reports = Reports()
    stream = engine.open_insert("d", reports, REQUEST)
    data = memoryview(canonical(values))[offset:]
    new = announce("second", values, **fields)
    stream.receive(Segment(0, offset, data.nbytes, last=True, tensor=new), data)
    stream.finish()
    outcome = reports.outcomes[0]
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def differences(tensor: Tensor) -> int:
    return sum(share.chunks for share in tensor.storage.encodings if "int_delta" in str(share.encoding))


@pytest.mark.parametrize("repeated", [True, False])
def test_the_tensor_is_that_of_an_insert_without_interruption(engine: Engine, repeated: bool) -> None:  # noqa: FBT001
    base = TensorReference("d", "first", At(generation=1))
    resumed = go_on(engine, **({"base": base} if repeated else {}))
    # Under a policy that says the same in other words, so that it does not share the payload.
    whole = insert(engine, "d", "whole", SECOND, base=base, policy=SAME_POLICY)
    assert resumed.storage == whole.storage
    assert (differences(resumed), resumed.source_checksum) == (
        50,
        Checksum("crc32c", crc32c(canonical(SECOND)).to_bytes(4, "big")),
    )
    assert len(needed_bases(engine)) == 2
    engine._catalogue.tensors.delete("d", ["first", "whole"])
    engine.sweep(in_grace=True)
    assert_same_bits(read(engine, "d", "second"), SECOND)


def test_another_base_is_refused(engine: Engine) -> None:
    for base in (TensorReference("d", "other"), TensorReference("d", "first")):
        with pytest.raises(
            InvalidRequestError, match=r"base of item 0 is .* an earlier stream of the request announced"
        ):
            go_on(engine, base=base)
    assert differences(go_on(engine)) == 50


def test_a_base_that_was_replaced_begins_the_tensor_anew(engine: Engine) -> None:
    # Whoever names the base without a state gets the newest one.
    engine._catalogue.uploads.drop(REQUEST.request_id or "")
    stream = engine.open_insert("d", Reports(), REQUEST)
    base = TensorReference("d", "first")
    new = announce("second", SECOND, base=base)
    stream.receive(Segment(0, 0, SENT, last=False, tensor=new), memoryview(canonical(SECOND))[:SENT])
    stream.abort()
    replacing = insert(engine, "d", "first", next_step(FIRST, 7), replace=True)
    engine.sweep(in_grace=True)
    with pytest.raises(SessionExpiredError, match="the base was replaced or deleted"):
        go_on(engine, base=base)
    stored = go_on(engine, 0, base=base)
    assert needed_bases(engine) == {(replacing.locator.key, stored.locator.key)}
    assert_same_bits(read(engine, "d", "second"), SECOND)


def test_a_base_that_was_deleted_is_missed(engine: Engine) -> None:
    engine._catalogue.tensors.delete("d", ["first"])
    with pytest.raises(NotFoundError):
        go_on(engine)
    with pytest.raises(TensorNotFoundError, match="tensor=first"):
        insert(engine, "d", "third", SECOND, base=TensorReference("", "first"))
