"""Coarse reads: rounded values of the tensor's dtype, and a bound of their error, for every way to read."""

from __future__ import annotations

import asyncio
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tensorus
import tensorus.aio
from support.arrays import normal
from support.client import run_command
from tensorus import Client, errors
from tensorus_codecs.coarse import COARSE_ERROR
from tensorus_server.processes.server import Server

ARRAY = normal((700, 611))
SMALL = normal((20, 30))
INTEGERS = np.arange(12).reshape(3, 4)


@pytest.fixture
def stored(client: Client, dataset: str) -> str:
    client.create_dataset(dataset)
    client.insert(dataset, ARRAY, id="large")
    client.insert(dataset, SMALL, id="small")
    client.insert(dataset, ARRAY, id="raw", preset="none")
    client.insert(dataset, INTEGERS, id="integers")
    return dataset


VALUES = {"large": ARRAY, "small": SMALL, "raw": ARRAY, "integers": INTEGERS}
COARSE = {"large", "small"}


def error_of(found: np.ndarray[Any, Any], exact: np.ndarray[Any, Any]) -> float:
    return float(np.linalg.norm(found - exact.astype(np.float64)) / np.linalg.norm(exact.astype(np.float64)))


def assert_coarse_as_told(name: str, found: np.ndarray[Any, Any], coarse_error: float) -> None:
    exact = VALUES[name]
    assert (found.dtype, found.shape) == (exact.dtype, exact.shape)
    if name in COARSE:
        assert coarse_error == COARSE_ERROR
        assert 1.0e-3 < error_of(found, exact) <= 2.0e-3
    else:
        assert coarse_error == 0
        assert found.tobytes() == exact.tobytes()


@pytest.mark.parametrize("name", VALUES)
def test_get_returns_what_info_tells(client: Client, stored: str, name: str) -> None:
    found = client.get(stored, name, precision="bf16", as_="numpy")
    assert_coarse_as_told(name, found, client.info(stored, name, precision="bf16").coarse_error)


def test_get_many_tells_the_error_of_each(client: Client, stored: str) -> None:
    records = list(client.get_many(stored, VALUES, precision="bf16", as_="numpy"))
    assert [record.info.id for record in records] == list(VALUES)
    for record in records:
        assert_coarse_as_told(record.info.id, record.tensor, record.info.coarse_error)


def test_query_tells_the_error_of_each(client: Client, stored: str) -> None:
    records = list(client.query(stored, precision="bf16", as_="numpy"))
    assert len(records) == len(VALUES)
    for record in records:
        assert_coarse_as_told(record.info.id, record.tensor, record.info.coarse_error)
    infos = [record.info for record in client.query(stored, precision="bf16", with_data=False)]
    assert [info.coarse_error for info in infos] == [record.info.coarse_error for record in records]


def test_without_a_precision_nothing_is_coarse(client: Client, stored: str) -> None:
    assert client.get(stored, "large", as_="numpy").tobytes() == ARRAY.tobytes()
    assert client.info(stored, "large").coarse_error == 0
    assert {record.info.coarse_error for record in client.query(stored)} == {0}
    assert {info.coarse_error for info in client.list(stored)} == {0}


@pytest.mark.parametrize("index", [(slice(3, 50),), (slice(None, None, -7), slice(1, None, 2)), (7, 8)], ids=str)
def test_a_part_is_that_of_the_coarse_tensor(client: Client, stored: str, index: Any) -> None:
    whole = client.get(stored, "large", precision="bf16", as_="numpy")
    part = client.get(stored, "large", index=index, precision="bf16", as_="numpy")
    assert np.array_equal(part, whole[index])


def test_a_cast_to_bfloat16_loses_nothing_more(client: Client, stored: str) -> None:
    whole = client.get(stored, "large", precision="bf16", as_="numpy")
    cast = client.get(stored, "large", dtype="bfloat16", precision="bf16", as_="numpy")
    assert cast.dtype == ml_dtypes.bfloat16
    assert np.array_equal(cast.astype(np.float32), whole)


def test_progress_counts_the_bytes_of_the_values(client: Client, stored: str) -> None:
    reports: list[tensorus.Progress] = []
    client.get(stored, "large", precision="bf16", on_progress=reports.append)
    assert reports[-1].done_bytes == reports[-1].total_bytes == ARRAY.nbytes


def test_an_unknown_precision_is_refused(client: Client, stored: str) -> None:
    precision: Any = "fp8"
    for read in (
        lambda: client.get(stored, "large", precision=precision),
        lambda: client.get(stored, "large", index=0, precision=precision),
        lambda: client.info(stored, "large", precision=precision),
        lambda: client.get_many(stored, ["large"], precision=precision),
        lambda: client.query(stored, precision=precision),
    ):
        with pytest.raises(errors.InvalidRequestError, match=r"^precision is 'fp8', must be 'bf16' or None$"):
            read()


def test_the_asynchronous_client_reads_the_same(server: Server, remote: Client, dataset: str) -> None:
    remote.create_dataset(dataset)
    remote.insert(dataset, ARRAY, id="large")
    expected = remote.get(dataset, "large", precision="bf16", as_="numpy")

    async def read() -> list[tuple[np.ndarray[Any, Any], float]]:
        async with tensorus.aio.connect(server.address) as client:
            found = await client.get(dataset, "large", precision="bf16", as_="numpy")
            info = await client.info(dataset, "large", precision="bf16")
            records = [record async for record in client.get_many(dataset, ["large"], precision="bf16", as_="numpy")]
            records += [record async for record in client.query(dataset, precision="bf16", as_="numpy")]
            return [(found, info.coarse_error), *((record.tensor, record.info.coarse_error) for record in records)]

    results = asyncio.run(read())
    assert len(results) == 3
    for found, coarse_error in results:
        assert found.tobytes() == expected.tobytes()
        assert coarse_error == COARSE_ERROR


def test_the_command_line_writes_coarse_values_and_says_so(
    server: Server, remote: Client, dataset: str, tmp_path: Any
) -> None:
    remote.create_dataset(dataset)
    remote.insert(dataset, ARRAY, id="large")
    place = ["--server", server.address]
    for options, part in (([], ...), (["--index", "3:9"], slice(3, 9))):
        output = tmp_path / f"out{len(options)}.npy"
        ran = run_command("get", dataset, "large", "--precision", "bf16", "-o", output, *options, *place)
        assert ran.exit_code == 0
        assert ran.errors == "tensorus: --precision bf16: relative error at most 3.9e-03\n"
        assert np.array_equal(np.load(output), remote.get(dataset, "large", precision="bf16", as_="numpy")[part])


def test_the_command_line_says_that_nothing_is_coarse(
    server: Server, remote: Client, dataset: str, tmp_path: Any
) -> None:
    remote.create_dataset(dataset)
    remote.insert(dataset, INTEGERS, id="integers")
    ran = run_command("get", dataset, "--precision", "bf16", "-o", tmp_path / "out.npy", "--server", server.address)
    assert ran.errors == "tensorus: --precision bf16: all values are exact\n"


def test_a_precision_that_the_command_line_does_not_know_is_refused(tmp_path: Any) -> None:
    ran = run_command("get", "d", "--precision", "fp8", "-o", tmp_path / "out.npy")
    assert ran.exit_code == 2
    assert "'fp8' is not 'bf16'" in ran.errors
