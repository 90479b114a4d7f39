"""The tree of errors is the one that is drawn."""

from __future__ import annotations

import re

import pytest

from tensorus_codecs import errors

_DRAWN = re.findall(r"^[├└]── (\w+) ", errors.__doc__, re.MULTILINE)


def test_the_drawing_has_every_error() -> None:
    assert {*_DRAWN, "CodecError"} == set(errors.__all__)


@pytest.mark.parametrize("name", _DRAWN)
def test_every_error_is_a_leaf_of_codec_error(name: str) -> None:
    assert getattr(errors, name).__bases__ == (errors.CodecError,)


def test_codec_error_is_an_exception_of_its_own() -> None:
    assert errors.CodecError.__bases__ == (Exception,)
