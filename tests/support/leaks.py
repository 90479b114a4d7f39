"""Looks for what must not have been written down."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

__all__ = ["assert_in_no_file"]


def assert_in_no_file(secret: str, places: Iterable[Path], *texts: str) -> None:
    """Assert that a text occurs neither in the files of these folders, in these files, nor in these texts.

    It is looked for as it is, and as JSON and UTF-16 would have it.
    """
    forms = {secret.encode(), secret.encode("utf-16-le"), secret.encode("unicode_escape")}
    assert all(forms)
    for text in texts:
        assert not any(form in text.encode(errors="backslashreplace") for form in forms), "in a text"
    files = [file for place in places for file in (place.rglob("*") if place.is_dir() else [place]) if file.is_file()]
    assert files, "there is no file to look into"
    for file in files:
        found = file.read_bytes()
        assert not any(form in found for form in forms), file
