"""What the first announcement of an item says holds for every stream that goes on with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import pytest

from support.arrays import canonical, normal
from support.engine import Reports, announce, engine_on, find
from support.marks import mark_tensors
from tensorus_codecs.checksum import TensorDigest, crc32c
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.catalogue.sql import uploads
from tensorus_server.catalogue.sql.row_checksum import upload_checksum
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.insert.stream import InsertOptions
from tensorus_server.errors import ChecksumMismatchError, InvalidRequestError
from tensorus_server.model import Checksum, NewTensor, Outcome, Schema, Segment, Tensor

ARRAY = normal((50_001,), "float32")
DATA = memoryview(canonical(ARRAY))
SENT = 120_000
COMMITTED = 114_688
REQUEST = InsertOptions(request_id="request")
PLAIN = announce("t", ARRAY)
FIRST = announce(
    "t", ARRAY, metadata={"layer": 3}, policy=StoragePolicy("fast", chunk_bytes=4096), if_generation_match=0
)
CRC32C = Checksum("crc32c", crc32c(DATA).to_bytes(4, "big"))
XXH3 = Checksum("xxh3_128", TensorDigest.of(DATA))
WRONG = [Checksum("crc32c", b"\0" * 4), Checksum("xxh3_128", b"\0" * 16)]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def engine(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    mark_tensors(monkeypatch, above_bytes=10_000, every_bytes=8192)
    with engine_on(store) as opened:
        opened.create_dataset("d", StoragePolicy(preset="none", chunk_bytes=4096))
        yield opened


def begin(engine: Engine, first: NewTensor = FIRST) -> None:
    """Send the first bytes of an item, and end the stream."""
    stream = engine.open_insert("d", Reports(), REQUEST)
    stream.receive(Segment(0, 0, SENT, last=False, tensor=first), DATA[:SENT])
    stream.abort()


def go_on(engine: Engine, later: NewTensor = PLAIN, checksum: Checksum | None = None) -> Tensor | Exception:
    """Send the rest in another stream, and return what became of the item."""
    reports = Reports()
    stream = engine.open_insert("d", reports, REQUEST)
    segment = Segment(0, COMMITTED, DATA.nbytes - COMMITTED, last=True, tensor=later, source_checksum=checksum)
    stream.receive(segment, DATA[COMMITTED:])
    stream.finish()
    return reports.outcomes[0]


@pytest.mark.parametrize("later", [pytest.param(PLAIN, id="nothing"), pytest.param(FIRST, id="the same")])
def test_a_later_announcement_may_say_nothing_or_the_same(engine: Engine, later: NewTensor) -> None:
    begin(engine)
    found = go_on(engine, later)
    assert isinstance(found, Tensor), found
    assert (found.metadata, found.policy) == ({"layer": 3}, {"preset": "fast", "chunk_bytes": 4096})
    assert find(engine, "d", "t").metadata == {"layer": 3}


def test_what_the_first_one_said_survives_a_restart(engine: Engine, store: Path) -> None:
    begin(engine, replace(FIRST, source_checksum=WRONG[0]))
    engine.close()
    with engine_on(store) as reopened:
        assert isinstance(go_on(reopened), ChecksumMismatchError)


@pytest.mark.parametrize(
    ("field", "says", "message"),
    [
        ("metadata", {"layer": 4}, r'metadata of item 0 is \{"layer": 4\}, an earlier .* announced \{"layer": 3\}'),
        ("metadata", {"layer": 3.0}, r'metadata of item 0 is \{"layer": 3.0\}, .* announced \{"layer": 3\}'),
        ("policy", StoragePolicy("none"), r'policy of item 0 is \{"preset": "none"\}, .*"preset": "fast"'),
        ("if_generation_match", 5, "if_generation_match of item 0 is 5, .* announced 0"),
        ("replace", True, "replace of item 0 is true, .* announced false"),
    ],
)
def test_a_later_announcement_that_says_something_else_is_refused_and_nothing_is_lost(
    engine: Engine, field: str, says: Any, message: str
) -> None:
    begin(engine)
    with pytest.raises(InvalidRequestError, match=message) as caught:
        raise go_on(engine, replace(FIRST, **{field: says}))  # type: ignore[misc]  # a tensor is a failure here
    assert caught.value.facts["field"] == field
    assert isinstance(go_on(engine), Tensor)


def test_the_dataset_s_policy_may_be_named_where_the_first_one_had_none(engine: Engine) -> None:
    begin(engine, PLAIN)
    engine.update_dataset("d", StoragePolicy("lossless"), None)
    assert isinstance(go_on(engine, replace(PLAIN, policy=StoragePolicy("lossless"))), InvalidRequestError)
    found = go_on(engine, replace(PLAIN, policy=StoragePolicy("none", chunk_bytes=4096)))
    assert isinstance(found, Tensor)
    # It is still the dataset's, and not the tensor's own.
    assert found.policy is None


def test_the_first_one_s_metadata_are_those_that_the_schema_sees(engine: Engine) -> None:
    engine.update_dataset("d", None, Schema(metadata={"layer": "integer"}))
    begin(engine)
    assert isinstance(go_on(engine), Tensor)


@pytest.mark.parametrize("preset", ["none", "balanced"])
class TestChecksums:
    """A checksum that was declared is verified, whichever stream declared it."""

    def test_a_right_one_of_the_first_stream_is_verified(self, engine: Engine, preset: str) -> None:
        begin(engine, replace(PLAIN, policy=StoragePolicy(preset, chunk_bytes=4096), source_checksum=CRC32C))
        assert isinstance(go_on(engine), Tensor)

    @pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.algorithm)
    def test_a_wrong_one_of_the_first_stream_is_found(self, engine: Engine, preset: str, wrong: Checksum) -> None:
        begin(engine, replace(PLAIN, policy=StoragePolicy(preset, chunk_bytes=4096), source_checksum=wrong))
        failure = go_on(engine)
        # The digest of all bytes would need what is stored.
        is_checkable = wrong.algorithm == "crc32c"
        assert isinstance(failure, ChecksumMismatchError if is_checkable else InvalidRequestError)
        assert engine.delete_tensors("d", ["t"]) == []

    def test_the_last_segment_s_wins(self, engine: Engine, preset: str) -> None:
        begin(engine, replace(PLAIN, policy=StoragePolicy(preset, chunk_bytes=4096), source_checksum=XXH3))
        assert isinstance(go_on(engine, checksum=CRC32C), Tensor)

    def test_another_one_is_refused(self, engine: Engine, preset: str) -> None:
        policy = StoragePolicy(preset, chunk_bytes=4096)
        begin(engine, replace(PLAIN, policy=policy, source_checksum=CRC32C))
        with pytest.raises(InvalidRequestError, match='source_checksum of item 0 is "crc32c 00000000"'):
            raise go_on(engine, replace(PLAIN, source_checksum=WRONG[0]))  # type: ignore[misc]  # as above

    def test_one_that_only_a_later_stream_declares_is_verified(self, engine: Engine, preset: str) -> None:
        begin(engine, replace(PLAIN, policy=StoragePolicy(preset, chunk_bytes=4096)))
        assert isinstance(go_on(engine, replace(PLAIN, source_checksum=WRONG[0])), ChecksumMismatchError)


def test_an_item_that_is_complete_is_held_to_what_was_announced_too(engine: Engine) -> None:
    begin(engine)
    first = go_on(engine)
    assert isinstance(go_on(engine, replace(FIRST, metadata={"layer": 4})), InvalidRequestError)
    again = go_on(engine)
    assert isinstance(first, Tensor)
    assert isinstance(again, Tensor)
    # It is this very insert that stored it.
    assert (again, again.outcome) == (first, Outcome.INSERTED)


def test_the_outcome_of_a_complete_item_is_remembered(engine: Engine) -> None:
    stream = engine.open_insert("d", Reports())
    stream.receive(Segment(0, 0, DATA.nbytes, last=True, tensor=PLAIN), DATA)
    stream.finish()
    begin(engine, PLAIN)
    assert getattr(go_on(engine), "outcome", None) is Outcome.ALREADY_STORED
    (item,), _, _ = engine.insert_status("request")
    assert item.tensor is not None
    assert item.tensor.outcome is Outcome.ALREADY_STORED
    assert getattr(go_on(engine), "outcome", None) is Outcome.ALREADY_STORED


def test_an_upload_of_an_older_version_goes_on_with_what_is_announced_now(engine: Engine, store: Path) -> None:
    begin(engine, replace(FIRST, policy=None, if_generation_match=None))
    engine.close()
    with apsw.Connection(str(store / "catalogue.db")) as connection:
        connection.execute("UPDATE upload SET announced = NULL")
        (row,) = connection.execute(f"SELECT {uploads._COLUMNS} FROM upload").fetchall()
        connection.execute("UPDATE upload SET row_checksum = ?", (upload_checksum(row),))
    with engine_on(store) as reopened:
        found = go_on(reopened, replace(PLAIN, metadata={"layer": 4}))
    assert isinstance(found, Tensor)
    assert found.metadata == {"layer": 4}
