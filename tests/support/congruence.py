"""Operations of any client, and the outcomes of one on a server and on a folder with the same dataset."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from support.arrays import normal
from support.client import outcome_of
from tensorus import Client, Policy, Schema

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
