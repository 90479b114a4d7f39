"""The limits that server and client both check. The server lists these and its own in `tensorus_server.limits`."""

from __future__ import annotations

__all__ = [
    "ID_BYTES_MAX",
    "METADATA_BYTES_MAX",
    "METADATA_DEPTH_MAX",
    "METADATA_KEY_BYTES_MAX",
    "RANK_MAX",
    "SNAPSHOT_NAME_BYTES_MAX",
]

RANK_MAX = 32
"""Dimensions. NumPy allowed 32 until version 2, and nobody has asked for more."""

ID_BYTES_MAX = 512
"""UTF-8 bytes of a tensor's id: the longest parameter names of large models have about 150."""

SNAPSHOT_NAME_BYTES_MAX = 128
"""UTF-8 bytes of a snapshot's name: enough for a sentence, and short enough for a message to list a few of them."""

METADATA_BYTES_MAX = 64 * 1024
"""UTF-8 bytes of one tensor's metadata as compact JSON. Larger values can be stored as tensors."""

METADATA_DEPTH_MAX = 16
"""Nested lists and maps. Far from the protobuf runtime's own limit of 100, which it reports as a broken message."""

METADATA_KEY_BYTES_MAX = 1024
"""UTF-8 bytes of a key as filters name it, with nested keys joined. The limit keeps index entries small."""
