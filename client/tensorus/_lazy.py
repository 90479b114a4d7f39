"""Frozen dataclasses some of whose fields are worked out when one of them is first asked for.

A read of many small tensors brings a description of each, with two dozen fields, and whoever reads is mostly after the values:
working all of them out would take longer than anything else that the client does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LazyFields"]

_REST = "_rest"


class LazyFields:
    """Base of a frozen dataclass. An object made by `lazily` cannot be told from one made by the constructor."""

    @classmethod
    def lazily(cls, known: dict[str, Any], rest: Callable[[], dict[str, Any]]) -> Self:
        """Return an object of which some fields are known; `rest` returns all others, and must not fail."""
        made = object.__new__(cls)
        made.__dict__.update(known)
        made.__dict__[_REST] = rest
        return made

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields, for pickles and copies."""
        self._settle()
        return self.__dict__.copy()

    def _settle(self) -> None:
        """Work out the rest. In two threads at once, both do, and find the same."""
        rest = self.__dict__.get(_REST)
        if rest is not None:
            self.__dict__.update(rest())
            self.__dict__.pop(_REST, None)

    if not TYPE_CHECKING:  # with it, every misspelt field would pass for one

        def __getattr__(self, name: str) -> Any:
            """Return a field that is not there yet: Python asks here for nothing else."""
            self._settle()
            try:
                return self.__dict__[name]
            except KeyError:
                raise AttributeError(
                    f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self
                ) from None
