"""Tensors that are nearly equal, as checkpoints are, and what a store has of payloads with bases."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np

from support.arrays import random_bits
from tensorus_server.catalogue.sql.statements import select
from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.chunk_table import BASE_DEPTH_MAX
from tensorus_server.engine.engine import Engine
from tensorus_server.model import Tensor

__all__ = ["CHUNK", "FIRST", "needed_bases", "needed_payloads", "next_step", "waiting_keys"]

CHUNK = 4096

FIRST = random_bits("uint16", (25, 4096), seed=1)
"""Too large for the catalogue, since it does not compress; 50 chunks of `CHUNK` bytes."""


def next_step(values: np.ndarray[Any, Any], seed: int, share: float = 0.05) -> np.ndarray[Any, Any]:
    """Return the values with some of their words larger by 1."""
    words = values.view(f"<u{values.itemsize}")
    changed = np.random.default_rng(seed).random(words.shape) < share
    stepped: np.ndarray[Any, Any] = (words + changed.astype(words.dtype)).view(values.dtype)
    return stepped


def needed_bases(engine: Engine) -> set[tuple[str, str]]:
    """Return the pairs of payloads of which the second needs the first."""
    return {(base, key) for base, key in _rows(engine, "SELECT base, key FROM payload_base")}


def needed_payloads(engine: Engine, tensor: Tensor) -> set[str]:
    """Return the keys of all files that reading a tensor takes: its payloads, those with their bases, and so on."""
    needed = {tensor.locator.key: tensor.locator}
    with engine.reader.chunks(tensor) as chunks:
        needed |= {} if chunks.table is None else {payload.key: payload for payload in chunks.table.payloads}
        waiting, depths = list(needed.values()), set()
        while waiting:
            locator = waiting.pop()
            with nullcontext(chunks.own) if locator is tensor.locator else chunks._others.used(locator) as payload:
                bases = payload.read_bases()
                depths.add(payload.depth)
            for base in () if bases is None else bases.payloads:
                if base.key not in needed:
                    needed[base.key] = base
                    waiting.append(base)
    assert max(depths) <= BASE_DEPTH_MAX
    return {key for key in needed if tensor.inline_payload is None or key != tensor.locator.key}


def waiting_keys(engine: Engine) -> set[str]:
    """Return the keys of payloads that wait for their deletion."""
    return {key for (key,) in _rows(engine, "SELECT key FROM tombstone")}


def _rows(engine: Engine, statement: str) -> list[tuple[Any, ...]]:
    catalogue = engine._catalogue
    assert isinstance(catalogue, SqliteCatalogue)
    with catalogue._database.read() as connection:
        return list(select(connection, statement))
