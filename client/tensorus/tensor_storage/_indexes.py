"""Indexes as Tensorus 0.1 had them: names for what the catalogue does anyway, which indexes every field of every record."""

from __future__ import annotations

import threading
from dataclasses import dataclass

__all__ = ["Index", "Indexes"]

_TYPES = ("hash", "range")


@dataclass(frozen=True)
class Index:
    """A named index."""

    field_name: str
    index_type: str


class Indexes:
    """The indexes that were named in this object. Safe in many threads."""

    def __init__(self) -> None:
        """None."""
        self._indexes: dict[str, dict[str, Index]] = {}
        self._lock = threading.Lock()

    def create(self, dataset: str, index_name: str, field_name: str, index_type: str) -> bool:
        """Return whether there is now an index of this name: not where another one has it.

        Raises:
            ValueError: there is no such type.
            TypeError: a name is no text.
        """
        if index_type not in _TYPES:
            raise ValueError(f"index_type is {index_type!r}, must be one of {', '.join(_TYPES)}")
        for what, name in (("index_name", index_name), ("field_name", field_name)):
            if not isinstance(name, str):
                raise TypeError(f"{what} is a {type(name).__name__}, must be a str")
        index = Index(field_name, index_type)
        with self._lock:
            return self._indexes.setdefault(dataset, {}).setdefault(index_name, index) == index

    def of(self, dataset: str) -> dict[str, Index]:
        """Return a dataset's indexes by name."""
        with self._lock:
            return dict(self._indexes.get(dataset, {}))

    def drop(self, dataset: str) -> None:
        """Forget those of a dataset that is deleted."""
        with self._lock:
            self._indexes.pop(dataset, None)
