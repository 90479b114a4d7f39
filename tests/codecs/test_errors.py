"""The tree of errors is the one that is drawn."""

from __future__ import annotations

import re

from support.cases import each
from tensorus_codecs import errors

_DRAWN = re.findall(r"^[├└]── (\w+) ", errors.__doc__, re.MULTILINE)
_DAMAGE = re.findall(r"^│   [├└]── (\w+) ", errors.__doc__, re.MULTILINE)


def test_the_drawing_has_every_error() -> None:
    assert {*_DRAWN, *_DAMAGE, "CodecError"} == set(errors.__all__)


@each("name", [name for name in _DRAWN if name != "UnknownCodecNumberError"])
def test_every_error_of_the_first_level_but_one_is_a_kind_of_codec_error_alone(name: str) -> None:
    assert getattr(errors, name).__bases__ == (errors.CodecError,)


@each("name", _DAMAGE)
def test_every_error_of_the_second_level_is_a_kind_of_damage(name: str) -> None:
    assert getattr(errors, name).__bases__ == (errors.CorruptChunkError,)


def test_an_unknown_number_is_a_missing_codec_and_perhaps_damage() -> None:
    bases = (errors.UnsupportedCodecError, errors.CorruptChunkError)
    assert errors.UnknownCodecNumberError.__bases__ == bases


def test_codec_error_is_an_exception_of_its_own() -> None:
    assert errors.CodecError.__bases__ == (Exception,)
