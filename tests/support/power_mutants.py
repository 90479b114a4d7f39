"""Servers that are wrong on purpose: programs for `ServerProcess`, each of which breaks one rule of a durable write.

A test that finds nothing wrong with one of them proves nothing about the right one. The product has no switch for any of this.
"""

from __future__ import annotations

__all__ = ["MUTANTS", "SWEEPS_OFTEN"]

SWEEPS_OFTEN = """
from tensorus.cli import main
from tensorus_server.config import EngineConfig
from tensorus_server.engine import engine

checked = EngineConfig.__post_init__


def without_grace(config):
    checked(config)
    object.__setattr__(config, "delete_grace_s", 0.0)


EngineConfig.__post_init__ = without_grace
engine._SWEEP_EVERY_S = 0.2
main()
"""
"""No mutant: a server that deletes payloads while others are written, five times a second and without a grace period."""

_NO_PAYLOAD_SYNC = """
import os

from tensorus.cli import main

fsync, fdatasync = os.fsync, os.fdatasync


def of_identity(descriptor):
    return os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")) in ("store", "store.new", "chunks")


os.fsync = lambda descriptor: fsync(descriptor) if of_identity(descriptor) else None
os.fdatasync = lambda descriptor: fdatasync(descriptor) if of_identity(descriptor) else None
main()
"""
"""It syncs the identity of its chunk store, without which it would not start after a cut."""

_NORMAL = """
from tensorus.cli import main
from tensorus_server.catalogue.sqlite import connection

assert "synchronous = FULL" in connection._PRAGMAS
connection._PRAGMAS = connection._PRAGMAS.replace("synchronous = FULL", "synchronous = NORMAL")
main()
"""

_CATALOGUE_FIRST = """
import time

from tensorus.cli import main
from tensorus_server.chunk_store.local import LocalChunkStore
from tensorus_server.engine.insert.committer import Committer

publish, commit = LocalChunkStore.publish, Committer._publish_and_commit
waiting = []


def publish_later(store, group):
    if not group:
        return []
    with store._shard_lock:
        shard = store._shards[store._next_shard]
    waiting.append((store, group))
    return [f"{shard}/{staged.payload_key}" for staged in group]


def commit_first(committer, *arguments, **named):
    try:
        return commit(committer, *arguments, **named)
    finally:
        time.sleep(0.01)
        while waiting:
            publish(*waiting.pop())


LocalChunkStore.publish = publish_later
Committer._publish_and_commit = commit_first
main()
"""
"""Rows come before the payloads that they refer to; the acknowledgement comes after both."""

_ACKNOWLEDGED_FIRST = """
import time

from tensorus.cli import main
from tensorus_server.catalogue.sqlite.database import Database
from tensorus_server.engine.insert.committer import Committer

really_commit, commit = Database._commit, Committer._commit
rehearses = [False]


def rehearsed(database):
    if rehearses[0]:
        database._writer.execute("ROLLBACK")
    else:
        really_commit(database)


def acknowledge_first(committer, batches, *, together):
    staged = [payload for batch in batches for payload in batch.staged]
    stored = [tensor for batch in batches for tensor in batch.stored]
    keys = dict(zip((payload.payload_key for payload in staged), committer._staging.publish(staged), strict=True))
    located = [_located(tensor, keys) for tensor in stored]
    rehearses[0] = True
    try:
        outcomes = committer._catalogue.tensors.commit(located, together=together)
    finally:
        rehearses[0] = False
    start = 0
    for batch in batches:
        batch.settle(outcomes[start : start + len(batch.stored)])
        start += len(batch.stored)
    time.sleep(0.02)
    committer._catalogue.tensors.commit(located, together=together)


from tensorus_server.engine.insert.committer import _located

Database._commit = rehearsed
Committer._commit = acknowledge_first
main()
"""

MUTANTS = {
    "no sync of payloads": _NO_PAYLOAD_SYNC,
    "synchronous=NORMAL": _NORMAL,
    "the catalogue before the payloads": _CATALOGUE_FIRST,
    "acknowledged before the commit": _ACKNOWLEDGED_FIRST,
}
