"""A committer between a catalogue and a chunk store that note what is done to them, and fail where they are told to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from support.engine import stored_tensor
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.catalogue.abc import StoredTensor
from tensorus_server.chunk_store.abc import StagedPayload, new_payload_key
from tensorus_server.chunk_store.memory import MemoryChunkStore
from tensorus_server.engine.health import Health
from tensorus_server.engine.insert.committer import Commit, Committer
from tensorus_server.engine.insert.content import EqualTensors
from tensorus_server.engine.insert.items import Items
from tensorus_server.model import Dataset, Schema, Tensor

DATASET = Dataset(1, "d", StoragePolicy(), Schema(), 0)

Outcomes = Callable[[Sequence[StoredTensor]], "list[Tensor | Exception]"]


def commit_all(group: Sequence[StoredTensor]) -> list[Tensor | Exception]:
    """Commit every tensor of a group."""
    return [stored.committed(number + 1, number + 1, 0) for number, stored in enumerate(group)]


class Store(MemoryChunkStore):
    """A chunk store that notes what is done to it and fails where it is told to."""

    def __init__(self, events: list[str]) -> None:
        """Note into `events`."""
        super().__init__()
        self._events = events
        self.failures: dict[str, Exception] = {}
        self.shard = "7f"

    def publish(self, group: Sequence[StagedPayload]) -> list[str]:
        """Note it, and publish under keys with a shard, as files have them."""
        self._events.append(f"publish {len(group)}")
        if group and "publish" in self.failures:
            raise self.failures["publish"]
        keys = super().publish(group)
        for key in keys:
            self._published[f"{self.shard}/{key}"] = self._published.pop(key)
        return [f"{self.shard}/{key}" for key in keys]

    def drop(self, staged: StagedPayload) -> None:
        """Note it and do it."""
        self._events.append("drop")
        super().drop(staged)

    def delete(self, key: str) -> None:
        """Note it and do it."""
        self._events.append("delete")
        if "delete" in self.failures:
            raise self.failures["delete"]
        super().delete(key)


class Catalogue:
    """As much of a catalogue as the committer uses."""

    def __init__(self, events: list[str]) -> None:
        """Note into `events`."""
        self.tensors = self.members = self
        self._events = events
        self.abandoned: list[str] = []
        self.outcomes: Outcomes = commit_all
        self.failures: dict[str, Exception] = {}
        self.groups: list[list[StoredTensor]] = []
        self.together: list[bool] = []
        self.maintained: list[bool] = []
        self.may_commit = threading.Event()
        self.may_commit.set()
        self.is_committing = threading.Event()

    def check_writable(self) -> None:
        """Fail if told to."""
        if "check_writable" in self.failures:
            raise self.failures["check_writable"]

    def commit(self, group: Sequence[StoredTensor], *, together: bool = False) -> list[Tensor | Exception]:
        """Note the group, wait until it may be committed, and commit it as told."""
        self.together.append(together)
        self._events.append(f"commit {len(group)}")
        self.groups.append(list(group))
        self.is_committing.set()
        assert self.may_commit.wait(30)
        if "commit" in self.failures:
            raise self.failures["commit"]
        return self.outcomes(group)

    def abandon(self, keys: Sequence[str]) -> list[str]:
        """Note it, or fail if told to."""
        if "abandon" in self.failures:
            raise self.failures["abandon"]
        self.abandoned += keys
        return list(keys)

    def maintain(self, *, idle: bool) -> None:
        """Note it, or fail if told to."""
        self.maintained.append(idle)
        if "maintain" in self.failures:
            raise self.failures["maintain"]


class Bench:
    """A committer between a catalogue and a chunk store that note what happens."""

    def __init__(self) -> None:
        """Start it."""
        self.events: list[str] = []
        self.catalogue = Catalogue(self.events)
        self.store = Store(self.events)
        self.health = Health(self.catalogue.check_writable)
        equals = EqualTensors(self.catalogue, self.store)  # type: ignore[arg-type]
        self.committer = Committer(self.catalogue, self.store, self.store, self.health, equals)  # type: ignore[arg-type]
        self.outcomes: dict[str, list[Tensor | Exception]] = {}

    def submit(self, name: str, *, inline: bool = False) -> StoredTensor:
        """Submit a tensor whose payload is finished, and whose outcome is kept under its name."""
        key = new_payload_key()
        staged = None
        if not inline:
            writer = self.store.begin(key)
            writer.append([name.encode()])
            staged = writer.finish()
        stored = stored_tensor(DATASET, name, key=key, inline_payload=name.encode() if inline else None)
        outcomes = self.outcomes.setdefault(name, [])
        self.committer.submit(self.commit([stored], [] if staged is None else [staged], outcomes.extend))
        return stored

    def commit(
        self,
        stored: Sequence[StoredTensor],
        staged: Sequence[StagedPayload],
        hear: Callable[[Sequence[Tensor | Exception]], object],
    ) -> Commit:
        """Return a commit of one batch, whose outcomes are told all at once."""
        items = Items(lambda results: hear([found.outcome for found in results]), self.health)  # type: ignore[union-attr]
        batch = items.begin(list(range(len(stored))))
        batch.stored, batch.staged = stored, staged
        items.commit(batch)
        return Commit([batch])

    def close(self) -> None:
        """Commit what waits."""
        self.catalogue.may_commit.set()
        assert self.committer.close(30)

    def outcome(self, name: str) -> Tensor | Exception:
        """Return what a tensor's submitter was told; it was told once."""
        (outcome,) = self.outcomes[name]
        return outcome

    def all_at_once(self, names: Sequence[str], *, inline: bool = False) -> list[StoredTensor]:
        """Submit tensors that become one group: behind another one that is being committed."""
        self.catalogue.may_commit.clear()
        self.catalogue.is_committing.clear()
        self.submit("first", inline=True)
        assert self.catalogue.is_committing.wait(30)
        submitted = [self.submit(name, inline=inline) for name in names]
        self.events.clear()
        self.catalogue.may_commit.set()
        return submitted
