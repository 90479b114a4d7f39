"""A server and a folder are the same store: every operation gives the same result, or the same error, through both."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tensorus
from support.arrays import DTYPE_NAMES, normal, random_bits
from support.client import Raised, outcome_of
from support.copying import COPYING
from support.deltas import FIRST, next_step
from tensorus import Client, NewTensor, Policy, Schema
from tensorus_codecs.presets import PRESETS

MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)
VALUES = normal((300, 200))
METADATA = {"layer": 1, "kind": "weight"}
"""Of "matrix"."""

Operation = Callable[[Client, str], Any]


def nested(depth: int, kind: type) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind is list else {"k": value}
    return value


def policy_of(**settings: Any) -> Operation:
    name = f"policy {zlib.crc32(repr(settings).encode())}"
    return lambda client, dataset: client.create_dataset(f"{dataset}/{name}", policy=Policy(**settings))


def schema_of(**settings: Any) -> Operation:
    name = f"schema {zlib.crc32(repr(settings).encode())}"
    return lambda client, dataset: client.create_dataset(f"{dataset}/{name}", schema=Schema(**settings))


def insert_of(tensor: object, **settings: Any) -> Operation:
    return lambda client, dataset: client.insert(dataset, tensor, **settings)


def metadata_of(metadata: Any) -> Operation:
    return insert_of(MATRIX, metadata=metadata)


def query_of(where: Any = None, **settings: Any) -> Operation:
    return lambda client, dataset: list(client.query(dataset, where, **settings))


def list_of(where: Any = None, **settings: Any) -> Operation:
    return lambda client, dataset: list(client.list(dataset, where, **settings))


def index_of(index: Any, **settings: Any) -> Operation:
    return lambda client, dataset: client.get(dataset, "matrix", index=index, **settings)


def append_of(values: object, tensor_id: Any = "matrix", **settings: Any) -> Operation:
    return lambda client, dataset: client.append(dataset, tensor_id, values, **settings)


def write_of(index: Any, values: object, tensor_id: Any = "matrix", **settings: Any) -> Operation:
    return lambda client, dataset: client.write(dataset, tensor_id, index, values, **settings)


def explain_of(tensor: object, **settings: Any) -> Operation:
    return lambda client, _: client.explain(tensor, **settings)


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


Outcomes = Callable[[Operation], tuple[Any, Any]]


def fill(clients: tuple[Client, Client], dataset: str) -> Outcomes:
    """Make the same dataset in both stores; return what runs an operation on both and returns both outcomes."""
    for client in clients:
        client.create_dataset(dataset)
        # One by one: the order within an insert_many is that in which the disk was ready.
        client.insert(dataset, MATRIX, id="matrix", metadata=METADATA)
        client.insert(dataset, VALUES, id="values", metadata={"layer": 2, "kind": "weight"}, preset="balanced")
        client.insert(dataset, np.float32(7), id="scalar", metadata={"layer": 3, "kind": "bias"})

    def run(operation: Operation) -> tuple[Any, Any]:
        first, second = (outcome_of(lambda client=client: operation(client, dataset)) for client in clients)
        return first, second

    return run


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
