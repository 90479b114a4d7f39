"""Stores that a command names in one argument."""

from __future__ import annotations

from support.cases import each
from tensorus.cli._places import place_of


@each("password", ["secret", "se/cret", "se@cret", "s:e/c@ret"])
def test_a_password_is_not_shown(password: str) -> None:
    place = place_of(f"postgresql://user:{password}@host/db?sslpassword={password},s3://bucket/prefix?region=x")
    assert str(place) == "postgresql://user@host/db,s3://bucket/prefix"
