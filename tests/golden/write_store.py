"""Writes a golden store: a store's folder as this version writes it, and what its tensors must read as.

A store is written once for each format and never again: later versions must open it, read it and verify it for ever. `format1`
was written by the last version without edits, `format2` by the last one without bases. `bases` has tensors with bases that
have bases, of which no tensor is left.

    python tests/golden/write_store.py bases
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import tensorus
from tensorus import NewTensor, Policy
from tensorus_server.engine.insert import edited_chunks

_FOLDER = Path(__file__).parent / "stores"

CHUNK_BYTES = 4096


def tensors() -> list[NewTensor]:
    """Return the tensors that are inserted; together with the edits, they have every kind of payload."""
    random = np.random.default_rng(20261130)
    exact = Policy("lossless", chunk_bytes=CHUNK_BYTES)
    tags = {"layer": 3, "tags": ["a", "b"], "scale": 0.5}
    return [
        NewTensor(_weights(320), "exact", tags, exact),
        NewTensor(_weights(1008), "int8", tags, Policy("int8_only", chunk_bytes=CHUNK_BYTES)),
        NewTensor(_weights(40).astype(ml_dtypes.bfloat16), "raw", policy=Policy("none", chunk_bytes=CHUNK_BYTES)),
        NewTensor(random.integers(-9, 9, (1, 30, 50)), "integers", policy=exact),
        NewTensor(random.random((3, 4)).astype(np.float16), "small", tags),
        NewTensor(np.zeros((0, 5), np.float64), "empty"),
        NewTensor(np.zeros((0, 5), np.float64), "filled", policy=exact),
        NewTensor(np.array(True), "scalar"),
    ]


def edit(client: tensorus.Client) -> None:
    """Edit some of the tensors."""
    # A file that refers to another one, then payloads in the catalogue that refer to both.
    client.append("golden", "int8", _weights(1000, seed=3))
    client.write("golden", "int8", np.s_[100:130:3, ::2], _weights(10, seed=4)[:, ::2])
    client.append("golden", "int8", _weights(25, seed=5))
    # Tensors without chunk details, which are written anew.
    client.append("golden", "raw", _weights(9, seed=8).astype(ml_dtypes.bfloat16))
    client.append("golden", "integers", np.arange(-50, 50).reshape(1, 2, 50), axis=1)
    client.append("golden", "filled", np.array([[0, -0.0, np.inf, np.nan, 1e300]]))


def insert_with_bases(client: tensorus.Client) -> None:
    """Insert and edit tensors with every kind of base."""
    exact, lossy = Policy("lossless", chunk_bytes=CHUNK_BYTES), Policy("int8_only", chunk_bytes=CHUNK_BYTES)
    tags = {"layer": 3, "tags": ["a", "b"], "scale": 0.5}
    first = _weights(1000).astype(ml_dtypes.bfloat16)
    client.create_dataset("first", policy=exact)
    client.insert("first", first, id="0")
    client.insert("first", _stepped(first, 1), id="1", base="0")
    client.insert("golden", _stepped(first, 2), id="exact", metadata=tags, policy=exact, base=("first", "1"))
    # Chunks of a lossy policy: differences are exact, the others are quantized.
    wide = _weights(400)
    client.insert("first", wide, id="wide")
    changed = _stepped(wide, 3)
    changed[100:200] = _weights(100, seed=6)
    client.insert("golden", changed, id="int8", metadata=tags, policy=lossy, base=("first", "wide"))
    raw = Policy("none", chunk_bytes=CHUNK_BYTES)
    client.insert("golden", _stepped(first, 4), id="raw", policy=raw, base="exact")
    client.insert("golden", np.arange(12, dtype=np.float16).reshape(3, 4), id="small", metadata=tags)
    client.insert("golden", np.ones((3, 4), np.float16), id="small 2", base="small")
    # It needs the payload that it replaces.
    client.insert("golden", _stepped(first, 5), id="replaced", policy=exact, base="exact")
    client.insert("golden", _stepped(first, 6), id="replaced", policy=exact, base="replaced", on_conflict="replace")
    # Edits of tensors with bases: in the catalogue, in a file, and in a file with copied records and their bases.
    client.insert("golden", _stepped(first, 7), id="edited", policy=exact, base="exact")
    client.write("golden", "edited", np.s_[100:103], first[:3])
    client.append("golden", "edited", _weights(1100, seed=8).astype(ml_dtypes.bfloat16))
    client.insert("golden", _stepped(first, 8), id="copied", policy=exact, base="exact")
    client.append("golden", "copied", _weights(1100, seed=9).astype(ml_dtypes.bfloat16))
    sought, edited_chunks._PAYLOADS_SOUGHT = edited_chunks._PAYLOADS_SOUGHT, 1
    client.write("golden", "copied", np.s_[5:6], first[:1])
    edited_chunks._PAYLOADS_SOUGHT = sought
    client.delete("first", ["0", "1", "wide"])
    client.delete_dataset("first")


def _stepped(values: np.ndarray[Any, Any], seed: int) -> np.ndarray[Any, Any]:
    """Return values whose last bits differ in places, as those of a training's next step do."""
    words = values.view(f"<u{values.itemsize}")
    steps = np.random.default_rng(seed).choice([0, 0, 0, 0, 0, 0, 1, 2], words.shape)
    stepped: np.ndarray[Any, Any] = (words + steps.astype(words.dtype)).view(values.dtype)
    return stepped


def _weights(rows: int, seed: int = 1) -> np.ndarray[Any, Any]:
    return (np.random.default_rng(seed).standard_normal((rows, 64)) * 0.02).astype(np.float32)


def write(name: str) -> None:
    """Write the store, unless it exists."""
    folder = _FOLDER / name
    if folder.exists():
        raise SystemExit(f"{folder} exists: golden stores are never written anew")
    with tempfile.TemporaryDirectory() as scratch:
        store = Path(scratch) / "store"
        expected = {}
        with tensorus.open(store) as client:
            client.create_dataset("golden", policy=Policy("balanced"))
            if name == "bases":
                insert_with_bases(client)
            else:
                client.insert_many("golden", tensors())
                client.insert_many("golden", [NewTensor(np.arange(40_000), "gone")])
                client.delete("golden", ["gone"])
                edit(client)
            for found in client.query("golden", as_="numpy"):
                expected[found.info.id] = {
                    "dtype": found.info.dtype,
                    "shape": list(found.info.shape),
                    "metadata": found.info.metadata,
                    "value_checksum": found.info.value_checksum,
                    "relative_error": found.info.relative_error,
                }
        folder.mkdir(parents=True)
        for path in sorted(store.rglob("*")):
            # Locks, empty folders and reserved space are made again when the store is opened.
            if path.is_file() and path.stat().st_size > 1 and path.name != "spare":
                target = folder / "store" / path.relative_to(store)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
    (folder / "expected.json").write_text(json.dumps(expected, indent=2) + "\n")


if __name__ == "__main__":
    write(sys.argv[1])
