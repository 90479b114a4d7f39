"""One damaged row of twenty: every call names it, the nineteen others go on, and it can be replaced and deleted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorus
import tensorus.aio
from support.client import run_command
from support.servers import engine_config, running_server
from tensorus.embedded import EmbeddedBackend
from tensorus.errors import DataCorruptError, InsertManyError
from tensorus_server.engine.engine import Engine

DAMAGES = [
    pytest.param("index_crc = index_crc + 1", id="a locator"),
    pytest.param("metadata = 'no json'", id="metadata that do not parse"),
    pytest.param("metadata = CAST(x'7b22ff227d' AS TEXT)", id="metadata that are not UTF-8"),
    pytest.param("relative_error = 0.5", id="another error"),
]
"""Of each kind one; the catalogue's own tests change every column."""

OTHERS = [f"t{number}" for number in range(20) if number != 5]


def array(number: int) -> np.ndarray[Any, Any]:
    return np.full((4,), number, np.float32)


pytestmark = pytest.mark.usefixtures("few_shards")


@pytest.fixture(scope="module", params=["remote", "embedded"])
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[tensorus.Client, Engine]]:
    """A client of a store of these tests alone, and the engine behind it."""
    folder = tmp_path_factory.mktemp("store") / "store"
    if request.param == "embedded":
        backend = EmbeddedBackend(folder, engine_config)
        with tensorus.Client(backend) as client:
            yield client, backend._engine
        return
    with running_server(folder) as server, tensorus.connect(server.address) as client:
        yield client, server._engine


@pytest.fixture(params=DAMAGES)
def client(request: pytest.FixtureRequest, opened: tuple[tensorus.Client, Engine], dataset: str) -> tensorus.Client:
    """The client, with twenty tensors under `dataset`, after the row of t5 was damaged."""
    client, engine = opened
    client.create_dataset(dataset)
    client.insert_many(dataset, [tensorus.NewTensor(array(n), f"t{n}", {"n": n}) for n in range(20)])
    change(engine, f"UPDATE tensor SET {request.param} WHERE id = 't5' AND {OF_DATASET}", dataset)
    return client


OF_DATASET = "ds = (SELECT ds FROM dataset WHERE name = ?)"


def change(engine: Engine, statement: str, dataset: str) -> None:
    """Change a row behind the engine's back."""
    with engine._catalogue._database.write() as connection:  # type: ignore[attr-defined]
        connection.execute(statement, (dataset,))
        assert connection.changes() == 1


def names_t5(error: DataCorruptError, dataset: str) -> bool:
    return (error.reason, error.facts["dataset"], error.facts["tensor"]) == ("DATA_CORRUPT", dataset, "t5")


def name_t5(damages: list[DataCorruptError], dataset: str) -> bool:
    """Return whether there is one damage, and it names the damaged tensor."""
    return [names_t5(damage, dataset) for damage in damages] == [True]


def test_a_listing_yields_the_others_and_names_the_damaged_one(client: tensorus.Client, dataset: str) -> None:
    damages: list[DataCorruptError] = []
    assert [info.id for info in client.list(dataset, on_damaged=damages.append)] == OTHERS
    assert name_t5(damages, dataset)
    with pytest.raises(DataCorruptError, match="tensor=t5"):
        list(client.list(dataset))


@pytest.mark.parametrize("order_by", ["id", "nbytes desc", "stored_bytes"])
def test_a_listing_in_any_order_does(client: tensorus.Client, dataset: str, order_by: str) -> None:
    damages: list[DataCorruptError] = []
    infos = list(client.list(dataset, order_by=order_by, on_damaged=damages.append))
    assert sorted(info.id for info in infos) == sorted(OTHERS)
    assert name_t5(damages, dataset)


@pytest.mark.parametrize("with_data", [True, False])
def test_a_query_yields_the_others_and_names_the_damaged_one(
    client: tensorus.Client, dataset: str, *, with_data: bool
) -> None:
    damages: list[DataCorruptError] = []
    records = list(client.query(dataset, "n >= 0", with_data=with_data, as_="numpy", on_damaged=damages.append))
    assert [record.info.id for record in records] == OTHERS
    if with_data:
        assert [record.tensor[0] for record in records] == [int(name[1:]) for name in OTHERS]
    assert name_t5(damages, dataset)
    with pytest.raises(DataCorruptError, match="tensor=t5"):
        list(client.query(dataset, with_data=with_data))


def test_a_sample_does(client: tensorus.Client, dataset: str) -> None:
    damages: list[DataCorruptError] = []
    records = list(client.query(dataset, sample=20, seed=1, as_="numpy", on_damaged=damages.append))
    assert sorted(record.info.id for record in records) == sorted(OTHERS)
    assert name_t5(damages, dataset)


def test_reads_by_id_do(client: tensorus.Client, dataset: str) -> None:
    damages: list[DataCorruptError] = []
    ids = [f"t{number}" for number in range(20)]
    assert [record.info.id for record in client.get_many(dataset, ids, on_damaged=damages.append)] == OTHERS
    assert name_t5(damages, dataset)
    for call in (client.get, client.info):
        with pytest.raises(DataCorruptError, match="tensor=t5"):
            call(dataset, "t5")


def test_stats_are_those_of_the_others_and_name_the_damaged_one(client: tensorus.Client, dataset: str) -> None:
    stats = client.stats(dataset)
    assert (stats.tensors, stats.canonical_bytes) == (19, 19 * 16)
    assert (stats.damaged_tensors, stats.damaged_ids) == (1, ("t5",))


def test_an_insert_that_meets_it_fails_alone(client: tensorus.Client, dataset: str) -> None:
    tensors = [(f"new{n}", array(n)) for n in range(20)] + [("t5", array(5))]
    with pytest.raises(InsertManyError) as caught:
        client.insert_many(dataset, tensors)
    assert len(caught.value.inserted) == 20
    ((position, error),) = caught.value.failed
    assert position == 20
    assert isinstance(error, DataCorruptError)
    assert names_t5(error, dataset)


def test_it_can_be_replaced(client: tensorus.Client, dataset: str) -> None:
    damages: list[DataCorruptError] = []
    list(client.list(dataset, on_damaged=damages.append))
    generation = int(damages[0].facts["generation"])
    info = client.insert(dataset, array(55), id="t5", metadata={"n": 5}, if_generation_match=generation)
    assert client.get(dataset, "t5", as_="numpy")[0] == 55
    assert client.stats(dataset).tensors == 20
    assert {found.id for found in client.list(dataset)} == {*OTHERS, info.id}


def test_it_can_be_deleted(client: tensorus.Client, dataset: str) -> None:
    assert client.delete(dataset, ["t4", "t5", "t6"]) == 3
    assert [info.id for info in client.list(dataset)] == [name for name in OTHERS if name not in {"t4", "t6"}]
    client.insert(dataset, array(5), id="t5")
    assert client.delete_dataset(dataset) == 18


def refuse(damage: DataCorruptError) -> None:
    """End the read with an error of the caller's own."""
    raise LookupError(str(damage))


def test_the_asynchronous_client_does_all_of_it_alike(tmp_path: Path) -> None:
    async def check(address: str) -> None:
        async with tensorus.aio.connect(address) as client:
            damages: list[DataCorruptError] = []
            told = {"on_damaged": damages.append}
            assert [info.id async for info in client.list("d", **told)] == OTHERS
            assert [record.info.id async for record in client.query("d", **told)] == OTHERS
            assert [record.info.id async for record in client.query("d", with_data=False, **told)] == OTHERS
            assert [record.info.id async for record in client.get_many("d", ["t4", "t5", "t6"], **told)] == ["t4", "t6"]
            assert [names_t5(damage, "d") for damage in damages] == [True] * 4
            for found in (client.list("d"), client.query("d"), client.query("d", with_data=False)):
                with pytest.raises(DataCorruptError, match="tensor=t5"):
                    _ = [one async for one in found]
            for read in (client.query, partial(client.query, with_data=False), partial(client.get_many, ids=["t5"])):
                with pytest.raises(LookupError, match="tensor=t5"):
                    _ = [one async for one in read("d", on_damaged=refuse)]
            assert (await client.stats("d")).damaged_ids == ("t5",)
            assert [info.name for info in await client.datasets(**told)] == ["d"]

    with running_server(tmp_path / "store") as server:
        with tensorus.connect(server.address) as client:
            client.create_dataset("d")
            client.insert_many("d", [(f"t{n}", array(n)) for n in range(20)])
        change(server._engine, f"UPDATE tensor SET metadata = 'no json' WHERE id = 't5' AND {OF_DATASET}", "d")
        asyncio.run(check(server.address))


def test_a_damaged_dataset_is_named_and_the_others_are_listed(
    opened: tuple[tensorus.Client, Engine], dataset: str
) -> None:
    client, engine = opened
    a, b, c = (f"{dataset}/{name}" for name in "abc")
    for name in (a, b, c):
        client.create_dataset(name)
    client.insert(b, array(1), id="t")
    change(engine, "UPDATE dataset SET schema = '[' WHERE name = ?", b)
    damages: list[DataCorruptError] = []
    assert {info.name for info in client.datasets(on_damaged=damages.append)} >= {a, c}
    assert [error.facts["dataset"] for error in damages] == [b]
    with pytest.raises(DataCorruptError, match=f"dataset={b}"):
        client.datasets()
    with pytest.raises(DataCorruptError, match=f"dataset={b}"):
        client.insert(b, array(2), id="u")
    assert client.get(b, "t", as_="numpy")[0] == 1
    client.update_dataset(b, preset="fast", schema=tensorus.Schema())
    client.insert(b, array(2), id="u")


def test_the_command_line_lists_the_others_and_names_and_deletes_it(tmp_path: Path) -> None:
    backend = EmbeddedBackend(tmp_path / "store", engine_config)
    with tensorus.Client(backend) as client:
        client.create_dataset("d")
        client.insert_many("d", [(f"t{n}", array(n)) for n in range(3)])
        change(backend._engine, f"UPDATE tensor SET metadata = 'no json' WHERE id = 't1' AND {OF_DATASET}", "d")
    store = ["--store", tmp_path / "store"]
    found = run_command("ls", "d", *store)
    assert found.exit_code == 1
    assert [line.split()[0] for line in found.output.splitlines()] == ["id", "t0", "t2"]
    assert "tensor=t1" in found.errors
    found = run_command("ls", "d", "--json", *store)
    assert found.exit_code == 1
    *intact, damaged = json.loads(found.output)
    assert [info["id"] for info in intact] == ["t0", "t2"]
    assert (damaged["dataset"], damaged["id"]) == ("d", "t1")
    assert "the catalogue is damaged" in damaged["damage"]
    found = run_command("stats", "d", *store)
    assert (found.exit_code, "not counted because damaged: 1 tensor: t1" in found.output) == (0, True)
    found = run_command("rm", "d", "t1", *store)
    assert (found.exit_code, found.output) == (0, "1 of 1 tensors deleted\n")
    found = run_command("ls", "d", *store)
    assert found.exit_code == 0
    assert [line.split()[0] for line in found.output.splitlines()] == ["id", "t0", "t2"]
