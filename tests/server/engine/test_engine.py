"""The engine as a whole: datasets, metadata, deletions, and an end that leaves nothing open."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.chunk_store_raw import RawFolder
from contract.codec_chunks import encoding_of
from support.arrays import normal, random_bits
from support.cases import each
from support.engine import Reports, find, insert, read, send
from support.faults import FailingCommits, open_descriptors
from support.servers import engine_config
from tensorus_codecs.errors import InvalidPolicyError, UnsupportedDTypeError
from tensorus_codecs.policy import StoragePolicy
from tensorus_codecs.presets import PRESETS
from tensorus_server.app import open_engine
from tensorus_server.catalogue.abc import Order
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.footer import read_footer
from tensorus_server.errors import (
    AlreadyExistsError,
    DatasetNotFoundError,
    InvalidMetadataError,
    InvalidNameError,
    LimitExceededError,
    SchemaMismatchError,
    StoreUnavailableError,
    TensorNotFoundError,
)
from tensorus_server.limits import IDS_PER_DELETE_MAX
from tensorus_server.model import Schema, Tensor


class TestDatasets:
    """Created with checks, and changed for later inserts alone."""

    def test_a_dataset_has_the_default_policy_and_takes_anything(self, engine: Engine) -> None:
        created = engine.create_dataset("new")
        assert (created.policy, created.schema) == (StoragePolicy(), Schema())
        assert engine.get_dataset("new") == created
        assert [dataset.name for dataset in engine.list_datasets()[0]] == ["d", "new"]

    def test_a_name_is_checked(self, engine: Engine) -> None:
        with pytest.raises(InvalidNameError):
            engine.create_dataset("../escape")
        with pytest.raises(AlreadyExistsError):
            engine.create_dataset("d")
        assert len(engine.list_datasets()[0]) == 1

    def test_a_schema_is_checked_when_it_is_given(self, engine: Engine) -> None:
        for schema, error in (
            (Schema(dtype="x"), UnsupportedDTypeError),
            (Schema(metadata={"a": "x"}), InvalidMetadataError),
        ):
            with pytest.raises(error):
                engine.create_dataset("new", None, schema)
            with pytest.raises(error):
                engine.update_dataset("d", None, schema)
        assert engine.get_dataset("d").schema == Schema()

    def test_a_quantizer_that_leaves_the_schemas_dtype_alone_is_refused_when_it_is_set(self, engine: Engine) -> None:
        int8 = StoragePolicy(encoding=encoding_of("int8_block", "zstd"))
        message = r"quantizer int8_block, which does not apply to bool, the dtype of the schema \[dataset=new\]$"
        with pytest.raises(InvalidPolicyError, match=message):
            engine.create_dataset("new", int8, Schema(dtype="bool"))
        engine.create_dataset("new", None, Schema(dtype="bool"))
        with pytest.raises(InvalidPolicyError, match=message):
            engine.update_dataset("new", int8, None)
        engine.create_dataset("other", int8)
        with pytest.raises(InvalidPolicyError, match="does not apply to int32"):
            engine.update_dataset("other", None, Schema(dtype="int32"))
        assert engine.update_dataset("other", None, Schema(dtype="float16")).policy == int8
        assert engine.get_dataset("new").policy == StoragePolicy()

    def test_an_update_touches_later_inserts_alone(self, engine: Engine) -> None:
        array = normal((1000,))
        insert(engine, "d", "before", array)
        engine.update_dataset("d", StoragePolicy(preset="maximum"), Schema(dtype="float32"))
        insert(engine, "d", "after", array)
        assert np.array_equal(read(engine, "d", "before"), array)
        assert (find(engine, "d", "before").storage.lossy, find(engine, "d", "after").storage.lossy) == (False, True)
        with pytest.raises(SchemaMismatchError):
            insert(engine, "d", "other", array.astype(np.float64))

    def test_a_deleted_dataset_is_gone_at_once(self, engine: Engine) -> None:
        insert(engine, "d", "t", np.zeros(3))
        assert engine.delete_dataset("d") == 1
        for call in (engine.get_dataset, engine.dataset_stats, engine.delete_dataset):
            with pytest.raises(DatasetNotFoundError):
                call("d")

    def test_stats_are_of_what_is_stored(self, engine: Engine, raw: RawFolder) -> None:
        insert(engine, "d", "a", random_bits("uint8", (100_000,)))
        insert(engine, "d", "b", random_bits("uint8", (100,)))
        stats = engine.dataset_stats("d")
        inline = find(engine, "d", "b").inline_payload
        assert inline is not None
        ((_, data),) = raw.published().items()
        payload_bytes = read_footer(lambda offset, length: data[offset : offset + length], len(data)).payload_bytes
        assert stats.stored_bytes == payload_bytes + len(inline)
        assert (stats.tensors, stats.canonical_bytes) == (2, 100_100)


class TestMetadata:
    """Replaced as a whole, within the limits and the schema."""

    def test_it_is_replaced_and_nothing_else_changes(self, engine: Engine) -> None:
        before = insert(engine, "d", "t", np.arange(3), metadata={"a": 1})
        updated = engine.update_metadata("d", "t", {"b": 2})
        assert updated.metadata == {"b": 2}
        assert engine.get_tensor("d", "t") == updated
        assert (updated.generation, updated.locator) == (before.generation, before.locator)
        assert np.array_equal(read(engine, "d", "t"), np.arange(3))

    def test_it_is_checked(self, engine: Engine) -> None:
        insert(engine, "d", "t", np.arange(3), metadata={"a": 1})
        with pytest.raises(InvalidMetadataError, match="tensor=t"):
            engine.update_metadata("d", "t", {"a": b"x"})
        assert engine.get_tensor("d", "t").metadata == {"a": 1}

    def test_it_must_fit_the_schema_as_it_is_now(self, engine: Engine) -> None:
        insert(engine, "d", "t", np.arange(3), metadata={"a": 1})
        # Its dtype and shape never change: what the schema says of them now does not concern it.
        engine.update_dataset("d", None, Schema(dtype="int8", shape=(4,), metadata={"b": "text"}))
        with pytest.raises(SchemaMismatchError, match="metadata has no 'b'"):
            engine.update_metadata("d", "t", {"a": 2})
        assert engine.update_metadata("d", "t", {"b": "x"}).metadata == {"b": "x"}

    @pytest.mark.parametrize("schema", [Schema(), Schema(metadata={"a": "any"})], ids=["without", "with"])
    def test_of_a_tensor_that_is_not_there_it_cannot_be_replaced(self, engine: Engine, schema: Schema) -> None:
        engine.update_dataset("d", None, schema)
        with pytest.raises(TensorNotFoundError, match=r"\[dataset=d, tensor=no\]"):
            engine.update_metadata("d", "no", {"a": 1})
        with pytest.raises(DatasetNotFoundError, match="dataset=no"):
            engine.update_metadata("no", "t", {"a": 1})


class TestDeletion:
    """Gone at once; the payload follows after the grace."""

    def test_it_returns_what_existed(self, engine: Engine) -> None:
        for name in "abc":
            insert(engine, "d", name, np.zeros(3))
        assert engine.delete_tensors("d", ["c", "no", "a"]) == ["c", "a"]
        for name in "ac":
            with pytest.raises(TensorNotFoundError):
                engine.get_tensor("d", name)
        assert [tensor.id for tensor in engine.list_tensors("d", None, Order())[0]] == ["b"]

    def test_it_has_a_limit(self, engine: Engine) -> None:
        assert engine.delete_tensors("d", ["x"] * IDS_PER_DELETE_MAX) == []
        message = r"number of ids is 10001, limit is 10000 \(ids_per_delete_max\) \[dataset=d\]"
        with pytest.raises(LimitExceededError, match=message):
            engine.delete_tensors("d", ["x"] * (IDS_PER_DELETE_MAX + 1))

    def test_a_dataset_that_is_not_there_is_named(self, engine: Engine) -> None:
        with pytest.raises(DatasetNotFoundError, match="dataset=no"):
            engine.delete_tensors("no", ["x"])
        with pytest.raises(DatasetNotFoundError, match="dataset=no"):
            engine.get_tensor("no", "x")


EXTREME: dict[str, Any] = {
    "float64 whose squares overflow": np.linspace(1e200, 2e200, 1000),
    "float64 near the largest": np.full(1000, 1.7e308),
    "float64 near zero": np.full(1000, 5e-324),
    "float32 near the largest": np.full(1000, 3.4e38, np.float32),
    "all NaN": np.full(1000, np.nan, np.float32),
    "all infinite": np.full(1000, -np.inf, np.float64),
    "both signs of what overflows": np.array([1.7e308, -1.7e308] * 500),
}


@each("preset", PRESETS)
@each("name", EXTREME)
def test_values_of_any_magnitude_can_be_stored_with_every_preset(engine: Engine, preset: str, name: str) -> None:
    # A measurement that overflows must not cost the tensor, nor the others of its commit group.
    reports = Reports()
    stream = engine.open_insert("d", reports)
    send(stream, 0, f"{name}, {preset}", EXTREME[name], policy=StoragePolicy(preset=preset))
    send(stream, 1, f"beside {name}, {preset}", np.zeros(3))
    assert stream.finish() == (2, 0)
    report = reports.tensor(0).storage
    assert not math.isnan(report.relative_error)
    assert not math.isnan(report.max_absolute_error)
    assert read(engine, "d", f"{name}, {preset}").shape == EXTREME[name].shape


class TestLife:
    """Opened, closed, opened again."""

    def test_everything_is_there_after_a_reopening(self, tmp_path: Path) -> None:
        config = engine_config(tmp_path / "store")
        arrays = {"small": random_bits("uint8", (100,)), "large": random_bits("uint8", (200_000,))}
        engine = open_engine(config)
        engine.create_dataset("d", StoragePolicy(preset="none"), Schema(dtype="uint8"))
        tensors = [insert(engine, "d", name, array, metadata={"a": name}) for name, array in arrays.items()]
        engine.close()
        engine = open_engine(config)
        assert [engine.get_tensor("d", name) for name in arrays] == tensors
        assert all(np.array_equal(read(engine, "d", name), array) for name, array in arrays.items())
        engine.close()

    def test_two_engines_use_one_store(self, tmp_path: Path) -> None:
        config = engine_config(tmp_path / "store")
        first, second = open_engine(config), open_engine(config)
        first.create_dataset("d", StoragePolicy(preset="none"))
        array = random_bits("uint8", (200_000,))
        insert(first, "d", "a", array)
        insert(second, "d", "b", array)
        assert np.array_equal(read(second, "d", "a"), array)
        first.delete_tensors("d", ["b"])
        with pytest.raises(TensorNotFoundError):
            second.get_tensor("d", "b")
        first.close()
        assert np.array_equal(read(second, "d", "a"), array)
        second.close()

    def test_closing_leaves_no_descriptor_and_no_thread(self, tmp_path: Path) -> None:
        before = {thread.ident for thread in threading.enumerate()}
        engine = open_engine(engine_config(tmp_path / "store"))
        engine.create_dataset("d")
        insert(engine, "d", "t", random_bits("uint8", (200_000,)))
        engine.close()
        engine.close()
        assert open_descriptors(tmp_path) == []
        assert {thread.ident for thread in threading.enumerate()} <= before
        assert list((tmp_path / "store" / "tmp").iterdir()) == []

    def test_a_failed_catalogue_takes_no_more_inserts(self, engine: Engine) -> None:
        import apsw  # noqa: PLC0415 - for this alone

        insert(engine, "d", "before", random_bits("uint8", (200_000,)))
        database = engine._catalogue._database  # type: ignore[attr-defined]
        database._writer = FailingCommits(database._writer, apsw.IOError("disk I/O error"), committed=True)
        with pytest.raises(StoreUnavailableError, match="outcome of a commit is unknown"):
            insert(engine, "d", "t", random_bits("uint8", (200_000,)))
        with pytest.raises(StoreUnavailableError, match="takes no more writes until a restart"):
            engine.check_writable()
        with pytest.raises(StoreUnavailableError, match="takes no more writes until a restart"):
            engine.open_insert("d", Reports())
        assert read(engine, "d", "before").size == 200_000
        database._writer = database._writer._connection

    def test_a_tensor_whose_commit_had_an_unknown_outcome_is_there_as_a_whole_or_not_at_all(
        self, tmp_path: Path
    ) -> None:
        import apsw  # noqa: PLC0415 - for this alone

        array = random_bits("uint8", (200_000,))
        for committed in (True, False):
            config = engine_config(tmp_path / f"{committed}")
            engine = open_engine(config)
            engine.create_dataset("d", StoragePolicy(preset="none"))
            database = engine._catalogue._database  # type: ignore[attr-defined]
            writer = database._writer
            database._writer = FailingCommits(writer, apsw.IOError("disk I/O error"), committed=committed)
            with pytest.raises(StoreUnavailableError):
                insert(engine, "d", "t", array)
            database._writer = writer
            engine.close()
            engine = open_engine(config)
            engine.sweep()
            if committed:
                assert np.array_equal(read(engine, "d", "t"), array)
            # Sent again, it is there once.
            assert isinstance(insert(engine, "d", "t", array), Tensor)
            assert engine.dataset_stats("d").tensors == 1
            assert np.array_equal(read(engine, "d", "t"), array)
            engine.close()

    @pytest.mark.parametrize("obstacle", ["a file", "a folder that is a file below"])
    def test_a_store_that_cannot_be_opened_says_why(self, tmp_path: Path, obstacle: str) -> None:
        folder = tmp_path / "store"
        if obstacle == "a file":
            folder.write_bytes(b"x")
        else:
            folder.mkdir()
            (folder / "chunks").write_bytes(b"x")
        with pytest.raises(
            StoreUnavailableError, match=f"cannot open a store in {folder}: (File exists|Not a directory)"
        ):
            open_engine(engine_config(folder))
        assert open_descriptors(tmp_path) == []
