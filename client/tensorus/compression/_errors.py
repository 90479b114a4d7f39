"""The errors of `tensorus.compression`. Bad arguments raise ValueError or TypeError, a missing library raises ImportError.

TensorusError
├── CompressionError      bytes are invalid, or a tensor cannot be compressed
└── QuantizationError     a tensor cannot be quantized, or parameters do not fit the codes

Both have a `reason`, like every error of Tensorus.
"""

from __future__ import annotations

from tensorus.errors import TensorusError

__all__ = ["CompressionError", "QuantizationError"]


class CompressionError(TensorusError):
    """A tensor cannot be compressed, or compressed bytes are invalid. The message names the fault and its position."""


class QuantizationError(TensorusError):
    """A tensor cannot be quantized, or its codes cannot be read. The message names the dtype, value or parameter."""
