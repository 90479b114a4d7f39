"""A server and a folder are the same store: every operation has the same result through both."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

import tensorus
from support.arrays import DTYPE_NAMES, normal, random_bits
from support.client import Raised, outcome_of
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
from support.copying import COPYING
from support.deltas import FIRST, next_step
from tensorus import Client, NewTensor, Policy, Schema
from tensorus_codecs.presets import PRESETS

CHANGES: dict[str, Operation] = {
    "create_dataset": lambda client, dataset: client.create_dataset(f"{dataset}/other", preset="fast"),
    "a policy": policy_of(preset="maximum", max_relative_error=0.5, max_absolute_error=0.25, chunk_bytes=4096),
    "an encoding": policy_of(encoding=["fp16", {"id": "zstd", "configuration": {"level": 5}}]),
    "an encoding with a default written out": policy_of(encoding=[{"id": "zstd", "configuration": {"level": 3}}]),
    "an empty encoding": policy_of(encoding=[]),
    "a schema": schema_of(dtype="int8", shape=(None, 3), metadata={"a": int, "b": float, "c": None, "d": dict}),
    "a schema of scalars": schema_of(shape=()),
    "update_dataset": lambda client, dataset: client.update_dataset(
        dataset, preset="fast", schema=Schema(dtype="int8")
    ),
    "update_dataset of nothing": lambda client, dataset: client.update_dataset(dataset),
    "delete_dataset": lambda client, dataset: client.delete_dataset(dataset),
    "insert": insert_of(VALUES, id="t", metadata={"a": 1, "b": [None, 1.0, {"c": True}]}),
    "insert with a random id": insert_of(VALUES),
    "insert of an empty tensor": insert_of(np.empty((3, 0)), id="t"),
    "insert of a big-endian tensor": insert_of(np.arange(9, dtype=">i4"), id="t"),
    "insert with a policy": insert_of(VALUES, id="t", policy=Policy(encoding=["fp16", "lz4"], chunk_bytes=8192)),
    "insert with an error contract": insert_of(VALUES, id="t", policy=Policy("int8_only", max_relative_error=1e-9)),
    "insert of what is there": insert_of(MATRIX, id="matrix"),
    "insert of what is there with its metadata": insert_of(MATRIX, id="matrix", metadata=METADATA),
    "insert of what is there by a less exact preset": insert_of(MATRIX, id="matrix", preset="maximum"),
    "insert of what is there, validated": insert_of(MATRIX, id="matrix", validate_only=True),
    "insert of what must not be there": insert_of(VALUES, id="t", if_generation_match=0),
    "insert of what must not be there twice": lambda client, dataset: [
        client.insert(dataset, VALUES, id="t", if_generation_match=0) for _ in range(2)
    ],
    "replacing other values": insert_of(VALUES, id="matrix", on_conflict="replace"),
    "replacing nothing": insert_of(VALUES, id="t", on_conflict="replace"),
    "replacing the metadata": insert_of(MATRIX, id="matrix", metadata={"layer": 9}, on_conflict="replace"),
    "replacing twice": lambda client, dataset: [
        client.insert(dataset, VALUES, id="matrix", metadata={"a": 1}, on_conflict="replace") for _ in range(2)
    ],
    "replacing a generation": lambda client, dataset: client.insert(
        dataset, VALUES, id="matrix", if_generation_match=client.info(dataset, "matrix").generation
    ),
    "replacing, validated": insert_of(VALUES, id="matrix", on_conflict="replace", validate_only=True),
    "insert_many that replaces": lambda client, dataset: client.insert_many(
        dataset, [("matrix", VALUES), ("new", VALUES)], on_conflict="replace", all_or_nothing=True
    ),
    "insert_many of one that replaces": lambda client, dataset: client.insert_many(
        dataset, [NewTensor(VALUES, "matrix", on_conflict="replace"), ("new", VALUES)], all_or_nothing=True
    ),
    "insert_many": lambda client, dataset: client.insert_many(
        dataset, [("a", VALUES[0]), NewTensor(MATRIX, "b", {"k": 1})]
    ),
    # Of values that no other operation stores, since stores share them; one at most is sent, so that the order is certain.
    "asking first": lambda client, dataset: [
        client.insert(dataset, VALUES * 3, id="a"),
        client.insert_many(dataset, [("c", VALUES * 3), ("a", VALUES * 3), ("d", VALUES * 3 + 1)], ask_first=True),
    ],
    "asking first and replacing": lambda client, dataset: [
        client.insert(dataset, VALUES * 5, id="a"),
        client.insert(dataset, VALUES[0], id="b"),
        client.insert_many(dataset, [("b", VALUES * 5), ("a", VALUES * 5)], ask_first=True, on_conflict="replace"),
    ],
    "asking first with another policy": lambda client, dataset: [
        client.insert(dataset, VALUES * 7, id="a"),
        client.insert(dataset, VALUES * 7, id="b", preset="bf16", ask_first=True),
    ],
    "metadata of NumPy's numbers": metadata_of({"a": np.int8(1), "b": np.float32(0.5), "c": [np.bool_(True)]}),
    "metadata with tuples": metadata_of({"a": (1, (2,)), "b": {"c": ()}}),
    "metadata with NaN": metadata_of({"a": [float("inf"), -0.0]}),
    "metadata as deep as allowed": metadata_of(nested(15, dict)),
    "insert with a base": lambda client, dataset: [
        client.insert(dataset, FIRST, id="step 0"),
        client.insert(dataset, next_step(FIRST, 1), id="step 1", base="step 0"),
        client.insert(dataset, next_step(FIRST, 2), id="step 0", base=(dataset, "step 1"), on_conflict="replace"),
        client.insert(dataset, MATRIX, id="small", base="matrix"),
        client.delete(dataset, "step 1"),
        client.get(dataset, "step 0", as_="numpy"),
        client.stats(dataset),
    ],
    "append": append_of(MATRIX),
    "append to a quantized tensor": append_of(VALUES, "values"),
    "append of nothing": append_of(MATRIX[:0]),
    "append along a negative axis": lambda client, dataset: [
        client.insert(dataset, MATRIX[:1], id="row"),
        client.append(dataset, "row", MATRIX[1:2], axis=-1),
        client.get(dataset, "row"),
    ],
    "append many times": lambda client, dataset: [client.append(dataset, "matrix", MATRIX[:1]) for _ in range(5)],
    "append to a generation": lambda client, dataset: client.append(
        dataset, "matrix", MATRIX, if_generation_match=client.info(dataset, "matrix").generation
    ),
    "append, and get": lambda client, dataset: [
        client.append(dataset, "values", VALUES[:7]),
        client.get(dataset, "values"),
    ],
    "write": write_of((slice(None, None, -1), ..., 2), np.arange(3, dtype=np.float32)),
    "write of a number": write_of(1, 7),
    "write of nothing": write_of(slice(3, 3), 7),
    "write into all": write_of(..., MATRIX + 1),
    "write into a scalar": write_of((), 8, "scalar"),
    "write into a quantized tensor, and get": lambda client, dataset: [
        client.write(dataset, "values", (slice(3, 90, 4), slice(5, 9)), 0.5),
        client.get(dataset, "values"),
    ],
    "update_metadata": lambda client, dataset: client.update_metadata(dataset, "matrix", {"new": [1]}),
    "delete": lambda client, dataset: client.delete(dataset, ["matrix", "nothing"]),
    "delete of nothing": lambda client, dataset: client.delete(dataset, []),
    "a dataset with a retention": lambda client, dataset: client.create_dataset(
        f"{dataset}/kept", retention=timedelta(days=7)
    ),
    "update_dataset of the retention": lambda client, dataset: [
        client.update_dataset(dataset, retention=timedelta(hours=1)),
        client.update_dataset(dataset, preset="fast"),
        client.update_dataset(dataset, retention=timedelta(0)),
    ],
    "snapshots of none": lambda client, dataset: client.snapshots(dataset),
    "snapshot, change, and read": lambda client, dataset: [
        client.snapshot(dataset, "before"),
        client.insert(dataset, VALUES, id="matrix", on_conflict="replace"),
        client.append(dataset, "values", VALUES),
        client.update_metadata(dataset, "scalar", {"layer": 33}),
        client.get(dataset, "matrix", at="before"),
        client.get(dataset, "values", index=slice(-2, None), at="before"),
        client.info(dataset, "scalar", at="before"),
        client.stats(dataset, at="before"),
        list(client.query(dataset, "layer <= 3", order_by="id desc", limit=2, at="before")),
        list(client.list(dataset, order_by="nbytes", at="before")),
        client.snapshots(dataset),
    ],
    "restore": lambda client, dataset: [
        client.snapshot(dataset, "before"),
        client.delete(dataset, "matrix"),
        client.insert(dataset, VALUES, id="new"),
        client.restore(dataset, "before", discard_newer=True),
        list(client.query(dataset, order_by="id")),
    ],
    "drop_snapshot": lambda client, dataset: [
        client.snapshot(dataset, "before"),
        client.drop_snapshot(dataset, "before"),
        client.snapshots(dataset),
    ],
    "delete_dataset with a snapshot": lambda client, dataset: [
        client.snapshot(dataset, "before"),
        client.delete_dataset(dataset, drop_snapshots=True),
    ],
}

READS: dict[str, Operation] = {
    "create_dataset that is there": lambda client, dataset: client.create_dataset(dataset, exist_ok=True),
    "dataset": lambda client, dataset: client.dataset(dataset),
    "stats": lambda client, dataset: client.stats(dataset),
    "the encodings of stats": lambda client, dataset: client.stats(dataset).encodings,
    "the shares in the ratio": lambda client, dataset: [
        (found.quantizer_ratio, found.compressor_ratio)
        for found in (client.stats(dataset), client.info(dataset, "values"))
    ],
    "get": lambda client, dataset: client.get(dataset, "matrix"),
    "get as numpy": lambda client, dataset: client.get(dataset, "matrix", as_="numpy"),
    "get of a scalar": lambda client, dataset: client.get(dataset, "scalar", as_="numpy"),
    "a part": index_of((slice(None, None, -1), ..., 2)),
    "an element": index_of((1, 2), as_="numpy"),
    "an element as torch": index_of((1, 2)),
    "a slice beyond the end": index_of(slice(1, 2**40)),
    "get_many": lambda client, dataset: list(client.get_many(dataset, ["scalar", "matrix"])),
    "get_many of nothing": lambda client, dataset: list(client.get_many(dataset, [])),
    "query": query_of(),
    "query with a filter": query_of("layer >= 1 AND kind = 'weight'", order_by="id desc"),
    "query with a dict": query_of({"layer": [1, 2], "@dtype": "float32"}),
    "query without data": query_of(with_data=False, limit=2),
    # Which tensors a seed stands for depends on their generations, which two stores give out each for itself.
    "query with a seed": lambda client, dataset: len(
        {tuple(record.info.id for record in client.query(dataset, sample=2, seed=3)) for _ in range(2)}
    ),
    "list": list_of(order_by="nbytes"),
    "list with a limit": list_of(limit=1),
    "list of none": list_of(limit=0),
    "info": lambda client, dataset: client.info(dataset, "matrix"),
    "verify of a dataset": lambda client, dataset: client.verify(dataset),
    "verify of some": lambda client, dataset: client.verify(dataset, ["matrix", "values"], max_bytes_per_second=10**9),
    "explain": explain_of(VALUES),
    "explain of no policies": explain_of(MATRIX, policies=[]),
    "explain of some policies": explain_of(
        VALUES,
        policies=[
            "maximum",
            Policy(encoding=["fp16", {"id": "zstd", "configuration": {"level": 5}}], chunk_bytes=4096),
        ],
    ),
    "explain with an error contract": explain_of(VALUES, policies=[Policy("int8_only", max_relative_error=1e-9)]),
    "explain of an iterator": lambda client, _: client.explain(VALUES, policies=iter(["none", "fast"])),
    "explain of integers": explain_of(np.arange(1000), policies=["lossless", Policy(encoding=["fp16"])]),
    "explain of a transposed tensor": explain_of(VALUES.T[::2], policies=["lossless"]),
    "explain of a scalar": explain_of(np.float32(7), policies=["none"]),
    "explain of an empty tensor": explain_of(np.empty((3, 0))),
}


def _listed(found: Any) -> Any:
    return list(found) if isinstance(found, Iterator) else found


@pytest.fixture
def both(remote: Client, embedded: Client, dataset: str) -> Outcomes:
    """Two datasets of this test alone."""
    return fill((remote, embedded), dataset)


@pytest.fixture(scope="module")
def both_unchanged(remote: Client, embedded: Client) -> Outcomes:
    """Two datasets of the tests that change nothing."""
    return fill((remote, embedded), "congruence")


@pytest.mark.parametrize("operation", CHANGES.values(), ids=CHANGES)
def test_both_make_the_same_of_a_change(both: Outcomes, operation: Operation) -> None:
    remotely, embedded = both(operation)
    assert remotely == embedded
    assert not isinstance(embedded, Raised)


@pytest.mark.parametrize("operation", READS.values(), ids=READS)
def test_both_read_the_same(both_unchanged: Outcomes, operation: Operation) -> None:
    remotely, embedded = both_unchanged(operation)
    assert remotely == embedded
    assert not isinstance(embedded, Raised)


def test_both_make_the_same_of_copies(both: Outcomes) -> None:
    outcomes = {}
    for name, operation in COPYING.items():
        remotely, embedded = both(lambda client, d, made=operation: _listed(made(client, d)))
        assert remotely == embedded, name
        outcomes[name] = embedded
    refused = [name for name, outcome in outcomes.items() if isinstance(outcome, Raised)]
    assert len(refused) == 29, refused


@pytest.mark.parametrize("preset", PRESETS)
def test_both_store_every_dtype_in_the_same_bytes(both: Outcomes, preset: str) -> None:
    def operation(client: Client, dataset: str) -> Any:
        uploads = []
        for number, dtype in enumerate(DTYPE_NAMES):
            array = random_bits(dtype, (70, 90), number)
            if array.dtype.kind not in "iub":
                array = normal((70, 90), seed=number).astype(array.dtype)
            uploads.append(NewTensor(array, dtype, policy=Policy(preset=preset, chunk_bytes=4096)))
        # Large ones are committed when they are durable, so that their order is up to the disk.
        return [dataclasses.replace(info, ordinal=0) for info in client.insert_many(dataset, uploads)]

    remotely, embedded = both(operation)
    assert not isinstance(embedded, Raised)
    assert remotely == embedded


def test_both_are_in_the_same_state_after_the_same_operations(
    both: Outcomes,
) -> None:
    def operation(client: Client, dataset: str) -> Any:
        client.update_dataset(dataset, preset="fast", schema=Schema(metadata={"layer": int}))
        outcome_of(lambda: client.insert(dataset, VALUES, id="refused"))
        client.insert(dataset, VALUES[:50], id="new", metadata={"layer": 9})
        client.delete(dataset, ["matrix"])
        client.insert(dataset, MATRIX + 1, id="matrix", metadata={"layer": 0})
        client.update_metadata(dataset, "scalar", {"layer": -1})
        return [
            client.dataset(dataset),
            list(client.list(dataset)),
            list(client.query(dataset, "layer < 5", order_by="id")),
            client.stats(dataset),
        ]

    remotely, embedded = both(operation)
    assert not isinstance(embedded, Raised)
    assert remotely == embedded


def test_generations_tell_versions_apart_in_both(remote: Client, embedded: Client, dataset: str) -> None:
    for client in (remote, embedded):
        client.create_dataset(dataset)
        first = client.insert(dataset, MATRIX, id="t")
        client.delete(dataset, "t")
        second = client.insert(dataset, MATRIX, id="t")
        assert second.generation > first.generation
        assert second.created >= first.created


def test_ordinals_number_a_datasets_tensors_in_both(remote: Client, embedded: Client, dataset: str) -> None:
    for client in (remote, embedded):
        client.create_dataset(dataset)
        validated = client.insert(dataset, MATRIX, id="a", validate_only=True)
        first, second = (client.insert(dataset, MATRIX, id=name) for name in "ab")
        client.update_metadata(dataset, "a", {"new": 1})
        client.delete(dataset, "b")
        third = client.insert(dataset, MATRIX, id="b")
        assert [info.ordinal for info in (validated, first, second, third)] == [0, 1, 2, 3]
        assert [(info.id, info.ordinal) for info in client.list(dataset)] == [("a", 1), ("b", 3)]


def test_the_two_kinds_of_client_are_one_class(remote: Client, embedded: Client) -> None:
    assert type(remote) is type(embedded) is tensorus.Client
