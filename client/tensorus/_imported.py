"""Tells whether imported values were already lossy, by `import_status` in a record's `compression_metadata`.

The store measures errors against the values that it receives. For a record imported from Tensorus 0.1, these may have been
lossy before, so code that shows an error must check here first. This needs neither the importer nor a store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensorus.types import Metadata

__all__ = ["LOST_BEFORE_IMPORT", "lost_before_import"]

_ASKED_KEYS = frozenset({"compression", "quantization"})
"""The keys that `TensorStorage` stores in `compression_metadata`; other keys are from Tensorus 0.1."""

LOST_BEFORE_IMPORT = (
    'compression_metadata.import_status = "lossy" OR (compression_metadata.original_size EXISTS AND '
    'compression_metadata.quantization != "none" AND NOT compression_metadata.import_status EXISTS)'
)
"""The same as a filter: Tensorus 0.1 wrote `original_size` for every compressed record."""


def lost_before_import(metadata: Metadata) -> bool:
    """Return whether a tensor was, or may have been, lossy before it was imported.

    It may have been if an earlier version of this package imported it as a quantized record, without `import_status`.
    """
    described = metadata.get("compression_metadata")
    if not isinstance(described, dict):
        return False
    if "import_status" in described:
        return bool(described["import_status"] == "lossy")
    return described.get("quantization", "none") != "none" and not _ASKED_KEYS.issuperset(described)
