"""A server and a folder are the same store: both refuse the same operations, with the same errors."""

from __future__ import annotations

from datetime import timedelta

import ml_dtypes
import numpy as np
import pytest

from support.client import Raised
from support.congruence import (
    MATRIX,
    METADATA,
    VALUES,
    Operation,
    Outcomes,
    append_of,
    explain_of,
    fill,
    index_of,
    insert_of,
    list_of,
    metadata_of,
    nested,
    policy_of,
    query_of,
    schema_of,
    write_of,
)
from tensorus import Client, NewTensor, Policy

ERRORS: dict[str, Operation] = {
    "what is there with other metadata": insert_of(MATRIX, id="matrix", metadata={"layer": 2}),
    "what is there with metadata of another type": insert_of(MATRIX, id="matrix", metadata={**METADATA, "layer": 1.0}),
    "what is there less exactly than the preset": insert_of(VALUES, id="values", preset="lossless"),
    "what is there less exactly than the dataset's policy": insert_of(VALUES, id="values"),
    "what is there less exactly than the contract": insert_of(
        VALUES, id="values", policy=Policy("balanced", max_relative_error=1e-9)
    ),
    "what is there, validated": insert_of(VALUES, id="values", preset="lossless", validate_only=True),
    "what must not be there": insert_of(VALUES, id="matrix", if_generation_match=0),
    "two ways to replace": insert_of(VALUES, id="matrix", if_generation_match=5, on_conflict="replace"),
    "an unknown way to replace": insert_of(VALUES, id="matrix", on_conflict="overwrite"),
    "another of many under a taken id": lambda client, dataset: client.insert_many(
        dataset, [("matrix", VALUES)], all_or_nothing=True
    ),
    "create_dataset that is there": lambda client, dataset: client.create_dataset(dataset),
    "a dataset without a name": lambda client, _: client.create_dataset(""),
    "a dataset's name that is no Unicode": lambda client, _: client.create_dataset("\ud800"),
    "a dataset that is not there": lambda client, _: client.dataset("nowhere"),
    "get_many of nothing from nowhere": lambda client, _: list(client.get_many("nowhere", [])),
    "delete of nothing from nowhere": lambda client, _: client.delete("nowhere", []),
    "insert_many of nothing into nowhere": lambda client, _: client.insert_many("nowhere", []),
    "an append to nothing": append_of(MATRIX, "nothing"),
    "a base of another dtype": insert_of(MATRIX.astype(np.float64), base="matrix"),
    "a base of another shape": insert_of(MATRIX[:1], base="matrix"),
    "a base that is not there": insert_of(MATRIX, base="nothing"),
    "a base of a state that is not there": lambda client, dataset: client.insert(
        dataset, MATRIX, base=(dataset, "matrix", "no snapshot")
    ),
    "a base of a dataset that is not there": insert_of(MATRIX, base=("nowhere", "matrix")),
    "a base of another kind": insert_of(MATRIX, base=[1]),
    "a base of an explanation without a dataset": explain_of(MATRIX, base="matrix"),
    "an append to nowhere": lambda client, _: client.append("nowhere", "t", MATRIX),
    "an append of another dtype": append_of(MATRIX.astype(np.float64)),
    "an append of another width": append_of(np.zeros((1, 5), np.float32)),
    "an append of another rank": append_of(np.zeros(4, np.float32)),
    "an append along an inner axis": append_of(MATRIX, axis=1),
    "an append along no axis": append_of(MATRIX, axis=2),
    "an append along an axis beyond 32 bits": append_of(MATRIX, axis=2**31),
    "an append to a scalar": append_of(np.float32(1), "scalar"),
    "an append of no array": append_of([[1.0] * 4]),
    "an append to an id that is a number": append_of(MATRIX, 5),
    "a write into nothing": write_of(0, 1, "nothing"),
    "a write beyond the end": write_of(slice(2, 4), 1),
    "a write at an element out of bounds": write_of(3, 1),
    "a write of another shape": write_of(0, np.zeros(3, np.float32)),
    "a write of another dtype": write_of(0, np.zeros(4, np.float64)),
    "a write of no array": write_of(0, [1.0] * 4),
    "a write by no index": write_of([0], 1),
    "a write into more axes than the tensor has": write_of((0, 0, 0), 1),
    "a write of a number that the dtype does not have": write_of(0, 1 + 2j),
    "a preset": policy_of(preset="zip"),
    "preset and encoding": policy_of(preset="fast", encoding=["zstd"]),
    "a codec": policy_of(encoding=["middle_out"]),
    "codecs out of order": policy_of(encoding=["zstd", "planes"]),
    "a step without an id": policy_of(encoding=[{"codec": "zstd"}]),
    "a setting beside the configuration": policy_of(encoding=[{"id": "zstd", "level": 5}]),
    "a setting that there is not": policy_of(encoding=[{"id": "zstd", "configuration": {"speed": 1}}]),
    "a setting that is too large": policy_of(encoding=[{"id": "zstd", "configuration": {"level": 99}}]),
    "a configuration that is no mapping": policy_of(encoding=[{"id": "zstd", "configuration": 5}]),
    "a size of chunks": policy_of(chunk_bytes=5000),
    "a size of chunks of zero": policy_of(chunk_bytes=0),
    "a negative size of chunks": policy_of(chunk_bytes=-16),
    "a size of chunks beyond 32 bits": policy_of(chunk_bytes=2**32),
    "a negative error": policy_of(max_absolute_error=-1.0),
    "an error of NaN": policy_of(max_relative_error=float("nan")),
    "a schema's dtype": schema_of(dtype="float31"),
    "a schema's shape": schema_of(shape=(-2,)),
    "a schema's rank": schema_of(shape=(1,) * 33),
    "a schema's type": schema_of(metadata={"k": set}),
    "update_dataset to an unknown preset": lambda client, dataset: client.update_dataset(dataset, preset="zip"),
    "another tensor under a taken id": insert_of(VALUES, id="matrix"),
    "an empty id": insert_of(VALUES, id=""),
    "a long id": insert_of(VALUES, id="a" * 513),
    "an id with a newline": insert_of(VALUES, id="a\nb"),
    "an id that is no Unicode": insert_of(VALUES, id="\ud800"),
    "more axes than allowed": insert_of(np.zeros((1,) * 33), id="t"),
    "no tensor": insert_of([1, 2]),
    "a dtype outside the contract": insert_of(np.array(["a"])),
    "another dtype outside the contract": insert_of(np.zeros(3, ml_dtypes.int4)),
    "an insert's preset": insert_of(VALUES, id="t", preset="zip"),
    "an insert's codec": insert_of(VALUES, id="t", policy=Policy(encoding=["middle_out"])),
    "an insert's setting beside the configuration": insert_of(
        VALUES, id="t", policy=Policy(encoding=[{"id": "zstd", "level": 5}])
    ),
    "metadata that is no mapping": metadata_of([1]),
    "new metadata that is no mapping": lambda client, dataset: client.update_metadata(dataset, "matrix", 5),  # type: ignore[arg-type]
    "an insert's id that is a number": insert_of(VALUES, id=5),
    "metadata with an object": metadata_of({"k": {1}}),
    "metadata with an object inside": metadata_of({"k": [{"j": {1}}]}),
    "metadata with a number as key": metadata_of({1: 2}),
    "metadata with a large integer": metadata_of({"k": 2**63}),
    "metadata that is no Unicode": metadata_of({"k": "\ud800"}),
    "metadata with an array of one": metadata_of({"k": np.arange(1)}),
    "metadata with an array": metadata_of({"k": np.arange(3)}),
    "metadata that is too large": metadata_of({"k": "x" * 70_000}),
    "metadata that is too large for a message": metadata_of({"k": "x" * 5_000_000}),
    "metadata that is too deep": metadata_of({"k": nested(17, list)}),
    "metadata that is too deep for protobuf": metadata_of({"k": nested(60, dict)}),
    "metadata with a long key": metadata_of({"k" * 2000: 1}),
    "some of many": lambda client, dataset: client.insert_many(
        dataset, [("a", VALUES), ("matrix", VALUES), NewTensor(VALUES, "b", policy=Policy("zip"))]
    ),
    "a tensor that is not there": lambda client, dataset: client.get(dataset, "nothing"),
    "info of nothing": lambda client, dataset: client.info(dataset, "nothing"),
    "an id that is no Unicode to read": lambda client, dataset: client.get(dataset, "\ud800"),
    "get_many with one that is not there": lambda client, dataset: list(
        client.get_many(dataset, ["matrix", "nothing"])
    ),
    "verify of nothing": lambda client, dataset: client.verify(dataset, ["matrix", "nothing"]),
    "verify of too many": lambda client, dataset: client.verify(dataset, ["matrix"] * 10_001),
    "verify at no rate": lambda client, dataset: client.verify(dataset, max_bytes_per_second=0),
    "verify of an id that is no Unicode": lambda client, dataset: client.verify(dataset, "\ud800"),
    "explain of no tensor": explain_of([1, 2]),
    "explain of an unknown preset": explain_of(MATRIX, policies=["fast", "zip"]),
    "explain of an unknown codec": explain_of(MATRIX, policies=[Policy(encoding=["middle_out"])]),
    "explain of too many policies": explain_of(np.empty(0), policies=["fast"] * 33),
    "explain of a policy that is none": explain_of(MATRIX, policies=[5]),
    "explain of one name": explain_of(MATRIX, policies="fast"),
    "explain of a negative error": explain_of(MATRIX, policies=[Policy(max_absolute_error=-1.0)]),
    "explain of preset and encoding": explain_of(MATRIX, policies=[Policy("fast", encoding=["zstd"])]),
    "an element out of bounds": index_of((0, 4)),
    "an element beyond 64 bits": index_of(2**63),
    "more axes than the tensor has": index_of((0, 0, 0)),
    "a step of zero": index_of(slice(None, None, 0)),
    "no index": index_of([0]),
    "no kind of array": lambda client, dataset: client.get(dataset, "matrix", as_="jax"),  # type: ignore[arg-type]
    "an id that is a number": lambda client, dataset: client.get(dataset, 5),  # type: ignore[arg-type]
    "a filter": query_of("layer =="),
    "a filter in a list": list_of("layer =="),
    "a filter that is no Unicode": query_of('k = "\ud800"'),
    "a filter with an unknown property": query_of("@size > 1"),
    "a filter that is too deep": query_of("(" * 9 + "a = 1" + ")" * 9),
    "a filter that is too long": query_of("a = 1 AND " * 10_000 + "b = 2"),
    "an order": query_of(order_by="size"),
    "an order of a list": list_of(order_by="size"),
    "sample and order": query_of(sample=1, order_by="id"),
    "metadata of nothing": lambda client, dataset: client.update_metadata(dataset, "nothing", {}),
    "a retention below zero": lambda client, dataset: client.update_dataset(dataset, retention=timedelta(seconds=-1)),
    "a retention of half a second": lambda client, dataset: client.update_dataset(
        dataset, retention=timedelta(seconds=0.5)
    ),
    "a retention as long as Python has one": lambda client, _: client.create_dataset("t", retention=timedelta.max),
    "a retention that is a number": lambda client, _: client.create_dataset("t", retention=7),  # type: ignore[arg-type]
    "a snapshot of nowhere": lambda client, _: client.snapshot("nowhere", "s"),
    "a snapshot with an empty name": lambda client, dataset: client.snapshot(dataset, ""),
    "a snapshot with a long name": lambda client, dataset: client.snapshot(dataset, "s" * 129),
    "a snapshot that is a generation": lambda client, dataset: client.snapshot(dataset, "17"),
    "a snapshot that is a time": lambda client, dataset: client.snapshot(dataset, "2026-01-31T12:00Z"),
    "a snapshot of another dataset": lambda client, dataset: client.snapshot(dataset, "other@s"),
    "a snapshot that is no Unicode": lambda client, dataset: client.snapshot(dataset, "\ud800"),
    "dropping a snapshot that is not there": lambda client, dataset: client.drop_snapshot(dataset, "s"),
    "a snapshot that is not there": lambda client, dataset: client.get(dataset, "matrix", at="s"),
    "many at a snapshot that is not there": lambda client, dataset: list(client.get_many(dataset, [], at="s")),
    "a query at a snapshot that is not there": query_of(at="s"),
    "a list at a snapshot that is not there": list_of(at="s"),
    "stats at a snapshot that is not there": lambda client, dataset: client.stats(dataset, at="s"),
    "a restore of a snapshot that is not there": lambda client, dataset: client.restore(dataset, "s"),
    "a state of nowhere": lambda client, _: client.stats("nowhere", at=1),
    "a state that is not reached": query_of(at=2**63),
    "a state that no store reaches": lambda client, dataset: client.get(dataset, "matrix", at=2**64 - 1),
    "a generation beyond 64 bits": query_of(at=2**64),
    "a negative generation": list_of(at=-1),
    "a state that is true": lambda client, dataset: client.info(dataset, "matrix", at=True),
    "a state that is a fraction": query_of(at=0.5),
    "a restore of no state": lambda client, dataset: client.restore(dataset, None),  # type: ignore[arg-type]
    "an insert at a state": insert_of(MATRIX, id="t", at=1),
    "an append at a state": append_of(MATRIX, at=1),
    "a write at a state": write_of(0, 1, at=1),
    "new metadata with an object": lambda client, dataset: client.update_metadata(dataset, "matrix", {"k": {1}}),
    "new metadata that is too large for a message": lambda client, dataset: client.update_metadata(
        dataset, "matrix", {"k": "x" * 5_000_000}
    ),
}

AT_THE_EDGE: dict[str, Operation] = {
    "query with a negative seed": query_of(sample=2, seed=-3),
    "query with a large seed": query_of(sample=2, seed=2**64),
    "list with a negative limit": list_of(limit=-1),
    "delete of more than one request may have": lambda client, dataset: client.delete(dataset, ["nothing"] * 10_001),
    "a schema's size beyond 64 bits": schema_of(shape=(2**63,)),
    "query with a negative limit": query_of(limit=-1),
    "query with a negative sample": query_of(sample=-1),
}
"""What a store may take or refuse, as long as both do the same."""


@pytest.fixture(scope="module")
def both_unchanged(remote: Client, embedded: Client) -> Outcomes:
    """Two datasets of the tests that change nothing."""
    return fill((remote, embedded), "congruence of errors")


@pytest.mark.parametrize("operation", ERRORS.values(), ids=ERRORS)
def test_both_raise_the_same_error(both_unchanged: Outcomes, operation: Operation) -> None:
    remotely, embedded = both_unchanged(operation)
    assert remotely == embedded
    assert isinstance(embedded, Raised)


@pytest.mark.parametrize("operation", AT_THE_EDGE.values(), ids=AT_THE_EDGE)
def test_both_take_it_or_both_refuse_it(both_unchanged: Outcomes, operation: Operation) -> None:
    remotely, embedded = both_unchanged(operation)
    assert remotely == embedded
    assert not isinstance(embedded, Raised) or embedded.kind.startswith("tensorus.errors.")
