"""What can go wrong in `tensorus.compression`. Bad arguments are ValueError or TypeError, a missing library is ImportError.

TensorusError
├── CompressionError      bytes that no compressor made, or a tensor that cannot be compressed
└── QuantizationError     a tensor that cannot be quantized so, or parameters that do not belong to it

Both have a `reason`, as every error of Tensorus has.
"""

from __future__ import annotations

from tensorus.errors import TensorusError

__all__ = ["CompressionError", "QuantizationError"]


class CompressionError(TensorusError):
    """A tensor cannot be compressed, or bytes are not what they should be; the message names what and where."""


class QuantizationError(TensorusError):
    """A tensor cannot be quantized, or its codes cannot be read; the message names the dtype, the value or the parameter."""
