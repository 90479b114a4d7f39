"""Tensors that are nearly equal, as checkpoints are, and what a store has of payloads with bases."""

from __future__ import annotations

from typing import Any

import numpy as np

from support.arrays import random_bits
from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.catalogue.sqlite.database import select
from tensorus_server.engine.engine import Engine

__all__ = ["CHUNK", "FIRST", "needed_bases", "next_step", "waiting_keys"]

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


def waiting_keys(engine: Engine) -> set[str]:
    """Return the keys of payloads that wait for their deletion."""
    return {key for (key,) in _rows(engine, "SELECT key FROM tombstone")}


def _rows(engine: Engine, statement: str) -> list[tuple[Any, ...]]:
    catalogue = engine._catalogue
    assert isinstance(catalogue, SqliteCatalogue)
    with catalogue._database.read() as connection:
        return list(select(connection, statement))
