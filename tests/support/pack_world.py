"""A store of objects with packs, a model of what is in it, and faults at each of its steps."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from support.engine import create, stored_tensor
from support.packs import CatalogueLog
from tensorus_server.catalogue.abc import StoredTensor, TensorCopies
from tensorus_server.catalogue.sql.statements import select
from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.chunk_store.abc import new_payload_key
from tensorus_server.chunk_store.objects.names import PACKS
from tensorus_server.chunk_store.objects.store import ObjectChunkStore
from tensorus_server.engine.sweep import Swept, sweep
from tensorus_server.errors import StoreBusyError
from tensorus_server.model import Tensor
from tensorus_server.payload_keys import PackedKey, parse_key

DATASET = "dataset"

_REQUESTS = ("put", "get", "size", "objects", "delete")


class CrashedError(BaseException):
    """The process has been killed: nothing of it runs any more, whatever it catches."""


class Steps:
    """Counts the steps of a sweep, and does something at one of them: statements, transactions, and requests to the store."""

    def __init__(self) -> None:
        """Do nothing at any step."""
        self.count = 0
        self.acted_at: int | None = None
        """At which step the planned action was done."""
        self.is_crashed = False
        self._at: int | None = None
        self._action: Callable[[], None] | None = None
        self._in_transaction = False

    def plan(self, at: int, action: Callable[[], None] | None) -> None:
        """Count from 0 again. At this step, crash, or do `action` unless a transaction is open; then do it at the next step."""
        self.count, self.is_crashed, self.acted_at = 0, False, None
        self._at, self._action = at, action

    def clear(self) -> None:
        """Do nothing any more: a process has been started again."""
        self._at, self.is_crashed = None, False

    def __call__(self) -> None:
        """Take a step."""
        if self.is_crashed:
            raise CrashedError
        self.count += 1
        if self._at is None or self.count < self._at:
            return
        if self._action is None:
            self.is_crashed = True
            raise CrashedError
        if not self._in_transaction:
            self.acted_at, self._at, action = self.count, None, self._action
            action()

    def watch(self, catalogue: SqliteCatalogue, store: ObjectChunkStore) -> None:
        """Make each statement that writes, each transaction and each request a step, and what comes after them, too."""
        database = catalogue._database
        begin = database.write

        @contextmanager
        def write() -> Iterator[Any]:
            self()
            with begin() as connection:
                self._in_transaction = True
                try:
                    yield _Connection(connection, self)
                finally:
                    self._in_transaction = False
            self()

        # `Any`: a method of one object is replaced.
        replaced: Any = database
        replaced.write = replaced.change = lambda **_: write()
        self.watch_requests(store)

    def watch_requests(self, store: ObjectChunkStore) -> None:
        """Make each request of a store a step, and what comes after it."""
        for name in _REQUESTS:
            setattr(store.client, name, self._stepped(getattr(store.client, name)))

    def _stepped(self, request: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*args: Any, **kwargs: Any) -> Any:
            self()
            result = request(*args, **kwargs)
            self()
            return result

        return stepped


class _Connection:
    """A connection whose statements are steps."""

    def __init__(self, connection: Any, step: Callable[[], None]) -> None:
        self._connection = connection
        self._step = step

    def execute(self, *args: Any) -> Any:
        self._step()
        return self._connection.execute(*args)

    def executemany(self, *args: Any) -> Any:
        self._step()
        return self._connection.executemany(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class PackWorld:
    """One catalogue, one store of objects, and what must be in them. Payloads are bytes of the test's, each with its key."""

    def __init__(self, seed: int) -> None:
        """Start empty; `seed` decides the bytes and the program."""
        self.random = random.Random(seed)
        self.catalogue = SqliteCatalogue(None, delete_grace_s=0.0)
        self.store = ObjectChunkStore("memory://test", writes=CatalogueLog(self.catalogue))
        self.store.client._opened()
        self.steps = Steps()
        self.steps.watch(self.catalogue, self.store)
        self.dataset = create(self.catalogue, DATASET)
        self.bytes: dict[str, bytes] = {}
        """By payload key."""
        self.named: dict[str, tuple[str, ...]] = {}
        """The keys that a payload's bytes name, by its payload key."""
        self.shared: dict[str, tuple[str, ...]] = {}
        """The keys of the payloads that an edited tensor shares with earlier generations, by its own payload key."""
        self.tensors: dict[str, str] = {}
        """The payload key of each tensor, by id."""
        self.snapshots: dict[str, tuple[int, dict[str, str]]] = {}
        """Of each snapshot, its generation, and the tensors then."""
        self.before: list[Tensor] = []
        """Rows that were read earlier, as a call has them that takes long."""
        self._ids = iter(range(10**6))

    def close(self) -> None:
        """Close the catalogue and the store."""
        self.store.close()
        self.catalogue.close()

    def staged(self, *values: bytes) -> list[str]:
        """Store new payloads in one pack, and return their keys."""
        group = []
        for value in values:
            name = new_payload_key()
            self.bytes[name], self.named[name] = value, ()
            writer = self.store.begin(name)
            writer.append([value])
            group.append(writer.finish())
        return self.store.publish(group)

    def value(self) -> bytes:
        """Return bytes that no payload has."""
        return self.random.randbytes(self.random.randint(50, 400))

    def new(self, tensor_id: str, key: str, **fields: Any) -> StoredTensor:
        """Return a tensor with a payload that is stored; replaces any of its id."""
        value = self.bytes[_name(key)]
        digest = hashlib.md5(value, usedforsecurity=False).digest()
        stored = stored_tensor(self.dataset, tensor_id, key=key, stored_bytes=len(value), source=digest)
        new = replace(stored.new, replace="changes" not in fields, if_generation_match=fields.get("changes"))
        return replace(stored, new=new, **{"content": digest, **fields})

    def commit(self, group: list[StoredTensor]) -> None:
        """Commit tensors as the committer does."""
        equals = self.catalogue.tensors.equal_tensors([one.content for one in group if one.content is not None])
        offered = [replace(one, equals=tuple(equals.get(one.content or b"", ()))) for one in group]
        outcomes = self.catalogue.tensors.commit(offered)
        used = {outcome.locator.key for outcome in outcomes if isinstance(outcome, Tensor)}
        for one, outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, Tensor):
                self.tensors[outcome.id] = outcome.locator.payload_key
            else:
                assert isinstance(outcome, StoreBusyError), outcome
            if one.locator.key not in used:
                self.store.delete(one.locator.key)

    def row(self, tensor_id: str) -> Tensor:
        """Return the row of a tensor."""
        (found,) = self.catalogue.tensors.get(DATASET, [tensor_id])
        assert isinstance(found, Tensor)
        return found

    def insert(self, count: int | None = None) -> None:
        """Insert tensors, some of which have the bytes of earlier ones."""
        values = [self.value() for _ in range(count or self.random.randint(1, 8))]
        stored = list(self.tensors.values())
        values = [
            self.bytes[self.random.choice(stored)] if stored and self.random.random() < 0.2 else value
            for value in values
        ]
        new = [self.new(f"t{next(self._ids)}", key) for key in self.staged(*values)]
        if stored and self.random.random() < 0.3:
            base = self.row(self._any())
            bases = (base.locator.key, *self.shared.get(base.locator.payload_key, ()))
            self.named[new[0].locator.payload_key] = bases
            new[0] = replace(new[0], bases=bases, content=None)
        self.commit(new)

    def equal(self) -> None:
        """Insert the bytes of a tensor again, under another id."""
        (key,) = self.staged(self.bytes[self.tensors[self._any()]])
        self.commit([self.new(f"t{next(self._ids)}", key)])

    def edit(self) -> None:
        """Change a tensor, so that it refers to its old payload."""
        self.commit([self.edited(self.row(self._any()))])

    def edited(self, row: Tensor) -> StoredTensor:
        """Return the result of an edit of a tensor that was read earlier."""
        (key,) = self.staged(self.value())
        references = (row.locator.key, *self.shared.get(row.locator.payload_key, ()))
        self.named[_name(key)] = self.shared[_name(key)] = references
        return self.new(row.id, key, references=references, changes=row.generation, content=None)

    def delta(self) -> None:
        """Insert a tensor with a base."""
        self.commit([self.based(self.row(self._any()))])

    def based(self, base: Tensor) -> StoredTensor:
        """Return a tensor whose base was read earlier."""
        (key,) = self.staged(self.value())
        # If the base was edited, its chunks are in several payloads.
        bases = (base.locator.key, *self.shared.get(base.locator.payload_key, ()))
        self.named[_name(key)] = bases
        return self.new(f"t{next(self._ids)}", key, bases=bases, content=None)

    def copy(self) -> None:
        """Copy a tensor."""
        found, new = self._any(), f"t{next(self._ids)}"
        self.catalogue.copies.copy_tensors(TensorCopies(DATASET, DATASET, [(found, new)]), lambda *_: None)
        self.tensors[new] = self.tensors[found]

    def delete(self, share: float = 0.3) -> None:
        """Delete some tensors."""
        for found in [found for found in self.tensors if self.random.random() < share]:
            self.delete_one(found)

    def delete_one(self, tensor_id: str) -> None:
        """Delete a tensor."""
        assert self.catalogue.tensors.delete(DATASET, [tensor_id]) == [tensor_id]
        del self.tensors[tensor_id]

    def snapshot(self) -> None:
        """Make a snapshot."""
        name = f"s{next(self._ids)}"
        self.snapshots[name] = (self.catalogue.snapshots.create(DATASET, name).generation, dict(self.tensors))

    def drop_snapshot(self) -> None:
        """Drop a snapshot, and what only it has needed."""
        if self.snapshots:
            name = self.random.choice(list(self.snapshots))
            self.catalogue.snapshots.drop(DATASET, name)
            del self.snapshots[name]
            self.catalogue.snapshots.prune(lambda _: False)

    def sweep(self) -> Swept:
        """Sweep; deletions have no grace."""
        return sweep(self.catalogue, self.store, self.store, packs=self.store.packs)

    def restart(self) -> None:
        """Begin a new process after the old one has crashed, on the same objects."""
        self.steps.clear()
        self.catalogue.members.leave()
        crashed = self.store
        self.store = ObjectChunkStore("memory://test", writes=CatalogueLog(self.catalogue))
        # `Any`: the objects in memory belong to one client.
        kept: Any = crashed.client
        self.store.client._store = kept._store
        self.steps.watch_requests(self.store)
        crashed.close()

    def settle(self) -> None:
        """Let a day pass, and sweep until nothing is left to do. What may still be on its way is deleted at once."""
        with self.catalogue._database.write() as connection:
            connection.execute("UPDATE pack SET checked_us = checked_us - ?", (25 * 3600 * 1_000_000,))
        for _ in range(12):
            swept = sweep(self.catalogue, self.store, self.store, packs=self.store.packs, in_grace=True)
            if not swept.packs and not swept.deleted and not swept.emptied:
                return
        raise AssertionError("the sweep does not come to an end")

    def check(self) -> None:
        """Check that every tensor, now and in each snapshot, has its bytes, and so has what it needs."""
        states = [(None, self.tensors), *self.snapshots.values()]
        for at, tensors in states:
            ids = sorted(tensors)
            for tensor_id, found in zip(ids, self.catalogue.tensors.get(DATASET, ids, at=at), strict=True):
                assert isinstance(found, Tensor), f"{tensor_id} is {found}"
                assert found.locator.payload_key == tensors[tensor_id]
                self._read(found.locator.key)

    def check_objects(self) -> None:
        """Check that the store has the packs that the catalogue knows and no others, and that each is well used."""
        stored = {pack.pack for pack in self.store.packs.packs()}
        with self.catalogue._database.read() as connection:
            known = {pack for (pack,) in select(connection, "SELECT pack FROM pack")}
            begun = {key for (key,) in select(connection, "SELECT key FROM begun")}
            named = {
                key for (key,) in select(connection, "SELECT key FROM reference UNION SELECT base FROM payload_base")
            }
            rows = {key for (key,) in select(connection, "SELECT key FROM tensor UNION SELECT key FROM past_tensor")}
        assert stored == known
        assert not begun & {f"pack/{pack}" for pack in stored}
        assert {parsed.pack for key in named | rows if isinstance(parsed := parse_key(key), PackedKey)} == known
        assert not [found.name for found in self.store.client.objects(PACKS) if found.size == 0]

    def _read(self, key: str) -> None:
        name = _name(key)
        with self.store.open(key) as reader:
            assert bytes(reader.read(0, len(self.bytes[name]))) == self.bytes[name]
        for needed in self.named[name]:
            self._read(needed)

    def _any(self) -> str:
        if not self.tensors:
            self.insert()
        return self.random.choice(list(self.tensors))


def _name(key: str) -> str:
    return key.rpartition("/")[2]
