"""What can go wrong in a codec.

CodecError
├── UnsupportedCodecError     a codec that is not registered, or whose library is not installed
├── InvalidPolicyError        a policy, an encoding or a codec's configuration that cannot be followed
├── UnsupportedDTypeError     a dtype that is not in the table
├── TooManyExceptionsError    a quantizer met too many values that it cannot code; the pipeline then stays lossless
├── CorruptChunkError         bytes that are not what an encoder wrote
└── UnknownCodecNumberError   a third party's number that no installed package has; an UnsupportedCodecError and, since the
                              number may be damage as well, a CorruptChunkError
"""

from __future__ import annotations

__all__ = [
    "CodecError",
    "CorruptChunkError",
    "InvalidPolicyError",
    "TooManyExceptionsError",
    "UnknownCodecNumberError",
    "UnsupportedCodecError",
    "UnsupportedDTypeError",
]


class CodecError(Exception):
    """Base of every error of this package."""


class UnsupportedCodecError(CodecError):
    """A codec is unknown here; the message names it and what would bring it."""


class InvalidPolicyError(CodecError):
    """A policy cannot be followed; the message names the key, the value and what is allowed."""


class UnsupportedDTypeError(CodecError):
    """A dtype is unknown here; the message names it."""


class TooManyExceptionsError(CodecError):
    """More values than allowed fall outside what the quantizer can code; the message names both numbers."""


class CorruptChunkError(CodecError):
    """A chunk record breaks a rule of its format; the message names the field, the value and the rule."""


class UnknownCodecNumberError(UnsupportedCodecError, CorruptChunkError):
    """A chunk record names a third party's codec by a number that is unknown here; the message names kind and number."""
