"""The errors of this package.

CodecError
├── UnsupportedCodecError     the codec is not registered, or its library is not installed
├── InvalidPolicyError        a policy, an encoding or a codec's configuration is invalid
├── UnsupportedDTypeError     the dtype is not in the table
├── TooManyExceptionsError    a quantizer cannot encode too many of the values; the pipeline stores the chunk losslessly
├── CorruptChunkError         no encoder wrote these bytes
│   ├── BaseMissingError      the chunk was encoded against a base, and none was given
│   └── BaseMismatchError     the chunk was encoded against another base than the one given
└── UnknownCodecNumberError   no installed package has this third-party number; both an UnsupportedCodecError and, because
                              the number may be damaged, a CorruptChunkError
"""

from __future__ import annotations

__all__ = [
    "BaseMismatchError",
    "BaseMissingError",
    "CodecError",
    "CorruptChunkError",
    "InvalidPolicyError",
    "TooManyExceptionsError",
    "UnknownCodecNumberError",
    "UnsupportedCodecError",
    "UnsupportedDTypeError",
]


class CodecError(Exception):
    """Base class of all errors of this package."""


class UnsupportedCodecError(CodecError):
    """The codec is not available; the message names it and says how to get it."""


class InvalidPolicyError(CodecError):
    """The policy is invalid; the message names the key, its value and the allowed values."""


class UnsupportedDTypeError(CodecError):
    """The dtype is unknown; the message names it."""


class TooManyExceptionsError(CodecError):
    """Too many values are outside the range of the quantizer; the message names their number and the limit."""


class CorruptChunkError(CodecError):
    """A chunk record breaks a rule of its format; the message names the field, the value and the rule."""


class BaseMissingError(CorruptChunkError):
    """Decoding needs the base that the chunk was encoded against; the message names the base's digest."""


class BaseMismatchError(CorruptChunkError):
    """A base is not the one that the chunk was encoded against; the message names what differs: length, dtype or digest."""


class UnknownCodecNumberError(UnsupportedCodecError, CorruptChunkError):
    """A chunk record has a third-party codec number that no installed package uses; the message names kind and number."""
