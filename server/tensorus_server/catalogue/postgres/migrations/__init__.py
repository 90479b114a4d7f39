"""The migrations of the catalogue in PostgreSQL, as numbered files of SQL."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["migrations"]


@cache
def migrations() -> Mapping[int, str]:
    """Return the migrations by version: forward only, all in one transaction when the catalogue is opened."""
    files = resources.files(__name__).iterdir()
    return {int(file.name[:4]): file.read_text() for file in files if file.name.endswith(".sql")}
