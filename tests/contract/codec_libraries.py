"""A codec whose library is not installed, on a machine where it is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tensorus_codecs.plan import plan
from tensorus_codecs.registry import codec_class

LIBRARIES = {
    "blosc_lz4": "numcodecs",
    "brotli": "brotli",
    "lz4": "lz4.block",
    "pcodec": "pcodec",
    "zstd": "compression" if sys.version_info >= (3, 14) else "backports",
}
"""What the module of each codec imports."""

EXTRAS = {"blosc_lz4": "codecs", "brotli": "archive", "lz4": "codecs", "pcodec": "archive", "zstd": "codecs"}
"""Which extra brings it."""


@contextmanager
def hidden_library(codec_id: str) -> Iterator[None]:
    """Make importing the library of `codec_id` fail."""
    module = codec_class(codec_id).__module__
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, module)
        patch.setitem(sys.modules, LIBRARIES[codec_id], None)
        # Plans are remembered: those made with the library must not be found now, nor those made without it later.
        plan.cache_clear()
        try:
            yield
        finally:
            plan.cache_clear()
