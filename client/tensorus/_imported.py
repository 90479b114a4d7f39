"""What an import stores beside a record of Tensorus 0.1 about its values: `import_status` in its `compression_metadata`.

The store measures errors against what it was given. Of an imported record these were the values that Tensorus 0.1 had left, so
whoever shows an error asks here first. This module is not part of `old_files`: records are shown far more often than imported,
and showing one needs no reader of old files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensorus.types import Metadata

__all__ = ["lost_before_import"]

_ASKED_KEYS = frozenset({"compression", "quantization"})
"""All that `TensorStorage` stores in `compression_metadata`; more of it is what Tensorus 0.1 wrote."""


def lost_before_import(metadata: Metadata) -> bool:
    """Return whether something of a tensor's values was lost before it was imported, or may have been.

    It may have been in quantized records that an earlier version of this package imported, which did not say.
    """
    described = metadata.get("compression_metadata")
    if not isinstance(described, dict):
        return False
    if "import_status" in described:
        return bool(described["import_status"] == "lossy")
    return described.get("quantization", "none") != "none" and not _ASKED_KEYS.issuperset(described)
