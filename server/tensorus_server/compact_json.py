"""JSON as the catalogue keeps it. Metadata are measured as the same JSON, so that they are serialized only once."""

from __future__ import annotations

from tensorus_protos.rules import to_json

__all__ = ["to_json"]
