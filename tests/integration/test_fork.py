"""Clients in child processes: forked, spawned, and pickled.

What forks is a process of its own, bounded in time: gRPC in a forked child hangs where something is wrong, and the process of
the tests has servers in it, which no child should inherit.
"""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorus
from support import loader
from support.arrays import normal
from support.client import run_process
from support.servers import ServerProcess
from tensorus import errors
from tensorus._connection import Connection

DATASET = "loaded"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server process with the tensors that workers read; chunk records, so that clients decode."""
    server = ServerProcess(tmp_path_factory.mktemp("server"))
    try:
        with tensorus.connect(server.address) as client:
            client.create_dataset(DATASET, preset="balanced")
            for position in range(loader.TENSORS):
                values = normal((300, 300), seed=position)
                values[0, 0] = position
                client.insert(DATASET, values, id=f"t{position}")
        yield server.address
    finally:
        server.kill()


FORK = """
import json, os, signal, sys

import numpy as np
import tensorus
from tensorus import errors

def outcome_of(action):
    try:
        action()
        return "ok"
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def in_child(*actions):
    "Run each of `actions` in one forked child; return for each 'ok' or what it raised, for all of them how the child ended."
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        os.write(writing, json.dumps([outcome_of(action) for action in actions]).encode())
        # Not os._exit: a child may well end as any process does.
        sys.exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return json.loads(said) if status == 0 else [f"ended with {status} after {said!r}"] * len(actions)
"""


def forked(source: str, *arguments: object, **environment: str) -> Any:
    """Run lines of Python that fork; what they bind to `result` comes back."""
    program = f"{FORK}\n{source}\nprint(json.dumps(result))"
    done = run_process([sys.executable, "-c", program, *map(str, arguments)], environment=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ---- Clients of a server ------------------------------------------------------------------------------------------------


def test_forked_workers_of_a_data_loader_and_spawned_ones_read_with_a_client_that_their_parent_uses(
    address: str,
) -> None:
    done = run_process([sys.executable, loader.__file__, address, DATASET])
    assert done.returncode == 0, done.stderr
    positions = list(range(loader.TENSORS))
    expected = {"used": 0, "workers": positions, "again": positions, "left": loader.TENSORS - 1}
    found = json.loads(done.stdout)
    assert found.keys() == {"fork", "spawn"}
    for how, read in found.items():
        assert {key: np.round(value, 2).tolist() for key, value in read.items()} == expected, how


def test_a_forked_child_inserts_reads_and_ends_while_the_parent_goes_on(address: str) -> None:
    source = """
client = tensorus.connect(sys.argv[1])
client.create_dataset("forked")

def use(name):
    client.insert("forked", np.arange(10), id=name)
    assert client.get("forked", name, as_="numpy").tolist() == list(range(10))
    assert in_child(lambda: client.info("forked", name)) == ["ok"], "a grandchild"
    client.close()

use_twice = [in_child(lambda: use("one")), in_child(lambda: use("two"))]
result = [*sum(use_twice, []), sorted(info.id for info in client.list("forked"))]
"""
    assert forked(source, address) == ["ok", "ok", ["one", "two"]]


def test_a_forked_child_uses_the_same_servers(address: str) -> None:
    source = """
client = tensorus.connect(f"127.0.0.1:1,{sys.argv[1]}")
read = lambda: client.info("loaded", "t0")
read()
result = [in_child(read, read), in_child(read), [client.info("loaded", f"t{number}").id for number in range(5)]]
"""
    assert forked(source, address) == [["ok", "ok"], ["ok"], [f"t{number}" for number in range(5)]]


def test_an_iteration_that_the_parent_began_is_refused_in_a_child_and_goes_on_in_the_parent(address: str) -> None:
    source = """
client = tensorus.connect(sys.argv[1])
begun = [client.query("loaded", as_="numpy"), client.query("loaded", with_data=False), client.list("loaded"),
         client.get_many("loaded", ["t0", "t1", "t2"], as_="numpy")]
for iteration in begun:
    next(iteration)
result = [in_child(*[iteration.__next__ for iteration in begun]), [sum(1 for _ in iteration) for iteration in begun]]
"""
    refusals, left = forked(source, address)
    assert all(
        refusal.startswith("UnavailableError: this iteration began before the process was forked")
        for refusal in refusals
    ), refusals
    assert left == [loader.TENSORS - 1, loader.TENSORS - 1, loader.TENSORS - 1, 2]


def test_where_grpc_is_told_not_to_care_for_forks_only_a_client_that_was_used_before_is_refused(address: str) -> None:
    source = """
client = tensorus.connect(sys.argv[1])
unused = in_child(client.datasets)
client.datasets()
result = [*unused, *in_child(client.datasets, lambda: tensorus.connect(sys.argv[1]).datasets())]
"""
    unused, *refusals = forked(source, address, GRPC_ENABLE_FORK_SUPPORT="false")
    assert unused == "ok"
    for refusal in refusals:
        assert refusal.startswith("UnavailableError: gRPC was in use before this process was forked"), refusal


def test_a_pickled_client_is_one_that_works(remote: tensorus.Client, dataset: str) -> None:
    remote.create_dataset(dataset)
    with pickle.loads(pickle.dumps(remote)) as copy:
        assert copy.dataset(dataset).name == dataset
    # The copy's connection was its own.
    assert remote.dataset(dataset).name == dataset


def test_a_copy_of_a_client_keeps_its_settings() -> None:
    settings: Any = {"timeout_s": 0.5, "retry_timeout_s": 0.25, "tune_allocator": False, "direct_reads": False}
    with tensorus.connect("localhost:1", **settings) as client:
        copy = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(client))))
        backend: Any = copy._opened
        assert backend._copy.args == (Connection("localhost:1"),)
        assert backend._copy.keywords == settings
        assert (backend.timeout_s, backend._retry_timeout_s) == (0.5, 0.25)


def test_a_closed_client_is_not_pickled() -> None:
    client = tensorus.connect("localhost:1")
    client.close()
    with pytest.raises(errors.UnavailableError, match="the client is closed"):
        pickle.dumps(client)


# ---- Stores in this process ---------------------------------------------------------------------------------------------


def test_a_store_of_the_parent_refuses_every_call_in_a_child_and_says_what_to_do(tmp_path: Path) -> None:
    source = """
client = tensorus.open(sys.argv[1])
client.create_dataset("d")
client.insert_many("d", [("a", np.zeros(3)), ("b", np.zeros(3))])
begun = client.query("d", as_="numpy")
next(begun)
calls = [
    lambda: client.create_dataset("e"), client.datasets, lambda: client.dataset("d"), lambda: client.stats("d"),
    lambda: client.update_dataset("d", preset="fast"), lambda: client.delete_dataset("d"),
    lambda: client.insert("d", np.zeros(3)), lambda: client.insert_many("d", [np.zeros(3)]),
    lambda: client.get("d", "a", as_="numpy"), lambda: list(client.get_many("d", ["a"], as_="numpy")),
    lambda: list(client.query("d", as_="numpy")),
    lambda: list(client.list("d")), lambda: client.info("d", "a"), lambda: client.update_metadata("d", "a", {}),
    lambda: client.delete("d", "a"),
]
*refused, iterated, closed = in_child(*calls, lambda: next(begun), client.close)
(own,) = in_child(lambda: tensorus.open(sys.argv[1]).info("d", "a"))
client.insert("d", np.zeros(3), id="c")
result = [refused, iterated, closed, own, [info.id for info in client.list("d")], sum(1 for _ in begun)]
"""
    refused, iterated, closed, own, ids, left = forked(source, tmp_path / "store")
    assert all(refusal.startswith("UnavailableError: the store was opened before") for refusal in refused), refused
    assert all("open it in the child" in refusal for refusal in refused)
    assert iterated.startswith("UnavailableError: this iteration began before the process was forked")
    assert (closed, own, ids, left) == ("ok", "ok", ["a", "b", "c"], 1)


def test_a_store_in_this_process_is_not_pickled(embedded: tensorus.Client) -> None:
    with pytest.raises(TypeError, match="cannot be pickled: open the store in the process that uses it, or serve it"):
        pickle.dumps(embedded)
