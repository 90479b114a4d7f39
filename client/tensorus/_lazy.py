"""Frozen dataclasses that compute some of their fields on first access.

A read of many small tensors returns a description of each, with two dozen fields. Most readers only want the values, and
computing all fields would take longer than anything else that the client does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LazyFields"]

_REST = "_rest"


class LazyFields:
    """Base of a frozen dataclass. Objects made by `lazily` and by the constructor are indistinguishable."""

    @classmethod
    def lazily(cls, known: dict[str, Any], rest: Callable[[], dict[str, Any]]) -> Self:
        """Return an object with the fields `known`; `rest` returns all others when needed, and must not fail."""
        made = object.__new__(cls)
        made.__dict__.update(known)
        made.__dict__[_REST] = rest
        return made

    def __getstate__(self) -> dict[str, Any]:
        """Return all fields, for pickling and copying."""
        self._settle()
        return self.__dict__.copy()

    def _settle(self) -> None:
        """Compute the remaining fields. Two threads may both do this; they get the same result."""
        rest = self.__dict__.get(_REST)
        if rest is not None:
            self.__dict__.update(rest())
            self.__dict__.pop(_REST, None)

    if not TYPE_CHECKING:  # hidden from type checkers, which would otherwise accept every misspelt field

        def __getattr__(self, name: str) -> Any:
            """Return a field that is not computed yet. Python calls this only for missing attributes."""
            self._settle()
            try:
                return self.__dict__[name]
            except KeyError:
                raise AttributeError(
                    f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self
                ) from None
