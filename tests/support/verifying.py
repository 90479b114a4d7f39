"""Verifications the short way, and stores with damage of every kind."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from support.arrays import random_bits
from support.engine import insert
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.verify.verification import Progress, Target
from tensorus_server.errors import EngineError
from tensorus_server.model import Tensor

CHUNK_BYTES = 65536
CHUNKS = 4

IN_A_FILE = random_bits("uint8", (CHUNKS * CHUNK_BYTES - 100,), seed=5)
"""A tensor of four chunks, stored as they are in a file of its own."""

RECORD_BYTES = CHUNK_BYTES + 21
"""Of each chunk but the last."""

IN_A_ROW = random_bits("uint8", (1000,), seed=6)
"""A tensor that is stored in the catalogue."""


@dataclass
class Findings:
    """What a verification found."""

    damages: list[EngineError] = field(default_factory=list)
    progress: Progress | None = None

    @property
    def places(self) -> list[tuple[str | None, str | None, str | None]]:
        """Tensor, chunk and file of each damage."""
        return [(d.facts.get("tensor"), d.facts.get("chunk"), d.facts.get("file")) for d in self.damages]


def verified(engine: Engine, target: Target = Target(), token: str = "") -> Findings:  # noqa: B008 - it is frozen
    """Verify the target, and return what was found."""
    verification = engine.verify(target, token)
    damages = [damage for damage in verification if damage is not None]
    return Findings(damages, verification.progress)


def put_in_file(engine: Engine, tensor_id: str, **fields: Any) -> Tensor:
    """Insert `IN_A_FILE` into dataset "d"; under another id than "t" with a few other values, so that its file is its own."""
    policy = StoragePolicy(preset="none", chunk_bytes=CHUNK_BYTES)
    array = IN_A_FILE.copy()
    if tensor_id != "t":
        array[:4] = np.frombuffer(zlib.crc32(tensor_id.encode()).to_bytes(4, "big"), np.uint8)
    return insert(engine, "d", tensor_id, array, policy=policy, **fields)


def put_in_row(engine: Engine, tensor_id: str, array: np.ndarray[Any, Any] = IN_A_ROW, **fields: Any) -> Tensor:
    """Insert a small tensor into dataset "d"."""
    return insert(engine, "d", tensor_id, array, **fields)


def path_of(folder: Path, tensor: Tensor) -> Path:
    """Return the file of a tensor's payload in the store in `folder`."""
    return folder / "chunks" / tensor.locator.key


def flip(path: Path, offset: int) -> None:
    """Flip a bit of a file; a negative offset counts from its end."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def cut(path: Path, length: int) -> None:
    """Cut a file; a negative length counts from its end."""
    path.write_bytes(path.read_bytes()[:length])


def sql(engine: Engine, statement: str, *values: Any) -> None:
    """Change rows of the engine's catalogue, past their checksums."""
    with engine._catalogue._database.write() as connection:  # type: ignore[attr-defined]
        connection.execute(statement, values)


Injection = Callable[[Engine, Path, Tensor], None]
"""Damages a tensor."""
